"""The command line as a process: exit codes, one-line errors, and a help that does not wait for torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOY = str(Path(__file__).parent / "toy.py")


def ganbench(*arguments, **kwargs):
    return subprocess.run([sys.executable, "-m", "ganbench", *arguments], capture_output=True, text=True, timeout=300, **kwargs)


def test_help_does_not_import_torch():
    code = ("import sys; sys.argv = ['ganbench', '--help']\n"
            "from ganbench.cli import main\n"
            "try: main()\n"
            "except SystemExit as e: print(e.code, 'torch' in sys.modules, 'pandas' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("0 False False"), done.stdout[-300:] + done.stderr
    for command in ("run", "eval", "list", "report", "data", "sample", "doctor", "bench"):
        assert f" {command} " in done.stdout


@pytest.mark.parametrize("arguments, says", [
    (("run", "dcgam"), "dcgan"), (("run", "dcgan", "--set", "ngff=3"), "ngf"), (("run", "dcgan", "--set", "ngf"), "key=value"),
    (("run", "dcgan", "--dataset", "no/such/folder"), "no/such/folder"), (("resume", "no/such/run"), "no/such/run"),
    (("eval", "--run", "no/such/run"), "no/such/run"), (("report", "no.csv"), "no.csv"),
])
def test_what_the_user_can_mend_is_one_line_and_exit_code_2(elsewhere, arguments, says):
    done = ganbench(*arguments)
    assert done.returncode == 2
    lines = [line for line in done.stderr.strip().splitlines() if "no --dataset given" not in line]
    assert len(lines) == 1 and says in lines[0] and lines[0].startswith("ganbench: "), done.stderr
    assert "Traceback" not in done.stderr
    assert not (elsewhere / "results").exists()


def test_run_eval_report_in_an_empty_folder(elsewhere):
    done = ganbench("run", TOY, "--steps", "4", "--n-eval", "32")
    assert done.returncode == 0, done.stderr
    assert "digits" in done.stderr and "swd" in done.stdout.lower()
    done = ganbench("eval", "--metric", "swd", "--n", "64")
    assert done.returncode == 0, done.stderr
    done = ganbench("report", "results/results.csv")
    assert done.returncode == 0, done.stderr
    assert "toy" in done.stdout.lower()


def test_divergence_has_its_own_exit_code(elsewhere):
    assert ganbench("run", TOY, "--steps", "40", "--set", "fail_at=2").returncode == 3


def test_list_as_json():
    listed = json.loads(ganbench("list", "--json").stdout)
    assert {"dcgan", "wgan", "wgan_gp"} <= {f["name"] for f in listed["families"]}
    assert all(f["paper"] for f in listed["families"])
    assert "swd" in {m["name"] for m in listed["metrics"]}
    assert {"digits", "fashion-mnist", "celeba"} <= {d["name"] for d in listed["datasets"]}
