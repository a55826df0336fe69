"""The page: everything is in it, nothing is fetched, it sorts, and a real browser has nothing to complain about."""

import functools
import http.server
import json
import os
import re
import subprocess
import threading
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, Browser
from PIL import Image

from ganbench import records
from ganbench.errors import UserError
from ganbench.report import plots
from ganbench.report.comparison import build_table
from ganbench.report.html import picture, render
from ganbench.report.plots import Axis, Series

BASE = {"origin": "ganbench", "preset": "paper", "config_hash": "c1", "dataset": "digits", "split": "train", "side": 32,
        "channels": 1, "data_hash": "d1", "protocol": "v1", "n_real": 100, "n_fake": 100, "higher_is_better": False,
        "status": "ok", "eval_seed": 0, "date": "2026-01-01T00:00:00+00:00", "device": "a small machine",
        "versions": "python=3", "git_commit": "abc123", "git_dirty": True, "precision": "fp32"}
ENDS = {"alpha": 30.0, "beta": 10.0, "gamma": 20.0}


def _rows() -> list[dict[str, Any]]:
    rows = [BASE | {"run": "floor", "origin": "reference", "family": "floor & reals", "preset": "", "metric": "swd",
                    "level": level, "value": 2.0} for level in ("32", "16", "avg")]
    for number, (family, end) in enumerate(ENDS.items(), start=1):
        for seed in range(3):
            for kimg in (10.0, 20.0, 30.0):
                value = end + 60 / kimg + 0.2 * seed * (-1) ** seed
                shared = BASE | {"run": f"{family}-s{seed}", "family": family, "seed": seed, "kimg": kimg,
                                 "seconds": kimg * number, "params_g": 1_000_000 * number,
                                 "flops_g": 10 ** number, "flops_train": 10 ** (9 - number)}
                rows += [shared | {"metric": "swd", "level": level, "value": value * factor,
                                   "ci_low": value * factor - 0.5,
                                   "ci_high": value * factor + 0.5, "ci_method": "t"}
                         for level, factor in (("32", 1.2), ("16", 0.8), ("avg", 1.0))]
    rows.append(BASE | {"run": "alpha-s3", "family": "alpha", "seed": 3, "kimg": 12.0, "status": "diverged",
                        "reason": "loss <not finite>", "higher_is_better": None})
    rows.append(BASE | {"run": "p1", "origin": "published", "family": "delta", "metric": "swd", "level": "avg",
                        "value": 4.5,
                        "source": "D et al. 2017", "note": "recalled, not re-read", "data_hash": ""})
    return rows


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    records.append(tmp_path / "results.csv", _rows())
    return records.load_results(tmp_path / "results.csv")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Folders of some runs: directly in a root, and in a suite's folder there."""
    root = tmp_path / "runs"
    for name in ("alpha-s0", "suite/beta-s1"):
        folder = root / name
        (folder / "grids").mkdir(parents=True)
        for kimg in (0, 30):
            Image.fromarray(np.full((20, 20, 3), 7 * kimg, np.uint8)).save(folder / "grids" / f"kimg-{kimg:010.3f}.png")
        options = {"family": folder.name[:-3], "dataset": "digits", "kimg": 30.0, "seed": int(name[-1]),
                   "metrics": ["swd"],
                   "overrides": {"width": 8}, "n_eval": 100}
        config = {"run": folder.name, "preset": "paper", "options": options, "dataset": {"side": 32}}
        (folder / "config.json").write_text(json.dumps(config))
        lines = [{"step": i, "images": 1000 * i, "kimg": float(i), "seconds": float(i), "k": i / 30,
                  "m_global": 1 / (i + 1),
                  "ratio": 0.5, "d_loss": "nan", "m_smooth": 5.0 - i / 10} for i in range(30)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 30, "im')
    Image.new("RGB", (2500, 50), "red").save(root / "alpha-s0" / "growth.png")
    return root


class _Page(HTMLParser):
    """Addresses the page refers to, tags left open, and texts by tag."""

    VOID = {"meta", "link", "img", "br", "input"}

    def __init__(self, text: str):
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.addresses += [v for k, v in attributes if k in ("src", "href", "action", "data", "poster", "srcset") and v]
        self.ids += [i for i in [found.get("id")] if i]
        if tag == "img":
            self.images.append(found)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()


def test_page_is_well_formed_and_refers_to_nothing_outside(frame: pd.DataFrame, runs: Path) -> None:
    text = render(frame, roots=[runs])
    page = _Page(text)
    assert not page.open
    assert all(a.startswith(("data:", "#")) for a in page.addresses)
    assert len(page.ids) == len(set(page.ids))
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids)
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    assert style and "url(" not in style[1] and "@import" not in style[1] and "prefers-color-scheme: dark" in style[1]
    assert "Content-Security-Policy" in text and "default-src 'none'" in text


