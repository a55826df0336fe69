"""MS-SSIM against golden numbers, a float64 version with explicit windows, and what must hold."""

import json
from pathlib import Path

import numpy as np
import pytest
import swd_reference
import torch
from scipy import ndimage

from ganbench.errors import UserError
from ganbench.metrics.functional import ms_ssim
from ganbench.metrics.measures.ms_ssim import MSSSIM

GOLDEN = json.loads((Path(__file__).parent / "golden" / "swd_golden.json").read_text())["ms_ssim_adjacent_pairs"]


def images(n, side=32, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(128, 50, (n, channels, side // 4, side // 4)).repeat(4, -1).repeat(4, -2)
    return torch.from_numpy(np.clip(np.rint(x + rng.normal(0, 15, x.shape)), 0, 255).astype(np.uint8))


def blurred(x, window):
    low, high = len(window) // 2, x.shape[-1] - (len(window) - 1) // 2  # where the window fits
    return np.stack([ndimage.correlate(channel, window, mode="constant")[low:high, low:high] for channel in x])


def halved(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def plain(a, b):
    """One pair, (C,S,S), with SciPy's two-dimensional correlation and an explicit window."""
    a, b, product = a.astype(np.float64), b.astype(np.float64), 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        if scale:
            a, b = halved(a), halved(b)
        size = min(11, a.shape[-1])
        at = np.arange(size) - (size - 1) / 2
        window = np.exp(-(at[:, None]**2 + at[None]**2) / (2 * (1.5 * size / 11) ** 2))
        window /= window.sum()
        ma, mb = blurred(a, window), blurred(b, window)
        va, vb = blurred(a * a, window) - ma**2, blurred(b * b, window) - mb**2
        c1, c2 = 2.55**2, 7.65**2
        contrast = (2 * (blurred(a * b, window) - ma * mb) + c2) / (va + vb + c2)
        value = contrast * (2 * ma * mb + c1) / (ma**2 + mb**2 + c1) if scale == 4 else contrast
        product *= max(value.mean(), 0) ** weight
    return product


@pytest.mark.parametrize(("name", "recipe"),
                         [("A", (11, 256, 64, (40, 20, 8), 0)), ("B", (13, 256, 64, (30, 30, 8), 0.5))])
def test_golden(name, recipe):
    x = torch.from_numpy(swd_reference.octave_noise(*recipe))
    assert ms_ssim(x[::2], x[1::2]).mean().item() == pytest.approx(GOLDEN[name], abs=1e-5)


@pytest.mark.parametrize(("side", "channels"), [(16, 1), (32, 3), (128, 3), (192, 1)])
def test_equals_a_plain_version(side, channels):
    a = images(3, side, channels, 1)
    b = (a.float() * 0.6 + images(3, side, channels, 2).float() * 0.4).round().to(torch.uint8)
    found = ms_ssim(a, b)
    assert found.shape == (3,) and found.dtype == torch.float64
    np.testing.assert_allclose(found, [plain(x.numpy(), y.numpy()) for x, y in zip(a, b)], rtol=1e-9)


def test_equal_images_and_opposite_images():
    a = images(2)
    np.testing.assert_allclose(ms_ssim(a, a), 1, rtol=1e-12)
    assert (ms_ssim(a, 255 - a) == 0).all()  # structures are opposed: negative means count as 0
    np.testing.assert_allclose(ms_ssim(a, a.flip(0)), ms_ssim(a.flip(0), a), rtol=1e-12)


@pytest.mark.parametrize(("a", "b", "says"), [
    (images(2).float(), images(2).float(), "uint8"),
    (images(2), images(3), "shapes"),
    (images(2, 8), images(2, 8), "at least 16"),
])
def test_what_it_refuses(a, b, says):
    with pytest.raises(UserError, match=says):
        ms_ssim(a, b)


def test_metric_takes_adjacent_pairs_whatever_the_batches():
    x = images(11)
    metric = MSSSIM()
    for part in x.split(3):
        metric.update(part)
    metric.update(images(4, seed=9), real=True)  # reals do not count
    expected = ms_ssim(x[0:10:2], x[1:10:2])
    assert metric.compute().item() == pytest.approx(expected.mean().item(), rel=1e-12)
    score, = metric.scores()
    half = 1.959964 * expected.std().item() / 5**0.5
    assert (score.ci_low, score.ci_high) == pytest.approx((max(0, score.value - half), score.value + half), rel=1e-6)
    assert score.n_fake == 10 and not metric.needs_reals
    metric.reset()
    with pytest.raises(UserError, match="at least two"):
        metric.compute()
    metric.update(x[:3])
    assert metric.compute().item() == pytest.approx(expected[0].item())  # nothing is left of before
