"""What only a GPU can show: recorded steps against steps taken as they are, no waits at all, resuming to the bit.

Skipped where there is none. `make test-gpu` runs it.
"""

import os
import sys
from pathlib import Path

import pytest
import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with it; read when it starts
sys.path.insert(0, str(Path(__file__).parent.parent))

from model_support import build, same
from test_recorded import CASES

from ganbench.family import Batch, Clock
from ganbench.metrics.functional import (
    frechet_distance,
    kernel_inception_distance,
    prdc,
    sliced_wasserstein_distance,
)
from ganbench.metrics.images.ahead import ahead
from ganbench.metrics.measures.fid import Fid
from ganbench.metrics.networks.replay import Replayed
from ganbench.metrics.networks.resize import resize
from ganbench.random import Random
from ganbench.training import recorded
from ganbench.training.engine import TrainingEngine
from ganbench.training.optimizers import select_step, step_where
from ganbench.training.recorded import WARM_UP, Steps

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
N = WARM_UP + 6


@pytest.fixture(autouse=True)
def deterministic():
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.cuda.set_sync_debug_mode("default")


class Images:
    """Stands for the stream of training images: endless noise with labels, on the GPU."""

    def __init__(self):
        self.random, self.images = Random(1, "cuda"), 0

    def next(self, side, batch):
        self.images += batch
        return Batch(self.random.uniform(batch, 1, side, side, low=-1.0), self.random.integers(batch, high=10))


def make(name, preset, settings, precision="fp32", **how):
    device = torch.device("cuda", 0)
    family = build(name, preset, side=32, **settings).to(device)
    clock = Clock(dataset_size=1000, total_images=1000)
    engine = TrainingEngine(family, clock, device=device, seed=0, precision=precision)
    torch.manual_seed(5)
    torch.cuda.manual_seed_all(5)
    return engine, Steps(engine, Images(), **how)


def work(engine, steps, n, watch=False):
    taken = []
    for _ in range(n):
        stage = engine.family.stage(engine.clock)
        engine.enter(stage)
        waits = watch and engine.clock.steps > WARM_UP + 1  # what is made once may wait: states, kernels, graphs
        torch.cuda.set_sync_debug_mode("error" if waits else "default")
        engine.average()
        taken.append(steps.take(stage))
        torch.cuda.set_sync_debug_mode("default")
        engine.clock.steps += 1
        engine.clock.images = steps.stream.images
    return [{key: float(value) for key, value in scalars.items()} for scalars in taken]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name, preset, settings, n", CASES, ids=lambda v: str(v))
def test_a_recorded_step_is_the_step(name, preset, settings, n, precision, monkeypatch):
    monkeypatch.setattr(recorded, "WARM_UP", 0)  # a growing family's stages are short
    plain = work(*make(name, preset, settings, precision, record=False), N, watch=True)
    captured, capture = [], Steps._capture
    monkeypatch.setattr(Steps, "_capture", lambda self, *args: captured.append(args) or capture(self, *args))
    replayed = work(*make(name, preset, settings, precision), N, watch=False)
    assert captured
    for ours, theirs in zip(replayed, plain):
        assert ours == pytest.approx(theirs, rel=1e-3 if precision == "fp32" else 0.05, abs=1e-3, nan_ok=True)


