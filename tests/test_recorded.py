"""The recorded step, rehearsed without a GPU: steps whose draws and batches come from fixed places, filled beforehand
in the order of the first time, against steps that were left alone. To the bit, and across a resumption."""

import pytest
import torch
from model_support import build, same

from ganbench import plugins
from ganbench.family import Batch, Clock, find_family
from ganbench.random import Random
from ganbench.training import recorded
from ganbench.training.engine import TrainingEngine
from ganbench.training.optimizers import like_parameters
from ganbench.training.recorded import Places, Steps

# Beside each family's quickest preset: keys that change from step to step, sides that grow, momenta that rise.
MORE = [("pggan", "smoke", {"stable_kimg": 0.016, "fade_kimg": 0.016, "initial_side": 16}, 9),
        ("stylegan", "smoke-labels", {}, 4), ("stylegan2", "smoke-grow", {}, 7),
        ("wgan", "smoke", {"long_every": 3, "warm_up": 0, "long_critic": 3}, 6),
        ("dcgan", "smoke", {"r1": 1.0, "r1_every": 2, "critic_norm": False}, 7),
        ("r3gan", "smoke", {"schedule_kimg": 0, "accumulate": 2}, 4), ("began", "smoke", {"accumulate": 4}, 4)]


def quickest(name):
    presets = find_family(name).presets
    return next((p for start in ("smoke", "laptop") for p in presets if p.startswith(start)), None)


# Where a preset's optimizer has numbers that change with every step, it is never recorded: other settings are.
STEADY = {"gan": {"optimizer": "adam"}, "r3gan": {"schedule_kimg": 0}}
CASES = [(name, quickest(name), STEADY.get(name, {}), 4) for name in sorted(plugins.names("family"))] + MORE


class Images:
    """Stands for the stream of training images: endless noise with labels."""

    def __init__(self, classes):
        self.random, self.classes, self.images = Random(1), classes, 0

    def next(self, side, batch):
        self.images += batch
        images = self.random.uniform(batch, 1, side, side, low=-1.0)
        return Batch(images, self.random.integers(batch, high=self.classes))


def make(name, preset, settings, **how):
    family = build(name, preset, side=32, **settings)
    clock = Clock(dataset_size=1000, total_images=1000)
    engine = TrainingEngine(family, clock, device=torch.device("cpu"), seed=0)
    return engine, Steps(engine, Images(10), **how)


def work(engine, steps, n):
    """n steps as the training loop takes them; the scalars of each."""
    taken = []
    for _ in range(n):
        stage = engine.family.stage(engine.clock)
        engine.enter(stage)
        engine.average()
        taken.append({key: float(value) for key, value in steps.take(stage).items()})
        engine.clock.steps += 1
        engine.clock.images = steps.stream.images
    return taken


@pytest.mark.parametrize("name, preset, settings, n", CASES, ids=lambda v: str(v))
def test_a_rehearsed_step_equals_one_left_alone(name, preset, settings, n, monkeypatch):
    monkeypatch.setattr(recorded, "WARM_UP", 0)
    (alone, plain), (engine, steps) = make(name, preset, settings), make(name, preset, settings, rehearse=True)
    torch.manual_seed(5)  # of noise and dropout inside networks
    undisturbed = work(alone, plain, n)
    torch.manual_seed(5)
    before = work(engine, steps, n - 1)
    assert any(record.taken > 1 for record in steps.records.values())  # one did come from its places

    # stopped here and gone on in another process: the one step that is left is the first of its kind again
    document, tensors = engine.state()
    other, others = make(name, preset, settings, rehearse=True)
    other.restore(document, {key: value.clone() for key, value in tensors.items()})
    other.clock.steps, other.clock.images = engine.clock.steps, engine.clock.images
    others.stream.images = steps.stream.images
    others.stream.random.restore(steps.stream.random.state())
    torch.set_rng_state(tensors["torch/cpu"])
    after = work(other, others, 1)

    assert str(before + after) == str(undisturbed)
    assert same(alone.state()[1], other.state()[1])


def test_a_step_that_takes_other_things_than_its_record_is_an_error():
    places, random = Places(), Random(0)
    for _ in range(2):
        places.keep(lambda: random.uniform(3), torch.device("cpu"))
    places.refill()
    places.keep(lambda: None, torch.device("cpu"))
    with pytest.raises(RuntimeError, match="took less"):
        places.check_all_used()
    places.keep(lambda: None, torch.device("cpu"))
    places.check_all_used()
    with pytest.raises(RuntimeError, match="takes more"):
        places.keep(lambda: None, torch.device("cpu"))


def test_nothing_is_recorded_on_a_cpu_or_where_a_family_says_no(monkeypatch):
    engine, steps = make("dcgan", "smoke", {})
    work(engine, steps, 2)
    assert not steps.records
    engine, steps = make("dcgan", "smoke", {}, rehearse=True)
    monkeypatch.setattr(type(engine.family), "recording_key", lambda self, clock: None)
    work(engine, steps, 2)
    assert not steps.records


def test_what_python_holds_in_an_optimizer_is_part_of_the_key(monkeypatch):
    monkeypatch.setattr(recorded, "WARM_UP", 0)
    engine, steps = make("gan", None, {"hidden": 8, "units": 8, "optimizer": "sgd"}, rehearse=True)
    work(engine, steps, 2)
    assert [record.taken for record in steps.records.values()] == [1]  # its rate and momentum change with every step


@pytest.mark.parametrize("name, preset, settings, n", CASES, ids=lambda v: str(v))
def test_a_step_with_channels_innermost_is_the_step(name, preset, settings, n):
    """As a card takes it in all precisions but fp32; up to rounding, which other layouts do in another order."""
    taken = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        engine, steps = make(name, preset, settings)
        engine.family.to(memory_format=layout)
        torch.manual_seed(5)
        taken += work(engine, steps, 1)
    assert taken[1] == pytest.approx(taken[0], rel=2e-3, abs=1e-4)


def test_gradients_keep_their_layout_when_processes_share_them(monkeypatch):
    engine, _ = make("dcgan", "smoke", {})
    monkeypatch.setattr(engine, "world", 2)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor: tensor.add_(1))
    gradients = [torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), torch.randn(5)]
    expected = [(gradient + 1) / 2 for gradient in gradients]
    engine._average_over_processes(gradients)
    assert all(torch.equal(*pair) for pair in zip(gradients, expected))
    assert gradients[0].is_contiguous(memory_format=torch.channels_last)


def test_what_an_optimizer_remembers_lies_as_its_parameters_do():
    """A checkpoint's tensors lie in one order, those of a card in another."""
    parameter = torch.nn.Parameter(torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last))
    optimizer, state = torch.optim.Adam([parameter]), torch.randn(2, 3, 4, 4)
    optimizer.state[parameter] = {"exp_avg": state, "step": torch.tensor(1.0)}
    like_parameters(optimizer)
    found = optimizer.state[parameter]["exp_avg"]
    assert torch.equal(found, state) and found.stride() == parameter.stride()
