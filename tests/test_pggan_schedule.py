"""PGGAN's schedule: side, fade, minibatch, learning rate and optimizer resets, against formulas written out here."""

import math
from itertools import pairwise

import pytest
import torch

from ganbench.family import Clock, configure, create, find_family

TICKS = {4: 160, 8: 140, 16: 120, 32: 100, 64: 80, 128: 60, 256: 40, 512: 20, 1024: 10}
PAPER_BATCH = {4: 16, 8: 16, 16: 16, 32: 16, 64: 16, 128: 16, 256: 14, 512: 6, 1024: 3}
BATCHES = {
    "paper": PAPER_BATCH, "paper-celebahq-1024": PAPER_BATCH, "repo-v1-1gpu": PAPER_BATCH,
    "paper-lsun-256": dict.fromkeys(PAPER_BATCH, 16), "paper-cifar10": dict.fromkeys(PAPER_BATCH, 16),
    "repo-v2-1gpu": {4: 128, 8: 128, 16: 128, 32: 64, 64: 32, 128: 16, 256: 8, 512: 4, 1024: 4},
    "repo-v2-2gpu": {4: 256, 8: 256, 16: 128, 32: 64, 64: 32, 128: 16, 256: 8, 512: 8, 1024: 8},
    "repo-v2-4gpu": {4: 512, 8: 256, 16: 128, 32: 64, 64: 32, 128: 16, 256: 16, 512: 16, 1024: 16},
    "repo-v2-8gpu": {4: 512, 8: 256, 16: 128, 32: 64, 64: 32, 128: 32, 256: 32, 512: 32, 1024: 32},
    "paper-ablation-128-a": dict.fromkeys(PAPER_BATCH, 64), "paper-ablation-128-b": dict.fromkeys(PAPER_BATCH, 64),
    **{f"paper-ablation-128-{row}": dict.fromkeys(PAPER_BATCH, 16) for row in ("c", "d", "e*", "e", "f", "g")},
}
RATES = {
    "repo-v2-1gpu": {1024: 0.0015}, "repo-v2-2gpu": {512: 0.0015, 1024: 0.002},
    "repo-v2-4gpu": {256: 0.0015, 512: 0.002, 1024: 0.003},
    "repo-v2-8gpu": {128: 0.0015, 256: 0.002, 512: 0.003, 1024: 0.003},
}
SLOW_RATE = {f"paper-ablation-128-{row}" for row in ("a", "b", "c", "d", "e*", "e")}
KIMG = {"paper": 19000, "paper-celebahq-1024": 19000, "repo-v1-1gpu": 19000, "paper-lsun-256": 20000,
        "paper-cifar10": 20000, **{f"repo-v2-{n}gpu": 12000 for n in (1, 2, 4, 8)},
        **{f"paper-ablation-128-{row}": 10000 for row in ("a", "b", "c", "d", "e*", "e", "f", "g")}}
LENGTHS = {"paper-cifar10": (400, 400), **{f"repo-v2-{n}gpu": (600, 600) for n in (1, 2, 4, 8)}}
REPEATS = {name: 4 for name in BATCHES if name.startswith("repo")}


def schedule(images, side, stable, fade, growing=True):
    """(lod, resolution) as the formula has it."""
    top = int(math.log2(side))
    if not growing:
        return 0.0, side
    kimg, phase = images / 1000, stable + fade
    index = math.floor(kimg / phase)
    passed = kimg - index * phase
    lod = max(top - 2 - index - max(passed - stable, 0) / fade, 0.0)
    return lod, 2 ** (top - math.floor(lod))


def light(preset, side, **settings):
    with torch.device("meta"):
        return create("pggan", side=side, preset=preset, **settings)


@pytest.mark.parametrize("preset", BATCHES)
def test_every_tick_of_every_preset(preset):
    side = find_family("pggan").presets[preset].side or (128 if "ablation" in preset else 1024)
    repeats, (stable, fade) = REPEATS.get(preset, 1), LENGTHS.get(preset, (800, 800))
    family = light(preset, side)
    config = family.config
    assert (config.stable_kimg, config.fade_kimg, config.minibatch_repeats) == (stable, fade, repeats)
    assert find_family("pggan").presets[preset].kimg in (KIMG[preset], None) and find_family("pggan").kimg == 19000
    images, seen = 0, []
    while images < KIMG[preset] * 1000:
        at = family.growth.aligned(images)
        assert images - 4 * 512 < at <= images and (repeats > 1 or at == images)
        lod, expected_side = schedule(at, side, stable, fade, growing=not preset.endswith("-a"))
        stage = family.stage(Clock(images=images))
        assert stage.side == expected_side
        assert stage.fade == lod - math.floor(lod)
        assert stage.batch == BATCHES[preset][expected_side]
        rate = 1e-4 if preset in SLOW_RATE else RATES.get(preset, {}).get(expected_side, 1e-3)
        assert stage.rates == {"generator": rate, "critic": rate}
        assert family.tick_kimg(stage) == TICKS[expected_side]
        seen.append((math.floor(lod), math.ceil(lod), stage.phase))
        images += TICKS[expected_side] * 1000
    changes = [(a[:2] != b[:2], a[2] != b[2]) for a, b in pairwise(seen)]
    assert all(ours == theirs for theirs, ours in changes)
    assert seen[-1][0] == 0, "the preset never reaches full side"