@pytest.mark.parametrize("name, preset, settings, n", CASES, ids=lambda v: str(v))
def test_a_recorded_run_resumes_to_the_bit(name, preset, settings, n):
    alone, plain = make(name, preset, settings)
    work(alone, plain, 2 * N)
    engine, steps = make(name, preset, settings)
    work(engine, steps, N)
    document, tensors = engine.state()
    other, others = make(name, preset, settings)
    other.restore(document, {key: value.clone() for key, value in tensors.items()})
    other.clock.steps, other.clock.images = engine.clock.steps, engine.clock.images
    others.stream.images = steps.stream.images
    others.stream.random.restore(steps.stream.random.state())
    work(other, others, N)
    assert same(alone.state()[1], other.state()[1])


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_fused_optimizers_leave_everything_where_values_are_not_finite(kind):
    """Against taking the step back, which the CPU's tests compare with steps that were not made."""
    ours, theirs = (torch.nn.Parameter(torch.arange(6.0, device="cuda")) for _ in range(2))
    fused, plain = kind([ours], 0.1, fused=True), kind([theirs], 0.1)
    for step in range(5):
        finite = torch.tensor(step not in (0, 3), device="cuda")
        ours.grad = theirs.grad = torch.where(finite, torch.randn(6, device="cuda"), torch.nan)
        step_where(finite, fused)
        select_step(finite, plain)
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


# --- scoring --------------------------------------------------------------------------------------------------------

def rows(n=600, d=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, d, generator=generator), torch.rand(n, d, generator=generator) + 0.1


MEASURES = {"frechet": lambda x, y: {"": frechet_distance(x, y)},
            "kid": lambda x, y: kernel_inception_distance(x, y, subsets=5, subset_size=200),
            "prdc": prdc}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("n", [24, 600])  # fewer samples than numbers, and more
def test_measures_on_the_device_are_those_on_the_cpu(name, n):
    x, y = rows(n)
    if name == "kid" and n < 200:
        pytest.skip("fewer samples than a subset")
    assert MEASURES[name](x.cuda(), y.cuda()) == pytest.approx(MEASURES[name](x, y), rel=1e-6, abs=1e-9)


def test_swd_on_the_device_is_that_on_the_cpu():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 256, (256, 3, 32, 32), dtype=torch.uint8, generator=generator) for _ in range(2))
    theirs = sliced_wasserstein_distance(a, b, seed=0)
    assert sliced_wasserstein_distance(a.cuda(), b.cuda(), seed=0) == pytest.approx(theirs, rel=1e-6)


def test_fid_adds_features_without_waiting():
    x, y = (part.cuda() for part in rows())
    metric, plain = Fid("random-vgg16").to("cuda"), Fid("random-vgg16")
    metric.update_features(x[:100], real=True)
    metric.update_features(y[:100], real=False)
    torch.cuda.set_sync_debug_mode("error")
    for start in range(100, 600, 100):
        metric.update_features(x[start:start + 100], real=True)
        metric.update_features(y[start:start + 100], real=False)
    torch.cuda.set_sync_debug_mode("default")
    for start in range(0, 600, 100):
        plain.update_features(x[start:start + 100].cpu(), real=True)
        plain.update_features(y[start:start + 100].cpu(), real=False)
    assert float(metric.compute()) == pytest.approx(float(plain.compute()), rel=1e-6)
    assert torch.allclose(metric.sample(True).cpu(), plain.sample(True))


def test_images_arrive_in_order_while_others_are_at_work():
    given = [torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8) for _ in range(20)]
    busy, sums = torch.rand(2048, 2048, device="cuda"), []
    for host, there in ahead(iter(given), torch.device("cuda", 0), lambda batch: batch):
        busy = (busy @ busy).clamp(0, 1)
        sums.append((host, there.double().sum()))
    assert len(sums) == 20 and all(float(total) == float(host.double().sum()) for host, total in sums)


def test_a_replayed_network_is_the_network():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 8, 3)).cuda().eval()
    passed = Replayed(lambda x: {"rows": network(resize(x, 40, "tf1-bilinear")).flatten(1)})
    with torch.inference_mode():
        batches = [torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, device="cuda") for n in (8, 8, 8, 8, 3)]
        found = [passed(batch)["rows"] for batch in batches]
        assert passed.replay is not None and passed.possible
        for batch, values in zip(batches, found):
            assert torch.allclose(values, network(resize(batch, 40, "tf1-bilinear")).flatten(1), rtol=1e-3, atol=1e-3)
