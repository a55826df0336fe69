"""What every family keeps to, ours and anybody's: none is named here.

Each is built from its smallest preset (`smoke` where there is one) at 32 px.
"""

import copy
from typing import get_args

import pytest
import torch
from model_support import Reals, WatchedEngine, build, flat

from ganbench.errors import UserError
from ganbench.family import FamilyConfig, ImageSpec, configure, create, find_family, short_name, to_uint8
from ganbench.plugins import names
from ganbench.random import Random

FAMILIES = sorted(names("family"))


def smallest(name: str) -> str:
    presets = find_family(name).presets
    return "smoke" if "smoke" in presets else next(iter(presets))


def labels_for(family, n):
    return torch.arange(n) % family.images.classes if family.needs_labels else None


@pytest.fixture(scope="module", params=FAMILIES)
def name(request):
    return request.param


@pytest.fixture
def engine(name):
    return WatchedEngine(build(name, smallest(name)))


def test_page(name):
    """Everything `ganbench show` prints is there."""
    family = find_family(name)
    for attribute in ("title", "paper", "summary", "healthy", "sick"):
        assert getattr(family, attribute).strip(), f"{name} has no {attribute}"
    assert 2 <= family.summary.count(". ") + family.summary.endswith(".") <= 4, "the idea in about three sentences"
    assert family.default_preset in family.presets and family.kimg > 0
    assert all(preset.about for preset in family.presets.values())
    assert family.convergence is None or family.convergence in family.quantities


def test_every_setting_is_explained_and_every_preset_is_valid(name):
    family = find_family(name)
    assert issubclass(family.Config, FamilyConfig)
    assert all(field.description for field in family.Config.model_fields.values())
    for preset, chosen in family.presets.items():
        config, _, origin = configure(family, preset)
        assert set(chosen.values) == {key for key, value in origin.items() if value == "preset"}
        family.check(config, ImageSpec(chosen.side or 64, 3, 10))


@pytest.mark.parametrize("channels", [1, 3])
def test_samples(name, channels):
    family = build(name, smallest(name), channels=channels)
    z = family.latents(3, Random(0))
    assert len(z) == 3 and torch.isfinite(z).all()
    assert torch.equal(z, family.latents(3, Random(0)))
    images = family.sample(z, labels_for(family, 3))
    assert images.shape == (3, channels, 32, 32) and images.dtype == torch.float32 and not images.requires_grad
    assert to_uint8(images).dtype == torch.uint8
    assert torch.equal(images, family.sample(z, labels_for(family, 3))), "equal latents give equal images"


def test_sampling_leaves_training_alone(name):
    family = build(name, smallest(name))
    family.train()
    before = copy.deepcopy(family.state_dict())
    family.sample(family.latents(2, Random(0)), labels_for(family, 2))
    assert all(m.training for m in family.generator.modules())
    assert all(torch.equal(before[key], value) for key, value in family.state_dict().items())


def test_a_step_trains_what_it_should_and_logs_what_is_documented(name, engine):
    family = engine.family
    reals = Reals(engine)
    family.before_training(next(reals).images)
    before, critic = flat(family.generator), flat(family.critic) if family.critic is not None else None
    logs = engine.steps(reals)
    assert not torch.equal(before, flat(family.generator))
    assert critic is None or not torch.equal(critic, flat(family.critic))
    logged = set(logs)
    if hasattr(family, "held_out"):
        logged |= set(family.held_out(next(reals).images, engine))
    assert logged <= set(family.quantities), "every logged scalar is explained"
    # what appears only under some setting says so
    silent = {key for key in set(family.quantities) - logged
              if not any(word in family.quantities[key] for word in ("only", "where"))}
    assert not silent, "documented, not logged"
    assert family.convergence is None or family.convergence in logs


def test_every_parameter_has_one_optimizer(name, engine):
    family = engine.family
    owned = [p for o in engine.optimizers.values() for g in o.param_groups for p in g["params"]]
    assert len({id(p) for p in owned}) == len(owned)
    assert {id(p) for p in owned if p.requires_grad} == {id(p) for p in family.parameters() if p.requires_grad}


def test_going_on_from_saved_state_equals_never_having_stopped(name):
    straight = WatchedEngine(build(name, smallest(name)))
    reals = Reals(straight)
    straight.steps(reals, 2)
    document, tensors = straight.state()
    tensors = {key: value.clone() for key, value in tensors.items()}
    clock, drawn = copy.copy(straight.clock), reals.random.state().clone()
    expected_logs = straight.steps(reals, 2)

    resumed = WatchedEngine(build(name, smallest(name), seed=99))
    resumed.clock = clock
    resumed.restore(document, tensors)
    reals = Reals(resumed)
    reals.random.restore(drawn)
    logs = resumed.steps(reals, 2)
    assert logs == pytest.approx(expected_logs, rel=0, abs=0, nan_ok=True)
    expected = straight.family.state_dict()
    assert all(torch.equal(expected[key], value) for key, value in resumed.family.state_dict().items())


def test_sides_that_cannot_be_are_refused_in_one_line(name):
    for side in (2, 33):
        with pytest.raises(UserError, match="side") as caught:
            create(name, side=side, classes=10)
        assert "\n" not in str(caught.value)


def test_labels_are_asked_for_where_they_are_needed(name):
    family = find_family(name)
    if not family.needs_labels and not family.trains_on_labels:
        assert create(name, side=32, preset=smallest(name), channels=1) is not None
        return
    with pytest.raises(UserError, match="labels"):
        create(name, side=32, preset=smallest(name))


def test_it_goes_by_its_file_name(name):
    assert short_name(find_family(name)) == name


def test_the_declared_distribution_of_latents_is_theirs(name):
    field = find_family(name).Config.model_fields.get("latents_from")
    for choice in get_args(field.annotation) if field else [None]:
        family = build(name, smallest(name), **({"latents_from": choice} if choice else {}))
        if not family.pixel_latents:
            z = family.latents(1024, Random(0)).double()
            kurtosis = float(((z - z.mean()) ** 4).mean() / z.var() ** 2)  # 3 for normal, 1.8 for uniform
            assert family.latent_distribution == ("normal" if kurtosis > 2.4 else "uniform")
