"""The page for contributors is true: its family trains, its files exist, its order of rooms is the tested one."""

import re
from pathlib import Path

import numpy as np
import pytest
from test_rooms import RANK

import ganbench
from ganbench.commands.show import page
from ganbench.training.run_options import RunOptions
from ganbench.training.session import run

HOME = Path(__file__).resolve().parents[1]
PAGE = (HOME / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_family_on_the_page_trains_as_it_stands(tmp_path, monkeypatch):
    code, _ = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert code.count("\n") <= 70
    path = tmp_path / "tiny_gan.py"
    path.write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    outcome = run(RunOptions(str(path), preset="smoke", side=16, steps=12, n_eval=64, log_every=1, results=None,
                          quiet=True))
    assert outcome.status == "ok" and outcome.rows
    losses = [float(x) for x in re.findall(r'"critic_loss": ([\d.]+)', (outcome.path / "metrics.jsonl").read_text())]
    assert len(losses) == 12 and losses[0] == pytest.approx(2, abs=0.3) and losses[-1] < losses[0]


def test_the_metric_on_the_page_measures_as_it_stands(tmp_path):
    _, code = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    path = tmp_path / "brightness.py"
    path.write_text(code, encoding="utf-8")
    fakes, reals = (np.random.default_rng(seed).integers(0, top, (40, 8, 8), dtype=np.uint8)
                    for seed, top in ((0, 200), (1, 250)))
    found = ganbench.evaluate(fakes, reals, [str(path)], floor=False, device="cpu", brightness={"scale": 2.0})
    a, b = (2 * images.mean((1, 2)) for images in (fakes, reals))
    half = 1.96 * np.hypot(a.std(ddof=1), b.std(ddof=1)) / np.sqrt(40)
    assert found["brightness"] == pytest.approx(a.mean() - b.mean())
    assert found.intervals["brightness"] == pytest.approx((a.mean() - b.mean() - half, a.mean() - b.mean() + half))
    assert found.rows[0]["protocol"] == "brightness;scale=2"
    for text in ("# Brightness", f"`ganbench eval --metric {path}`", "`--set brightness.SETTING=VALUE`", "| `scale` |"):
        assert text in page(str(path))


def test_the_files_on_the_page_exist():
    table = PAGE.partition("| step |")[2].partition("\n\n")[0]
    for cell in [row.split("|")[3] for row in table.splitlines()[2:]]:
        folder = HOME
        for name in re.findall(r"`([^`]+)`", cell):
            path = HOME / name if "/" in name and (HOME / name).exists() else None
            path = path or (HOME / "ganbench" / name if (HOME / "ganbench" / name).exists() else folder / name)
            assert path.exists(), name
            folder = path.parent


def test_the_order_of_rooms_on_the_page_is_the_tested_one():
    (line,) = re.findall(r"Imports point one way: (.*?)\. ", PAGE.replace("\n", " "))
    rooms = [f"ganbench.{name}" for name in re.findall(r"`(\w+)`", line)]
    assert len(rooms) == 8 and [RANK[room] for room in rooms] == sorted((RANK[room] for room in rooms), reverse=True)
