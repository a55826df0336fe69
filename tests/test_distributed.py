"""Two processes with half the batch each are one process with the whole batch: layers, every family, evaluation."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ganbench import plugins

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
                           OMP_NUM_THREADS="1", PYTHONPATH=str(HERE))
        processes.append(subprocess.Popen([sys.executable, *script, *map(str, arguments)], env=environment,
                                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    try:
        said = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [p.returncode for p in processes] == [0] * world, "\n".join(said)
    return said


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
            scale = max(1e-3, float(expected.abs().max()))
            assert float((two[name] - expected).abs().max()) <= 1e-5 * scale, name
            moved += float(expected.abs().sum())
        else:
            assert torch.equal(two[name], expected), name
    assert moved > 0
    for a, b in zip(outcomes[0]["logged"], outcomes[1]["logged"]):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-8)