def test_texts_from_results_are_escaped(frame: pd.DataFrame) -> None:
    text = render(frame, title="<b>bold</b>")
    assert "<b>bold" not in text and "&lt;b&gt;bold" in text
    assert "floor &amp; reals" in text and "<not finite>" not in text


def test_page_says_no_more_than_the_tests_allow(frame: pd.DataFrame) -> None:
    text = render(frame)
    assert "swd avg: beta (paper) leads with" in text and "is better than every other entry, by a factor of" in text
    close = frame[frame["family"] == "beta"].copy()
    close["family"], close["run"] = "beta2", close["run"].map(lambda r: r + "x")
    close["value"] += 0.001 * close["seed"].astype(float)
    text = render(pd.concat([frame, close]))
    assert "is not distinguishable from beta2 (paper)" in text


def test_samples_growth_and_equilibrium_come_from_the_runs_folders(frame: pd.DataFrame, runs: Path) -> None:
    text = render(frame, roots=[runs])
    page = _Page(text)
    assert [i["alt"] for i in page.images] == [
        "beta (paper): generated images", "beta (paper): generated images", "alpha (paper): generated images",
        "alpha (paper): generated images", "alpha (paper): growth"]
    assert page.images[4]["width"] == "1100"  # shrunk from 2500
    assert page.images[0]["width"] == "540"  # 20, enlarged by a whole factor
    assert ["hidden" in image for image in page.images[:4]] == [True, False, True, False]  # the last grid is shown
    assert 'alpha (paper), alpha-s0, <span class="when">30</span> kimg' in text
    for name in ("k", "m_global", "ratio"):
        assert f"beta (paper): {name}" in text
    assert "m, smoothed" in text
    without = render(frame)
    assert "<img" not in without and "Equilibrium" not in without


def test_recipes_use_the_runs_own_options_where_they_are_known(frame: pd.DataFrame, runs: Path) -> None:
    text = render(frame, roots=[runs])
    assert ("ganbench run alpha --dataset digits --preset paper --side 32 --seed 0 --kimg 30 --n-eval 100 --metric swd "
            "--set width=8") in text
    assert ("ganbench run gamma --dataset digits --preset paper --side 32 --channels 1 --split train --seed 2 --kimg 30"
            ) in text
    assert "git checkout abc123; the code had uncommitted changes" in text


def test_a_cut_picture_and_a_damaged_log_are_named(frame: pd.DataFrame, runs: Path) -> None:
    grid = runs / "alpha-s0" / "grids" / "kimg-000030.000.png"
    whole = grid.read_bytes()
    grid.write_bytes(whole[:40])
    with pytest.raises(UserError, match=r"cannot read the picture .*kimg-000030"):
        render(frame, roots=[runs])
    grid.write_bytes(whole)
    log = runs / "alpha-s0" / "metrics.jsonl"
    log.write_text("not json\n" + log.read_text())
    with pytest.raises(UserError, match=r"metrics\.jsonl line 1 is damaged"):
        render(frame, roots=[runs])


