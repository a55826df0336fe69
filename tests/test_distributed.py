"""Two processes with half the batch each are one process with the whole batch: layers, every family, evaluation."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from ganbench import plugins, records
from ganbench.distributed import watch
from ganbench.training import session
from ganbench.training.run_options import RunOptions

HERE = Path(__file__).parent
FAMILIES = sorted(plugins.names("family"))


def launch(script, world, *arguments, timeout=500):
    """Start `world` processes as torchrun would, and wait for them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(world):
        environment = dict(os.environ, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world),
                           LOCAL_WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
                           OMP_NUM_THREADS="1",
                           PYTHONPATH=os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
        processes.append(subprocess.Popen([sys.executable, *script, *map(str, arguments)], env=environment,
                                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    try:
        output = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [p.returncode for p in processes] == [0] * world, "\n".join(output)
    return output


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Every family trained a few steps by one process and by two: folders one/ and two/."""
    root = tmp_path_factory.mktemp("distributed")
    for world, name in ((1, "one"), (2, "two")):
        (root / name).mkdir()
        launch([HERE / "distributed_worker.py"], world, root / name, *FAMILIES, HERE / "toy.py")
    return root


def test_layers_where_samples_meet_see_the_whole_batch(trained):
    one, two = (load_file(trained / name / "layers.safetensors") for name in ("one", "two"))
    assert set(one) == set(two) and len(one) > 30
    for name, expected in one.items():
        assert torch.allclose(two[name], expected, rtol=1e-9, atol=1e-12), name
    assert float(one["batchnorm2d/running_mean"].abs().min()) > 0.1  # the statistics have moved
    assert float(one["cumulative/running_mean"].mean()) == pytest.approx(3, abs=0.8)
    assert 0 < int((one["dropout/value"] == 0).sum()) < one["dropout/value"].numel()


def test_images_are_made_once_and_arrive_in_order(trained):
    one, two = (load_file(trained / name / "evaluation.safetensors") for name in ("one", "two"))
    for seen in (one, two):
        assert seen["by3"].flatten().tolist() == seen["by4"].flatten().tolist() == list(range(10))
        assert seen["first"].flatten().tolist() == [0, 1] and int(seen["broadcast"]) == 10
    # 4 batches of 3, 3 of 4; then 5 of 2, of which one process makes only what is asked for
    assert one["made"].tolist() == [4 + 3 + 1, 0] and two["made"].tolist() == [2 + 2 + 3, 2 + 1 + 2]


@pytest.mark.parametrize("family", [*FAMILIES, "toy"])
def test_two_processes_equal_one(trained, family):
    outcomes = [json.loads((trained / name / f"{family}.json").read_text()) for name in ("one", "two")]
    for outcome in outcomes:
        assert "error" not in outcome, outcome["error"]
    one, two = (load_file(trained / name / f"{family}.safetensors") for name in ("one", "two"))
    assert set(one) == set(two)
    moved = 0.0
    for name, expected in one.items():
        if expected.is_floating_point():
            # Adam turns a gradient that is zero but for rounding into steps of about 1e-8; real ones are above 1e-5
            known = expected.isfinite()  # running minima start at infinity
            assert torch.equal(two[name].isfinite(), known), name
            size = float(expected[known].abs().sum())
            if known.any():
                allowed = max(1e-7, 1e-5 * float(expected[known].abs().max()))
                assert float((two[name] - expected)[known].abs().max()) <= allowed, name
            moved += size
        else:
            assert torch.equal(two[name], expected), name
    assert moved > 0
    for a, b in zip(outcomes[0]["logged"], outcomes[1]["logged"]):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-8)


SCORED = {"dcgan": "smoke", "stylegan": "smoke-labels"}  # batch norm; noise inside the network, and labels


@pytest.mark.slow
def test_two_processes_give_one_checkpoint_the_scores_that_one_gives(tmp_path):
    """Trained by one process, scored by one and by two: every row and every column of it, to 1e-6 of its value."""
    for family, preset in SCORED.items():
        session.run(RunOptions(family, dataset="digits", preset=preset, side=32, steps=3, metrics=[], results=None,
                                    out=str(tmp_path / family), device="cpu", quiet=True))
    for world, name in ((1, "one"), (2, "two")):
        (tmp_path / name).mkdir()
        launch([HERE / "scoring_worker.py"], world, tmp_path / name, *(tmp_path / family for family in SCORED))
    for family in SCORED:
        one, two = (json.loads((tmp_path / name / f"{family}.json").read_text()) for name in ("one", "two"))
        assert {row["metric"] for row in one} == {"swd", "ms_ssim", "kid"} and len(one) == len(two) >= 5
        for a, b in zip(one, two):
            for column in ("value", "ci_low", "ci_high"):
                assert b.pop(column) == pytest.approx(a.pop(column), rel=1e-6, abs=0), (family, a["metric"], column)
            assert a == b
        assert {row["n_fake"] for row in one} == {600}


@pytest.mark.slow
def test_eval_under_torchrun_gives_the_rows_of_one_process(tmp_path):
    session.run(RunOptions("dcgan", dataset="digits", preset="smoke", steps=3, metrics=[], results=None,
                                out=str(tmp_path / "run"), device="cpu", quiet=True))
    output = {}
    for world in (1, 2):
        output[world] = launch(["-m", "ganbench"], world, "eval", "--run", tmp_path / "run", "--metric", "swd,ms_ssim",
                             "--n", "600", "--results", tmp_path / f"{world}.csv", "--device", "cpu")
    assert "600 fake images" in output[2][0] and output[2][1] == ""  # one process speaks
    one, two = (records.read(tmp_path / f"{world}.csv") for world in (1, 2))
    assert len(one) == len(two) > 6
    for a, b in zip(one, two):
        assert float(b["value"]) == pytest.approx(float(a["value"]), rel=1e-6)
        assert {k: v for k, v in a.items() if k not in ("date", "value", "ci_low", "ci_high")} == \
            {k: v for k, v in b.items() if k not in ("date", "value", "ci_low", "ci_high")}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["dcgan", "toy"])
def test_a_run_under_torchrun_is_that_of_one_process(tmp_path, family):
    """From the command line: same rows, one line a step in the log, one folder; interrupted and resumed as well."""
    rows = {}
    for world in (1, 2):
        out = tmp_path / f"by{world}"
        name = str(HERE / "toy.py") if family == "toy" else family
        flags = ["run", name, "--dataset", "digits", "--preset", "fast" if family == "toy" else "smoke",
                 "--kimg", "0.2", "--metric", "swd", "--n-eval", "600", "--results", "", "--out", out,
                 "--device", "cpu", "--log-every", "1"]
        launch(["-m", "ganbench"], world, *flags)
        launch(["-m", "ganbench"], world, *flags, "--kimg", "0.3", "--resume")
        rows[world] = records.read(out / "results.csv")
        steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(1, len(steps) + 1)) and len(steps) > 10
    assert len(rows[1]) == len(rows[2]) > 3
    for a, b in zip(rows[1], rows[2]):
        assert (a["metric"], a["level"], a["kimg"], a["n_fake"]) == (b["metric"], b["level"], b["kimg"], b["n_fake"])
        # float32 training on two processes rounds otherwise; scores of bytes hardly notice in so few steps
        assert float(a["value"]) == pytest.approx(float(b["value"]), rel=2e-3)
    weights = [load_file(sorted((tmp_path / f"by{w}" / "checkpoints").glob("images-*"))[-1] / "tensors.safetensors")
               for w in (1, 2)]
    for key, value in weights[0].items():
        if key.startswith("family/generator") and value.is_floating_point():
            assert float((weights[1][key] - value).abs().max()) < 5e-3, key


def test_who_is_silent_is_named_and_the_first_to_fail_ends_the_others(monkeypatch):
    """The watches of two ranks in one process; what would end a process is only noted."""
    ended = []
    monkeypatch.setattr(watch, "PULSE", 0.05)
    monkeypatch.setattr(watch.os, "_exit", ended.append)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    one, other = watch.Watch(0, 2), watch.Watch(1, 2)
    one.start()
    assert one.silent() == [1]
    other.start()
    assert any(one.silent() == [] for _ in range(50))
    assert other.fail(2)  # the first: it says why
    for _ in range(2000):
        if ended:
            break
        time.sleep(0.01)
    assert set(ended) == {2} and not one.fail(1)
    for thread in (one, other):
        thread.join()
