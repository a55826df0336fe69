"""A batch taken in parts: the gradients are those of the whole batch, in less memory, or the family says no."""

import pytest
import torch
from model_support import Reals, build
from test_recorded import quickest

from ganbench import plugins
from ganbench.bench.speed import SavedTensors
from ganbench.errors import UserError
from ganbench.family import Clock
from ganbench.training.engine import TrainingEngine, check_shares

# Every family that allows it, with settings under which a step draws nothing inside its networks.
ALLOWED = [("r3gan", "smoke", {}), ("r3gan", "smoke", {"conditional": True, "generator_reals": "fresh"}),
           ("r3gan", "smoke", {"net": "stripped"}), ("r3gan", "smoke", {"loss": "logistic"}),
           ("began", "smoke", {"batch": 16}), ("began", "smoke", {"batch": 16, "share_latents": True, "skip": True}),
           ("vae", "smoke", {"net": "mlp"}), ("vae", "smoke", {"net": "mlp", "likelihood": "bernoulli"}),
           ("pixelcnn", "smoke", {"clip_norm": 0.01}), ("pixelrnn", "smoke", {}),
           ("pixelcnnpp", "smoke", {"dropout": 0.0}),
           *[("gan", "smoke", {"drop_input": 0.0, "drop_hidden": 0.0, "order": order})
             for order in ("simultaneous", "critic-first")],
           *[("cgan", "smoke", {"net": "mlp", "dropout": 0.0, "order": order})
             for order in ("simultaneous", "critic-first", "alternate")],
           ("wgan_gp", "smoke", {"generator_norm": False}),
           ("wgan_gp", "smoke", {"net": "resnet", "generator_norm": False, "critic_norm": "layer", "n_critic": 1,
                                 "dim": 4, "generator_batch": 8}),
           *[("pggan", "smoke", {"minibatch_stddev": False, "initial_side": 8, "stable_kimg": 0.002, **more})
             for more in ({}, {"simultaneous": True}, {"conditional": True, "loss": "lsgan"})]]
# settings without which a family's smoke preset compares samples
DIVIDED = {"cgan": {"net": "mlp"}, "wgan_gp": {"generator_norm": False}, "pggan": {"minibatch_stddev": False}}


class Watched(TrainingEngine):
    """Remembers the gradients of every update."""

    def _make_step(self, loss, optimizer, clip_norm):
        parameters = [p for group in self.optimizers[optimizer].param_groups for p in group["params"]]
        self.seen.append((optimizer, torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])))
        super()._make_step(loss, optimizer, clip_norm)


def engine_of(name, preset, settings, side=16):
    family = build(name, preset, side=side, **settings)
    engine = Watched(family, Clock(dataset_size=1000, total_images=1000), device=torch.device("cpu"), seed=0)
    engine.seen = []
    return engine


def steps(engine, n=2):
    """The scalars of n steps on noise."""
    reals = Reals(engine)
    for _ in range(n):
        engine.enter(engine.family.stage(engine.clock))
        scalars = engine.family.step(reals, engine)
        engine.clock.steps += 1
    return {key: float(value) for key, value in scalars.items()}


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name, preset, settings", ALLOWED, ids=str)
def test_gradients_of_parts_are_those_of_the_batch(name, preset, settings, double):
    whole, parts = engine_of(name, preset, settings), engine_of(name, preset, settings | {"accumulate": 4})
    logs, others = steps(whole), steps(parts)
    assert [optimizer for optimizer, _ in whole.seen] == [optimizer for optimizer, _ in parts.seen]
    for (_, ours), (_, theirs) in zip(parts.seen, whole.seen):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-6
    # counts of one minibatch are no means over samples
    for key in logs.keys() - {"active_units"}:
        assert others[key] == pytest.approx(logs[key], rel=1e-6, abs=1e-9), key


def test_that_comparison_sees_batch_norm(double, monkeypatch):
    """Allowed by force, a family with batch norm has other gradients in parts."""
    engines = []
    for k in (1, 4):
        monkeypatch.setattr("ganbench.training.engine.check_divisible", lambda family: None)
        engines.append(engine_of("vae", "smoke", {"accumulate": k}))
        steps(engines[-1], 1)
    (_, theirs), (_, ours) = engines[0].seen[0], engines[1].seen[0]
    assert float((ours - theirs).norm() / theirs.norm()) > 1e-2


@pytest.mark.parametrize("name", sorted(plugins.names("family")))
def test_a_family_takes_its_batch_in_parts_or_says_no(name):
    if any(name == allowed for allowed, _, settings in ALLOWED if name != "vae"):
        assert build(name, quickest(name), accumulate=2, **DIVIDED.get(name, {})).divisible_batch
        if name not in DIVIDED:
            return
    with pytest.raises(UserError, match="compares the samples of a batch") as error:
        engine_of(name, quickest(name), {"accumulate": 2}, side=32)
    assert "\n" not in str(error.value) and str(error.value).startswith(name)


def test_parts_must_be_equal():
    with pytest.raises(UserError, match="batch 8 at side 16 does not divide into 3 equal parts"):
        engine_of("pixelcnn", "smoke", {"accumulate": 3})


@pytest.mark.parametrize(("n", "k"), [(6, 4), (10, 4), (2, 4)])
def test_an_update_whose_samples_do_not_divide_is_refused(n, k):
    """Three parts that weigh a quarter each would make three quarters of the gradient, six of them one and a half."""
    engine = engine_of("r3gan", "smoke", {"batch": 8, "accumulate": k})
    weight = next(p for p in engine.family.generator.parameters() if p.requires_grad)
    with pytest.raises(UserError, match=f"^{n} samples of an update of the generator .* into {k} equal parts: "):
        engine.update_in_parts(lambda part: (weight.sum(), {}), "generator", n)
    engine.update_in_parts(lambda part: (weight.sum(), {}), "generator", 2 * k)
    assert float(engine.seen[0][1].max()) == 1.0


@pytest.mark.parametrize(("name", "settings", "processes", "refused"), [
    ("wgan_gp", {"generator_norm": False, "accumulate": 4, "batch": 8, "generator_batch": 12}, 1, ""),
    ("wgan_gp", {"generator_norm": False, "accumulate": 4, "batch": 8, "generator_batch": 12}, 2, "into 4 equal parts"),
    ("wgan_gp", {"generator_norm": False, "accumulate": 4, "batch": 8, "generator_batch": 10}, 1, "into 4 equal parts"),
    ("wgan_gp", {"batch": 6, "generator_batch": 128}, 3, "by 3 processes"),
    *[(name, {"batch": 6, "generator_batch": size}, 3, "by 3 processes" if size else "")
      for name in ("sngan", "sagan", "biggan") for size in (0, 2, 128)]])
def test_the_generators_own_batch_is_shared_evenly_too(name, settings, processes, refused):
    """128 fakes on 3 processes would silently be 126, 2 on 3 the critic's batch."""
    family = build(name, "smoke", side=32, **settings)
    clock = Clock(dataset_size=1000, total_images=1000)
    if not refused:
        return check_shares(family, clock, processes)
    with pytest.raises(UserError, match=f"^generator_batch {settings['generator_batch']} at side 32 .*{refused}"):
        check_shares(family, clock, processes)


def test_only_one_part_is_in_memory_at_once():
    peaks = []
    for k in (1, 4):
        engine = engine_of("r3gan", "smoke", {"batch": 32, "accumulate": k})
        with SavedTensors() as kept:
            steps(engine, 1)
        peaks.append(kept.peak)
    assert peaks[1] < 0.4 * peaks[0]
