"""The live page: what it says of runs, that it shows them as they grow, and nothing else to nobody else."""

import json
import os
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from PIL import Image

from ganbench import records
from ganbench.report.live import AT_WORK, LivePage, snapshot


def write_run(place, *, kimg=2.0, of=8.0, status="ok", seconds=10.0):
    (place / "grids").mkdir(parents=True, exist_ok=True)
    (place / "checkpoints" / "images-000000002000").mkdir(parents=True, exist_ok=True)
    config = {"run": place.name, "family": "dcgan", "preset": "laptop", "seed": 0,
              "dataset": {"name": "digits", "side": 32}, "training": {"kimg": of, "steps": None, "seconds": None}}
    (place / "config.json").write_text(json.dumps(config))
    lines = [{"step": i, "images": 500 * i, "kimg": i / 2, "seconds": seconds * i / (2 * kimg), "loss": 3.0 / i}
             for i in range(1, int(2 * kimg) + 1)]
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 99, "ima')
    records.append(place / "results.csv", [{"run": place.name, "origin": "ganbench", "metric": "swd", "level": "avg",
                                            "kimg": kimg, "value": 40.0 - kimg, "status": status}])
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, :, 1] = 200
    Image.fromarray(picture).save(place / "grids" / f"kimg-{kimg:010.3f}.png")


def test_what_is_said_of_a_run(tmp_path):
    write_run(tmp_path / "suite" / "a")
    [run] = snapshot([tmp_path])
    assert (run["name"], run["state"], run["kimg"], run["fraction"]) == ("a", "training", 2.0, 0.25)
    assert run["left"] == pytest.approx(30.0) and run["images_per_second"] == pytest.approx(200.0)
    assert run["curves"]["swd avg"] == [[2.0, 38.0]] and run["curves"]["loss"][-1] == [2.0, 0.75]
    assert run["grid"] is not None and run["problem"] == ""


def test_states_and_order(tmp_path):
    for name, arguments in (("done", {"kimg": 8.0}), ("lost", {"status": "diverged"}), ("old", {}), ("hurt", {})):
        write_run(tmp_path / name, **arguments)
    before = time.time() - 2 * AT_WORK
    os.utime(tmp_path / "old" / "metrics.jsonl", (before, before))
    (tmp_path / "hurt" / "config.json").write_text("{")
    runs = snapshot([tmp_path])
    assert {run["name"]: run["state"] for run in runs} == {"done": "done", "lost": "diverged", "old": "stopped",
                                                            "hurt": "damaged"}
    assert runs[-1]["name"] == "old" and "damaged" in next(r for r in runs if r["name"] == "hurt")["problem"]


def test_a_config_of_something_else_is_no_run(tmp_path):
    write_run(tmp_path / "a")
    others = ('{"name": "vite"}', "[1, 2]", "plain text", '"deep"', "")
    for index, text in enumerate(others):
        for place in (tmp_path / f"notes{index}", tmp_path / "deep" / str(index)):
            place.mkdir(parents=True)
            (place / "config.json").write_text(text)
    assert [run["name"] for run in snapshot([tmp_path])] == ["a"]


@pytest.mark.parametrize("file, change", [
    ("config.json", ('{"run"', '["run"')), ("config.json", ('"steps": null', '"steps": []')),
    ("config.json", ('"training": {', '"training": null, "x": {')), ("config.json", ("dcgan", "\udcff")),
    ("metrics.jsonl", ('"seconds": 2.5', '"seconds": NaN')), ("metrics.jsonl", ('"loss": 0.75', '"loss": NaN')),
    ("metrics.jsonl", ('{"step": 4', '[{"step": 4')), ("metrics.jsonl", ('"kimg": 2.0', '"kimg": 1' + "0" * 400)),
    ("metrics.jsonl", ('"images": 2000', '"images": "many"')), ("results.csv", (",2.0,", ",nan,"))])
def test_a_damaged_run_is_shown_as_such_beside_the_others(tmp_path, file, change):
    for name in "ab":
        write_run(tmp_path / name)
    path = tmp_path / "a" / file
    before = path.read_text()
    path.write_bytes(before.replace(*change).encode(errors="surrogateescape"))
    assert path.read_bytes() != before.encode()
    runs = json.loads(json.dumps(snapshot([tmp_path]), allow_nan=False))
    assert {run["name"] for run in runs} == {"a", "b"} and next(r for r in runs if r["name"] == "b")["problem"] == ""


@pytest.fixture
def server(tmp_path):
    write_run(tmp_path / "runs" / "a")
    (tmp_path / "secret.png").write_bytes(b"secret")
    with LivePage([tmp_path / "runs"], [tmp_path / "runs" / "a" / "results.csv"], 0) as page:
        thread = threading.Thread(target=page.serve_forever, daemon=True)
        thread.start()
        yield page
        page.shutdown()
        thread.join()


def get(server, path, **headers):
    request = urllib.request.Request(server.address.rstrip("/") + path, headers=headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
        return answer.read()


def test_only_what_is_on_the_page_is_served_and_only_to_this_machine(server, tmp_path):
    [run] = json.loads(get(server, "/runs.json"))
    assert get(server, f"/grid/{run['path']}").startswith(b"\x89PNG")
    for path in ("/grid/../secret.png", f"/grid/{tmp_path}", "/live.py", "/%2e%2e/secret.png"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(server, path)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        get(server, "/runs.json", Host="elsewhere.example")
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or chrome on this machine")
@pytest.mark.parametrize("width, dark", [(1400, False), (390, True)])
def test_the_page_follows_a_run_by_itself(server, tmp_path, width, dark):
    with Browser(tmp_path / "profile") as browser:
        browser.screen(width, 900, dark=dark)
        browser.call("Page.navigate", url=server.address)

        def wait_for(expression):
            end = time.monotonic() + 90
            while not browser.evaluate(expression):
                assert time.monotonic() < end, expression
                time.sleep(0.1)

        wait_for("document.querySelectorAll('.live').length == 1 && "
                 "document.querySelector('.live img').naturalWidth == 64")
        said = browser.evaluate("document.querySelector('.live').innerText")
        assert "training" in said and "2.0 kimg" in said and "00:00:30 left" in said
        assert browser.evaluate("document.getElementById('curve').value") == "swd avg"
        assert browser.evaluate("document.querySelector('.live progress').value") == 0.25
        assert browser.evaluate("document.querySelector('circle title').textContent") == "38.00 at 2 kimg"
        write_run(tmp_path / "runs" / "a", kimg=4.0)
        wait_for("document.querySelector('.live').innerText.includes('4.0 kimg')")
        assert browser.evaluate("document.querySelectorAll('.live circle').length") == 2
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth") and browser.errors == []
        if folder := os.environ.get("GANBENCH_TEST_PICTURES"):
            Image.fromarray(browser.picture()).save(Path(folder) / f"live-{width}.png")