def test_only_literature_gives_a_page_too(frame: pd.DataFrame) -> None:
    text = render(frame[frame["origin"] == "published"])
    assert "nothing measured here" in text and "D et al. 2017" in text


def test_failed_runs_alone_give_a_page_with_their_reasons(frame: pd.DataFrame) -> None:
    text = render(frame[frame["status"] == "diverged"])
    assert "only runs that failed" in text and "<li>alpha-s3: diverged: loss &lt;not finite&gt;</li>" in text
    assert "<li>alpha-s3: diverged" in render(frame)
    _Page(text)


def test_one_run_with_one_evaluation_gives_a_page(tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    records.append(path, [BASE | {"run": "r", "family": "a", "seed": 0, "kimg": 1.0, "metric": "novel", "value": 1.0}])
    text = render(records.load_results(path))
    assert "there is nothing to compare it with" in text
    _Page(text)


@pytest.mark.parametrize(("values", "log", "ticks"), [
    ([0.0, 100.0], False, [0, 25, 50, 75, 100]), ([1.0, 1000.0], True, [1, 10, 100, 1000]),
    ([-5.0, 500.0], False, [0, 200, 400]), ([3.0, 3.0], False, None)])
def test_axes(values: list[float], log: bool, ticks: list[float] | None) -> None:
    axis = Axis("x", values, 0, 100)
    assert axis.log is log
    assert all(axis.low <= t <= axis.high for t in axis.ticks())
    if ticks is not None:
        np.testing.assert_allclose(axis.ticks(), ticks, atol=1e-9)
    assert 0 <= axis(values[0]) <= axis(values[-1]) <= 100


def test_a_point_stands_where_its_value_says() -> None:
    axis = Axis("y", [1.0, 1000.0], 300, 0)
    margin = 1000 ** 0.04
    expected = 300 - 300 * np.log(100.0 * margin) / np.log(1000 * margin ** 2)
    assert axis(100.0) == pytest.approx(expected)
    chart = plots.line_chart([Series("s", 0, [0, 10], [5.0, 5.0])], title="t", x_label="x", y_label="y")
    heights = re.findall(r'class="line c0" d="M[\d.]+ ([\d.]+)L[\d.]+ ([\d.]+)"', chart)
    assert len(heights) == 1 and heights[0][0] == heights[0][1]


def test_more_series_than_colours_are_told_apart_by_dash_and_marker() -> None:
    keys = {plots.swatch(number) for number in range(2 * plots.COLOURS)}
    assert len(keys) == 2 * plots.COLOURS
    assert "stroke-dasharray" in plots.swatch(plots.COLOURS) and "stroke-dasharray" not in plots.swatch(0)


@pytest.mark.parametrize(("value", "span", "shown"), [
    (0.05, (6.0, 50.0), False), (2.0, (6.0, 100.0), True), (0.5, (0.6, 0.9), True), (0.1, (0.6, 0.9), False),
    (210.0, (150.0, 200.0), True), (500.0, (150.0, 200.0), False), (-1.0, (0.0, 2.0), True)])
def test_a_reference_is_drawn_only_where_it_does_not_flatten_the_rest(value: float, span: tuple[float, float],
                                                                      shown: bool) -> None:
    assert plots.nearby([("other", value)], span) == ([("other", value)] if shown else [])


def test_thinning_keeps_means_and_the_range() -> None:
    x, y = plots.thinned([float(i) for i in range(1000)], [2.0 * i for i in range(1000)], most=100)
    assert len(x) == 100 and x[0] == 4.5
    np.testing.assert_allclose(y, [2 * v for v in x])


# --- in a browser ---------------------------------------------------------------------------------------------------


class _Quiet(http.server.SimpleHTTPRequestHandler):
    asked: list[str] = []

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        super().do_GET()


def _browse(folder: Path, page: str, fragment: str = "", *more: str) -> tuple[str, list[str], list[str]]:
    """Open a page in a headless browser: its final DOM, console messages, and addresses the page asked for."""
    assert CHROMIUM is not None
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _Quiet.asked = []
    log = folder / "net.json"
    home = f"http://127.0.0.1:{server.server_port}"
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    try:
        done = subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server",
             "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={folder / 'profile'}",
             "--enable-logging=stderr", f"--log-net-log={log}", *more, "--dump-dom", f"{home}/{page}{fragment}"],
            capture_output=True, text=True, timeout=180, env=environment)
    finally:
        server.shutdown()
    text = log.read_text()
    try:
        events = json.loads(text)["events"]
    except json.JSONDecodeError:  # the browser left without closing the list
        events = json.loads(text.rstrip().rstrip(",") + "]}")["events"]
    started = [e["params"] for e in events if "url" in e.get("params", {}) and e["params"].get("initiator") == home]
    asked = [p["url"] for p in started if not p["url"].startswith("data:")]
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line], asked + _Quiet.asked


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium or chrome on this machine")


