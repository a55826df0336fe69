"""The command line as a process: exit codes, one-line errors, and a help that does not wait for torch."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from ganbench import cli, records

TOY = str(Path(__file__).parent / "toy.py")


def ganbench(*arguments, **kwargs):
    return subprocess.run([sys.executable, "-m", "ganbench", *arguments], capture_output=True, text=True, timeout=300,
                          **kwargs)


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
    (("run", "dcgam"), "dcgan"), (("run", "dcgan", "--set", "ngff=3"), "ngf"),
    (("run", "dcgan", "--set", "ngf"), "key=value"),
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
    assert re.search(r"ok after \S+ of training; with pictures and scores \S+: ", done.stderr)
    done = ganbench("eval", "--metric", "swd", "--n", "64")
    assert done.returncode == 0, done.stderr
    done = ganbench("report", "results/results.csv")
    assert done.returncode == 0, done.stderr
    assert "toy" in done.stdout.lower()


def in_process(monkeypatch, capsys, *arguments):
    """The command's exit code and what it says, in this process, which has torch loaded already."""
    monkeypatch.setattr(sys, "argv", ["ganbench", *arguments])
    monkeypatch.setattr(cli, "app", typer.Typer(pretty_exceptions_enable=False))
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize("text, says", [
    ("import torch\n\nclass Mine(:\n", "{path}:3: SyntaxError: invalid syntax"),
    ("x = 1\nimport no_such_module_here\n", "{path}:2: ModuleNotFoundError: No module named 'no_such_module_here'"),
    ("def f():\n    return 1 / 0\n\nf()\n", "{path}:2: ZeroDivisionError: division by zero"),
])
def test_a_family_file_that_cannot_be_imported_is_named_with_its_line(elsewhere, monkeypatch, capsys, text, says):
    path = elsewhere / "mine.py"
    path.write_text(text)
    code, output = in_process(monkeypatch, capsys, "run", str(path), "--dataset", "digits")
    assert code == 2 and len(output.splitlines()) == 1
    assert output.startswith("ganbench: " + says.format(path=path))
    assert "ganbench_file_mine" not in sys.modules


def test_a_run_is_resumed_from_any_folder_and_after_it_was_moved(elsewhere, monkeypatch, capsys):
    """Family file, images and table given by relative paths; then called from elsewhere; then the folder moves."""
    (elsewhere / "home").mkdir()
    (elsewhere / "away").mkdir()
    monkeypatch.chdir(elsewhere / "home")
    Path("run").mkdir()
    Path("run/mine.py").write_text(Path(TOY).read_text())
    Path("photos").mkdir()
    generator = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(generator.integers(256, size=(16, 16), dtype=np.uint8)).save(f"photos/{i}.png")
    code, output = in_process(monkeypatch, capsys, "run", "run/mine.py", "--dataset", "photos", "--steps", "2",
                            "--n-eval", "16", "--out", "run", "--resume", "--results", "run/all.csv", "--device", "cpu")
    assert code == 0, output
    config = json.loads(Path("run/config.json").read_text())
    assert config["options"]["dataset"] == config["dataset"]["spec"] == str(elsewhere / "home" / "photos")
    monkeypatch.chdir(elsewhere / "away")
    code, output = in_process(monkeypatch, capsys, "resume", "../home/run", "--steps", "4", "--trust")
    assert code == 0 and "resumed at" in output
    assert max(r["step"] for r in records.read("../home/run/all.csv")) == "4" and not list(Path().iterdir())
    (elsewhere / "home" / "run").rename(elsewhere / "away" / "moved")
    code, output = in_process(monkeypatch, capsys, "resume", "moved", "--steps", "6", "--trust")
    assert code == 0 and "resumed at" in output, output
    rows = records.read("moved/all.csv")  # what lay in the run's folder, the family's file too, has come along
    assert max(r["step"] for r in rows) == "6" and not (elsewhere / "home" / "run").exists()
    runs = {(r["dataset"], r["config_hash"], r["data_hash"], r["run"]) for r in rows}
    assert len(runs) == 2  # only the folder's name
    assert len({(r["dataset"], r["config_hash"], r["data_hash"]) for r in rows}) == 1


