"""benchmarks/speed/gpu.py: what it refuses before it measures anything, and that it ends in time."""

import argparse
import importlib.util
import re
import subprocess
import time
from pathlib import Path

import pytest
import torch


@pytest.fixture
def script():
    path = Path(__file__).parent.parent / "benchmarks" / "speed" / "gpu.py"
    spec = importlib.util.spec_from_file_location("speed_gpu", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("given", "line"), [(["dcgan", "dcgam"], "--only dcgam: .*dcgan"), (["peer"], "--peer PATH")])
def test_what_cannot_be_measured_is_refused_before_the_first_minute(script, given, line, monkeypatch, capsys):
    monkeypatch.setattr(script, "timings", lambda options: pytest.fail("began to measure"))
    monkeypatch.setattr("sys.argv", ["gpu.py", "--device", "cpu", "--only", *given])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.search(line, last)


def test_a_whole_run_is_ended_when_the_minutes_are_over(script, monkeypatch):
    def run(command, timeout=None, **_):
        assert timeout is not None and timeout <= 60
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(script.subprocess, "run", run)
    options = argparse.Namespace(tiny=True, device=torch.device("cpu"), minutes=1.0, until=time.monotonic() + 60)
    assert script.attempt(lambda: script.run_row(options)) == {"note": "TimeoutError: ended: 1 minutes were over"}