def _order(dom: str, table: str) -> list[str]:
    body = re.search(rf'id="{table}".*?<tbody class="entries">(.*?)</tbody>', dom, re.S)
    assert body
    return re.findall(r'<th scope="row">(?:<svg.*?</svg>)?([^<]*)</th>', body[1], re.S)


@needs_browser
def test_browser_sorts_without_errors_and_without_the_network(tmp_path: Path, frame: pd.DataFrame, runs: Path) -> None:
    # A click on the head of "entry", as the keyboard would make it, and a look at the table before and after.
    probe = """<script>
      const table = document.getElementById("t1-table"), names = () => Array.from(
        table.querySelectorAll("tbody.entries th"), (th) => th.textContent.trim()).join("|");
      const button = table.tHead.rows[1].cells[0].querySelector("button");
      const seen = [names()];
      button.focus(); button.click(); seen.push(names()); button.click(); seen.push(names());
      const toggle = document.querySelector("[data-toggle]"); toggle.click();
      document.body.dataset.seen = seen.join(" / ");
      document.body.dataset.focus = String(document.activeElement === button);
      document.body.dataset.off = document.querySelectorAll(".chart .off").length;
      document.body.dataset.wide = String(document.documentElement.scrollWidth > window.innerWidth);
    </script></body>"""
    text = render(frame, roots=[runs])
    (tmp_path / "page.html").write_text(text.replace("</body>", probe))
    dom, console, asked = _browse(tmp_path, "page.html", "", "--window-size=390,800")
    assert console == [] and asked == ["/page.html"]
    up, down = "alpha (paper)|beta (paper)|gamma (paper)", "gamma (paper)|beta (paper)|alpha (paper)"
    assert f'data-seen="beta (paper)|gamma (paper)|alpha (paper) / {up} / {down}"' in dom
    assert 'data-focus="true"' in dom and re.search(r'data-off="[1-9]', dom)
    assert dom.count('aria-sort="descending"><button') == 1 and 'aria-sort="ascending"><button' not in dom
    assert 'data-wide="false"' in dom  # on a phone only the tables scroll sideways, not the page


@needs_browser
def test_browser_sorts_numbers_as_numbers_from_a_link(tmp_path: Path, frame: pd.DataFrame) -> None:
    (tmp_path / "page.html").write_text(render(frame))
    dom, console, asked = _browse(tmp_path, "page.html", "#sort=t1-table,2,descending")
    assert console == [] and asked == ["/page.html"]
    assert _order(dom, "t1-table") == ["alpha (paper)", "gamma (paper)", "beta (paper)"]
    assert "Sorted by last" in dom


NAMES = 'Array.from(document.querySelectorAll("#t1-table tbody.entries th"), (th) => th.textContent.trim()).join("|")'


