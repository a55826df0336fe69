"""Entries of a chart can be told apart by people who see red and green alike, in the light theme and in the dark.

Colours are simulated as Machado, Oliveira and Fernandes 2009 do at full severity, and compared by CIEDE2000 (Sharma, Wu
and Dalal 2005, whose examples it is checked by).
"""

import itertools
import math
import re
from importlib.resources import files

import numpy as np
import pytest

from ganbench.report import plots

SIGHT = {
    "normal": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]]),
}
TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                   [0.0193339, 0.1191920, 0.9503041]])


def linear(text):
    """ "#rrggbb" as linear RGB."""
    values = np.array([int(text[i:i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    t = TO_XYZ @ np.clip(rgb, 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


def ciede2000(p, q):
    (l1, a1, b1), (l2, a2, b2) = p, q
    mean = (math.hypot(a1, b1) + math.hypot(a2, b2)) / 2
    a1, a2 = (a * (1.5 - 0.5 * math.sqrt(mean ** 7 / (mean ** 7 + 25 ** 7))) for a in (a1, a2))
    c1, c2 = math.hypot(a1, b1), math.hypot(a2, b2)
    h1, h2 = (math.degrees(math.atan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180 if c1 * c2 else 0
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    hue = (h1 + h2) / 2 if abs(h1 - h2) <= 180 else (h1 + h2 + (360 if h1 + h2 < 360 else -360)) / 2
    hue = hue if c1 * c2 else h1 + h2
    t = (1 - 0.17 * math.cos(math.radians(hue - 30)) + 0.24 * math.cos(math.radians(2 * hue))
         + 0.32 * math.cos(math.radians(3 * hue + 6)) - 0.2 * math.cos(math.radians(4 * hue - 63)))
    dl = (l2 - l1) / (1 + 0.015 * (light - 50) ** 2 / math.sqrt(20 + (light - 50) ** 2))
    dc = (c2 - c1) / (1 + 0.045 * chroma)
    dh = 2 * math.sqrt(c1 * c2) * math.sin(math.radians(turn / 2)) / (1 + 0.015 * chroma * t)
    around = math.sin(math.radians(60 * math.exp(-((hue - 275) / 25) ** 2)))
    rotation = -2 * math.sqrt(chroma ** 7 / (chroma ** 7 + 25 ** 7)) * around
    return math.sqrt(dl * dl + dc * dc + dh * dh + rotation * dc * dh)


@pytest.mark.parametrize(("p", "q", "expected"), [
    ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425), ((50, 2.5, 0), (73, 25, -18), 27.1492),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082)])
def test_the_difference_is_that_of_the_published_examples(p, q, expected):
    assert ciede2000(p, q) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_two_entries_differ_in_colour_or_in_marker_and_dash(theme, sight):
    style = (files("ganbench.report") / "page.css").read_text(encoding="utf-8")
    part = style.split("prefers-color-scheme: dark")[theme == "dark"]
    colours = {int(k): linear(v) for k, v in re.findall(r"--c(\d+): (#\w{6})", part)}
    paper = linear(re.search(r"--paper: (#\w{6})", part)[1])
    assert sorted(colours) == list(range(plots.COLOURS))
    seen = {k: lab(SIGHT[sight] @ colour) for k, colour in colours.items()}
    assert min(ciede2000(seen[i], seen[j]) for i, j in itertools.combinations(seen, 2)) > 14
    # and each stands out from the page: a contrast of 3 to 1, as WCAG asks of graphics
    for colour in colours.values():
        low, high = sorted(float(TO_XYZ[1] @ c) + 0.05 for c in (colour, paper))
        assert high / low >= 3
    # entries that share a colour differ in two other ways
    for i, j in itertools.combinations(range(4 * plots.COLOURS), 2):
        if i % plots.COLOURS == j % plots.COLOURS:
            marks = [plots.swatch(k) for k in (i, j)]
            assert plots._dash(i) != plots._dash(j) and (i - j) % 5, marks