@pytest.mark.parametrize("edit, says", [
    (lambda d: d["options"].update(n_evall=3), "unknown option 'n_evall' in \"options\". Did you mean 'n_eval'?"),
    (lambda d: d.pop("options"), "says nothing of the options"),
])
def test_a_config_with_other_options_is_named(elsewhere, monkeypatch, capsys, edit, says):
    config = {"options": {"family": TOY}}
    edit(config)
    Path("run").mkdir()
    Path("run/config.json").write_text(json.dumps(config))
    code, output = in_process(monkeypatch, capsys, "resume", "run")
    assert code == 2 and says in output and "run/config.json" in output and len(output.splitlines()) == 1


def test_ctrl_c_says_how_to_go_on(elsewhere):
    """A real SIGINT in the middle of training; the command that is named then works."""
    process = subprocess.Popen([sys.executable, "-m", "ganbench", "run", TOY, "--dataset", "digits",
                                "--steps", "1000000", "--checkpoint-every", "0.1", "--metric", "", "--out", "my run",
                                "--results", "", "--quiet"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    begun = time.monotonic()
    while not list(Path("my run").glob("checkpoints/images-*")):
        assert process.poll() is None and time.monotonic() - begun < 200
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=100)[1]
    assert process.returncode == 130
    last = (r"ganbench: stopped at .* kimg, step (\d+), with a checkpoint; "
            r"`ganbench resume 'my run'` goes on from the last checkpoint")
    said = re.fullmatch(last, output.splitlines()[-1])
    assert said and "Traceback" not in output, output
    done = ganbench("resume", "my run", "--steps", str(int(said[1]) + 2))
    assert done.returncode == 0, done.stderr


def test_a_fault_of_ones_own_family_is_told_by_its_line(elsewhere):
    """Also where it goes through PyTorch; a defect of ours is still one."""
    own = Path(TOY).read_text()
    line = 1 + own[:own.index("        real = next(reals).images")].count("\n")
    Path("own.py").write_text(own.replace("real = next(reals).images", "real = torch.ones(2) @ torch.ones(3)"))
    done = ganbench("run", "own.py", "--steps", "4", "--metric", "", "--results", "", "--out", "r")
    assert done.returncode == 2
    said = re.search(rf"own\.py:{line}: RuntimeError: .*: correct it; its traceback is in (\S+/traceback-\d+\.txt)$",
                     done.stderr.strip().splitlines()[-1])
    assert said and "torch.ones(2) @ torch.ones(3)" in Path(said[1]).read_text(), done.stderr


def test_divergence_has_its_own_exit_code(elsewhere):
    assert ganbench("run", TOY, "--steps", "40", "--set", "fail_at=2").returncode == 3


def test_list_as_json():
    listed = json.loads(ganbench("list", "--json").stdout)
    assert {"dcgan", "wgan", "wgan_gp"} <= {f["name"] for f in listed["families"]}
    assert all(f["paper"] for f in listed["families"])
    assert "swd" in {m["name"] for m in listed["metrics"]}
    assert {"digits", "fashion-mnist", "celeba"} <= {d["name"] for d in listed["datasets"]}


def test_the_list_says_what_each_metric_says_and_imports_none():
    """Importing all metrics takes seconds, most of them torchmetrics' own."""
    from ganbench.commands.list import read_metric
    from ganbench.metrics.metric import ImageMetric, find_metric
    from ganbench.plugins import names
    for name, module in names("metric").items():
        metric = find_metric(name)
        assert read_metric(module) == {
            "title": metric.title, "paper": metric.paper, "summary": metric.summary,
            "higher_is_better": metric.higher_is_better, "of": "images" if issubclass(metric, ImageMetric) else "model"}
    code = "from ganbench.commands.list import catalogue; import sys; catalogue(); print('torchmetrics' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