@needs_browser
def test_keys_alone_reach_the_heads_and_sort(tmp_path: Path, frame: pd.DataFrame) -> None:
    """Tab from the top of the page to a column's head; Enter sorts, Space turns it round, the focus stays."""
    (tmp_path / "page.html").write_text(render(frame))
    with Browser(tmp_path / "profile") as browser:
        browser.open(tmp_path / "page.html")
        assert browser.evaluate(NAMES) == "beta (paper)|gamma (paper)|alpha (paper)"
        focus = 'document.activeElement.closest("#t1-table thead") && document.activeElement.textContent'
        for _ in range(20):
            browser.press("Tab")
            if browser.evaluate(focus) == "entry":
                break
        assert browser.evaluate(focus) == "entry"
        outline = 'getComputedStyle(document.activeElement).outlineStyle'
        assert browser.evaluate(outline) == "solid"  # one sees where one is
        state = 'document.activeElement.closest("th").getAttribute("aria-sort")'
        browser.press("Enter")
        assert (browser.evaluate(NAMES), browser.evaluate(state)) == ("alpha (paper)|beta (paper)|gamma (paper)",
                                                                      "ascending")
        browser.press(" ")
        assert (browser.evaluate(NAMES), browser.evaluate(state)) == ("gamma (paper)|beta (paper)|alpha (paper)",
                                                                      "descending")
        browser.press("Tab")  # on from where we were
        browser.press("Tab")
        browser.press("Enter")
        assert browser.evaluate(NAMES) == "beta (paper)|gamma (paper)|alpha (paper)"  # by the last value
        assert browser.evaluate('document.getElementById("announce").textContent') == "Sorted by last, ascending"
        assert browser.errors == []


@needs_browser
def test_one_cost_is_shown_and_keys_choose_another(tmp_path: Path, frame: pd.DataFrame) -> None:
    (tmp_path / "page.html").write_text(render(frame))
    shown = ('Array.from(document.querySelector(".costs").querySelectorAll("[data-shows]"))'
             '.filter((p) => p.offsetHeight > 0).map((p) => p.dataset.shows).join()')
    with Browser(tmp_path / "profile") as browser:
        browser.open(tmp_path / "page.html")
        offered = browser.evaluate('Array.from(document.querySelectorAll(".costs [data-cost]"), '
                                   '(b) => b.textContent).join()')
        assert offered == "time,parameters,FLOPs to generate,FLOPs to train"  # all trained on as many images: no choice
        assert browser.evaluate(shown) == "seconds"
        browser.evaluate('document.querySelector("[data-cost=seconds]").focus()')
        for key, cost in (("Enter", "params_g"), (" ", "flops_g"), ("Enter", "flops_train")):
            browser.press("Tab")
            browser.press(key)
            assert browser.evaluate(shown) == cost
            assert browser.evaluate('document.querySelector("[data-cost][aria-pressed=true]").dataset.cost') == cost


@needs_browser
def test_the_slider_goes_back_through_training(tmp_path: Path, frame: pd.DataFrame, runs: Path) -> None:
    """Of every entry the picture made nearest to then is shown, and its caption says when that was."""
    Image.fromarray(np.full((20, 20, 3), 99, np.uint8)).save(runs / "alpha-s0" / "grids" / "kimg-000012.000.png")
    (tmp_path / "page.html").write_text(render(frame, roots=[runs]))
    with Browser(tmp_path / "profile") as browser:
        browser.open(tmp_path / "page.html")
        shown = ('Array.from(document.querySelectorAll(".samples img")).filter((i) => i.offsetParent !== null)'
                 '.map((i) => i.dataset.kimg).join(" ")')
        whens = 'Array.from(document.querySelectorAll(".samples .when")).map((w) => w.textContent).join(" ")'
        assert browser.evaluate(shown) == "30.0 30.0" and browser.evaluate(whens) == "30 30"
        wide = 'Array.from(document.querySelectorAll(".samples img:not([hidden])")).map((i) => i.clientWidth).join(" ")'
        assert browser.evaluate(wide) == "540 540"  # 27 times their own 20 pixels
        browser.evaluate('document.querySelector(".through input").focus()')
        browser.press("ArrowLeft")
        assert browser.evaluate('document.querySelector(".through output").textContent') == "12"
        assert browser.evaluate(shown) == "0.0 12.0" and browser.evaluate(whens) == "0 12"  # beta, alpha
        assert browser.errors == []