def test_adam_resets_when_a_fade_begins_and_when_it_ends():
    family = light("paper", 1024)
    def phase(images):
        return family.stage(Clock(images=images)).phase
    assert phase(800_000) == 0 and phase(800_001) == 1  # at 800,000 the fade has not begun: lod is still 8
    assert phase(1_599_999) == 1 and phase(1_600_000) == 2
    assert [phase(k * 800_000 + 400_000) for k in range(18)] == [*range(17), 16]
    kept = light("paper", 1024, reset_optimizers=False)
    assert {kept.stage(Clock(images=k * 400_000)).phase for k in range(40)} == {0}


def test_the_side_switches_the_moment_a_fade_begins():
    family = light("paper", 1024)
    before, after = (family.stage(Clock(images=n)) for n in (12_000_000, 12_000_001))
    assert (before.side, before.batch, before.fade) == (512, 6, 0)
    assert (after.side, after.batch) == (1024, 3) and after.fade == pytest.approx(1 - 1 / 800_000)
    assert family.stage(Clock(images=12_400_000)).fade == 0.5
    assert family.stage(Clock(images=12_800_000)).fade == 0
    assert family.stage(Clock(images=10 ** 9)) == family.stage(Clock(images=12_800_000))


@pytest.mark.parametrize("n_critic", [1, 3])
def test_the_schedule_is_looked_at_once_in_four_minibatches(n_critic):
    stable, fade = 2.3, 1.1
    family = light("repo-v2-4gpu", 64, stable_kimg=stable, fade_kimg=fade, n_critic=n_critic)
    images = 0
    while images < 16_000:  # the original's loop: one look, then four times n_critic draws and a generator update
        lod, side = schedule(images, 64, stable, fade)
        looked_at = images
        for _ in range(4):
            stage = family.stage(Clock(images=images))
            assert (stage.side, stage.fade, stage.batch) == (side, lod - math.floor(lod), BATCHES["repo-v2-4gpu"][side])
            assert family.growth.aligned(images) == looked_at
            images += n_critic * stage.batch


def test_growing_can_start_higher_and_can_skip_fading():
    family = light("paper", 64, initial_side=16, stable_kimg=1, fade_kimg=0, minibatch_repeats=4)
    sides = [family.stage(Clock(images=n)).side for n in (0, 999, 1000, 1023, 1024, 2047, 2048, 5000)]
    assert sides == [16, 16, 16, 16, 32, 32, 64, 64]
    assert family.stage(Clock(images=1024)).phase == 2


def test_the_theano_ramp():
    family = light("paper", 16, theano_rampup_kimg=40)
    def rate(images):
        return family.stage(Clock(images=images)).rates["generator"]
    assert rate(0) == pytest.approx(1e-3 * math.exp(-5)) and rate(20_000) == pytest.approx(1e-3 * math.exp(-1.25))
    assert rate(40_000) == rate(50_000) == 1e-3


def test_ablation_rows_are_table_one():
    columns = ("growing", "minibatch", "n_critic", "rate", "beta2", "drift", "latent", "normalise_latent",
               "generator_activation", "generator_norm", "critic_norm", "tanh", "ema_power", "minibatch_stddev",
               "minibatch_discrimination", "equalized", "pixel_norm")
    table = {
        "a": (False, 64, 5, 1e-4, 0.9, 0, 128, False, "relu", "batch", "layer", True, 20, False, False, False, False),
        "b": (True, 64, 5, 1e-4, 0.9, 0, 128, False, "relu", "batch", "layer", True, 20, False, False, False, False),
        "c": (True, 16, 5, 1e-4, 0.9, 0, 128, False, "relu", "batch", "layer", True, 5, False, False, False, False),
        "d": (True, 16, 1, 1e-4, 0.99, 0.001, 512, True, "lrelu", "none", "none", False, 1, False, False, False, False),
        "e*": (True, 16, 1, 1e-4, 0.99, 0.001, 512, True, "lrelu", "none", "none", False, 1, False, True, False, False),
        "e": (True, 16, 1, 1e-4, 0.99, 0.001, 512, True, "lrelu", "none", "none", False, 1, True, False, False, False),
        "f": (True, 16, 1, 1e-3, 0.99, 0.001, 512, True, "lrelu", "none", "none", False, 1, True, False, True, False),
        "g": (True, 16, 1, 1e-3, 0.99, 0.001, 512, True, "lrelu", "none", "none", False, 1, True, False, True, True),
    }
    for row, values in table.items():
        config, preset, _ = configure(find_family("pggan"), f"paper-ablation-128-{row}")
        assert tuple(getattr(config, column) for column in columns) == values, row
        assert (config.fmap_base, config.ema, config.beta1, config.gradient_penalty, config.gradient_target) == (
            2048, 0.999, 0, 10, 1)
        assert (config.stable_kimg, config.fade_kimg, config.minibatch_by_side, preset.kimg) == (800, 800, {}, 10000)


def test_cifar_settings():
    config, _, _ = configure(find_family("pggan"), "paper-cifar10")
    assert (config.fmap_base, config.fmap_max, config.latent_size(), config.gradient_target, config.simultaneous) == (
        4096, 128, 128, 750, True)


def test_tensorflow_presets():
    for name, group in (("repo-v1-1gpu", 16), ("repo-v2-1gpu", 4), ("repo-v2-8gpu", 4)):
        config, _, _ = configure(find_family("pggan"), name)
        assert (config.stddev_group, config.pool_first, config.label_order, config.critic_labels) == (
            group, True, "before-norm", "batch")
    paper, _, _ = configure(find_family("pggan"), "paper")
    assert (paper.stddev_group, paper.pool_first, paper.label_order, paper.critic_labels) == (
        0, False, "after-norm", "random")