def test_levels_are_joined_where_the_metric_declares_them_sides(tmp_path: Path, frame: pd.DataFrame) -> None:
    assert "By level" in render(frame)
    other = frame.assign(metric=frame["metric"].replace("swd", "parzen"))  # its levels only look like sides
    assert "By level" not in render(other)
    assert "By level" not in render(frame.assign(metric=frame["metric"].replace("swd", "somebody_elses")))


@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_light_and_dark_on_a_phone_and_a_desk(tmp_path: Path, frame: pd.DataFrame, runs: Path, width: int,
                                              dark: bool) -> None:
    """The page follows the system's colours, its text stands out, and it never scrolls sideways."""
    (tmp_path / "page.html").write_text(render(frame, roots=[runs]))
    with Browser(tmp_path / "profile") as browser:
        browser.screen(width, 800, dark=dark)
        browser.open(tmp_path / "page.html")
        browser.evaluate('for (const d of document.querySelectorAll("details")) d.open = true')
        assert browser.evaluate("window.innerWidth") == width  # of which a desk's scroll bar takes a little
        assert browser.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        beyond = ('Array.from(document.querySelectorAll("body *")).filter((e) => e.getBoundingClientRect().right > '
                  'document.documentElement.clientWidth + 1 && !e.closest(".scroll, .contents, pre, .hidden")).length')
        assert browser.evaluate(beyond) == 0
        picture = browser.picture()
        assert picture.shape[1] == width
        light = picture.astype(float) @ [0.2126, 0.7152, 0.0722]
        background, text = (np.median(light), light.min() if not dark else light.max())
        assert (background < 60 and text > 200) if dark else (background > 240 and text < 60)
        assert browser.errors == []


@needs_browser
def test_the_browser_check_can_fail(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<!doctype html><img src='http://elsewhere.invalid/x.png'><img src='near.png'>"
                                        "<script>undefinedFunction()</script>")
    _, console, asked = _browse(tmp_path, "page.html")
    assert any("undefinedFunction" in line for line in console)
    assert any("elsewhere.invalid" in a for a in asked) and "/near.png" in asked


def test_the_small_picture_is_a_whole_svg_file_with_its_own_colours(frame: pd.DataFrame) -> None:
    import xml.etree.ElementTree as ElementTree
    text = picture(build_table(frame))
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(root.findall("{http://www.w3.org/2000/svg}svg")) == 2
    assert "--c0:" in text and "prefers-color-scheme: dark" in text and "body" not in text
    with pytest.raises(UserError, match="nothing to draw"):
        picture([])


def test_a_long_title_of_the_small_picture_is_not_cut() -> None:
    title = "fashion-mnist, 32×32, grey, split train, crop centre: precision_recall f_score"
    chart = '<svg class="chart" viewBox="0 0 460 300"></svg>'
    text = plots.side_by_side([("Last values", chart)], title=title, style=":root{} * {} /* charts */ /* pictures")
    lines = re.findall(r'y="(\d+)" font-size="16" font-weight="600">([^<]*)<', text)
    assert " ".join(line for _, line in lines) == title
    # about 10 pixels a letter in 500, and what is below moves down
    assert max(len(line) for _, line in lines) <= 50
    assert int(re.search(r'<svg x="20" y="(\d+)"', text)[1]) > int(lines[-1][0]) > int(lines[0][0])
