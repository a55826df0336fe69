"""SWD against golden numbers, against a plain NumPy version on the same draws, and against what must hold."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import swd_reference as reference
import torch

from ganbench.errors import UserError
from ganbench.metrics.functional import laplacian_pyramid, sliced_wasserstein_distance
from ganbench.metrics.maths import sliced_wasserstein as swd_core

GOLDEN = json.loads((Path(__file__).parent / "golden" / "swd_golden.json").read_text())
CASES = {case["name"]: case for case in GOLDEN["cases"]}
SIDES = [64, 32, 16]


@pytest.fixture(scope="module")
def sets():
    made = {"A": reference.octave_noise(11, 256, 64, (40, 20, 8), 0),
            "A2": reference.octave_noise(12, 256, 64, (40, 20, 8), 0),
            "B": reference.octave_noise(13, 256, 64, (30, 30, 8), 0.5)}
    made["A2_affine"] = reference.affine_bytes(made["A2"], (0.5, 0.8, 0.6), (20, 10, 60))
    for name, images in made.items():
        assert hashlib.sha256(images.tobytes()).hexdigest() == GOLDEN["sets"][name]["sha256"], name
    return {name: torch.from_numpy(images) for name, images in made.items()}


def pair(sets, name):
    one, other = name.split("_vs_")
    return sets[one], sets[other]


def random_sets(n=24, side=32, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    smooth = rng.normal(128, 50, (2, n, channels, side // 4, side // 4)).repeat(4, -1).repeat(4, -2)
    noisy = smooth + rng.normal(0, 12, smooth.shape) * np.array([1, 1.3])[:, None, None, None, None]
    return torch.from_numpy(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


# --- golden numbers ---------------------------------------------------------------------------------------------------

def test_pyramid_is_the_golden_one():
    image = torch.from_numpy(reference.formula_image(16, 11, 7, 0))[None]
    levels = laplacian_pyramid(image, min_side=4)
    assert [tuple(level.shape) for level in levels] == [(1, 3, 16, 16), (1, 3, 8, 8), (1, 3, 4, 4)]
    for level, expected, total in zip(levels, GOLDEN["pyramid"]["levels"], GOLDEN["pyramid"]["per_level_sum_abs"],
                                      strict=True):
        assert level.dtype == torch.float32
        np.testing.assert_allclose(level.flatten().numpy(), expected, atol=1e-4, rtol=0)
        assert level.abs().sum().item() == pytest.approx(total, rel=1e-5)


def test_distance_along_golden_directions():
    directions = reference.formula_matrix(147, 6, 13, 29)
    directions = (directions / np.sqrt((directions.astype(np.float64) ** 2).sum(0))).astype(np.float32)
    a, b = reference.formula_matrix(40, 147, 7, 3), reference.formula_matrix(40, 147, 5, 11)
    arrays = swd_core.sliced(np.ascontiguousarray(a.T), np.ascontiguousarray(b.T), directions.T)
    tensors = swd_core.sliced(torch.from_numpy(a).T, torch.from_numpy(b).T, np.ascontiguousarray(directions.T))
    for found in (arrays, tensors):
        assert found.shape == (6,)
        assert found.mean() == pytest.approx(GOLDEN["fixed_direction_distance"], rel=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_exact_stream(sets, name):
    for expected in CASES[name]["exact_protocol"]:
        draws = reference.LegacyDraws(expected["seed"], 256, expected["batch"], SIDES)
        found = swd_core.SlicedWasserstein(swd_core.swd(*pair(sets, name), draws))
        assert list(found) == SIDES
        for side in SIDES:
            assert found[side] == pytest.approx(expected[str(side)], rel=2e-4)
        assert found.average == pytest.approx(expected["avg"], rel=2e-4)


@pytest.mark.parametrize("name", CASES)
def test_free_running_mean_over_seeds(sets, name):
    case, n = CASES[name], 5
    found = [sliced_wasserstein_distance(*pair(sets, name), seed=seed) for seed in range(n)]
    for key in (*SIDES, "avg"):
        values = np.array([f[key] for f in found])
        mean, deviation = case["mean"][str(key)], case["std"][str(key)]
        assert (np.abs(values - mean) <= 5 * deviation).all()
        assert abs(values.mean() - mean) <= 4 * deviation * np.sqrt(1 / n + 1 / 20)


def test_brightness_and_contrast_of_a_whole_set_do_not_count(sets):
    plain = sliced_wasserstein_distance(*pair(sets, "A_vs_A2"), seed=3)
    affine = sliced_wasserstein_distance(*pair(sets, "A_vs_A2_affine"), seed=3)
    for side in SIDES:  # one seed, so the tolerance can be far below the golden 3 deviations
        assert affine[side] == pytest.approx(plain[side], rel=0.02)
        assert abs(affine[side] - plain[side]) <= 3 * CASES["A_vs_A2"]["std"][str(side)]


# --- against the plain version, on the same draws ---------------------------------------------------------------------

@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("settings", [{}, {"patches": 16, "count": 32}])
def test_equals_the_plain_version(channels, settings):
    real, fake = random_sets(n=19, channels=channels)  # 19: the last block is not full
    draws = swd_core.SeededDraws(seed=5, **settings)
    found = swd_core.swd(real, fake, draws)
    expected = reference.swd(real.numpy(), fake.numpy(), draws)
    assert list(found) == list(expected) == [32, 16]
    for side, value in expected.items():
        assert found[side] == pytest.approx(value, rel=2e-5)


def test_other_patch_sizes_and_repeats():
    real, fake = random_sets(n=16)
    draws = swd_core.SeededDraws(seed=1, patches=20, size=5, count=16)
    centres = [np.concatenate([draws.positions(w, 32, b, 8) for b in (0, 1)]).reshape(-1, 2) for w in (0, 1)]
    levels = [reference.pyramid(x.numpy())[0] for x in (real, fake)]
    a, b = (reference.normalised(reference.patches(x, c[:, 0], c[:, 1], 5)) for x, c in zip(levels, centres))
    expected = 1000 * np.mean([reference.distance(a, b, draws.directions(32, r).T) for r in range(2)])
    found = sliced_wasserstein_distance(real, fake, seed=1, patches_per_image=20, patch_size=5, repeats=2,
                                        directions=16)
    assert found[32] == pytest.approx(expected, rel=2e-5)


def test_torch_path_equals_the_numpy_path():
    """What runs on GPUs, run on the CPU: same draws, same numbers."""
    real, fake = random_sets()
    draws = swd_core.SeededDraws(seed=2)
    for which, images in enumerate((real, fake)):
        fast = swd_core.Extractor(images, which, draws, 7, torch.device("cpu"))
        other = swd_core.Extractor(images, which, draws, 7, torch.device("cpu"))
        other.arrays = False
        other.together = 2
        for side in (32, 16):
            a, b = (e.extract(side, lambda work, items: [work(i) for i in items]) for e in (fast, other))
            assert isinstance(a.values, np.ndarray) and isinstance(b.values, torch.Tensor)
            np.testing.assert_allclose(a.values, b.values.numpy(), atol=2e-6)
            np.testing.assert_allclose(a.moments.squares, b.moments.squares, rtol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_equals_cpu(sets):
    a, b = pair(sets, "A_vs_B")
    cpu, gpu = sliced_wasserstein_distance(a, b, seed=4), sliced_wasserstein_distance(a.cuda(), b.cuda(), seed=4)
    for side in SIDES:
        assert gpu[side] == pytest.approx(cpu[side], rel=1e-5)


# --- what must hold ---------------------------------------------------------------------------------------------------

def test_one_seed_one_number_whatever_the_threads_and_passes(monkeypatch):
    real, fake = random_sets()
    draws = swd_core.SeededDraws(seed=1)
    one, two = swd_core.swd(real, fake, draws, threads=1), swd_core.swd(real, fake, draws, threads=2)
    monkeypatch.setattr(swd_core, "KEPT_BUDGET", 0)  # every level made from the bytes, as for large sets
    afresh = swd_core.swd(real, fake, draws, threads=1)
    assert one == two == afresh
    assert swd_core.swd(real, fake, swd_core.SeededDraws(seed=2))[32] != one[32]


def test_positions_reach_every_patch_that_fits():
    centres = swd_core.SeededDraws(seed=0).positions(0, 16, 0, 8)
    assert centres.shape == (8, 128, 2)
    assert (centres.min(), centres.max()) == (3, 12)
    assert not np.array_equal(centres, swd_core.SeededDraws(seed=0).positions(1, 16, 0, 8))
    assert not np.array_equal(centres, swd_core.SeededDraws(seed=0).positions(0, 16, 1, 8))
    lengths = np.linalg.norm(swd_core.SeededDraws(seed=0).directions(16, 0), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)


def test_levels_of_every_side():
    assert swd_core.level_sides(1024) == [1024, 512, 256, 128, 64, 32, 16]
    assert swd_core.level_sides(16) == [16]
    assert swd_core.level_sides(48) == [48, 24]


def test_inputs_stay_as_they_are_and_grey_is_three_equal_channels():
    real, fake = random_sets(channels=1)
    before = real.clone(), fake.clone()
    grey = sliced_wasserstein_distance(real, fake, seed=1)
    colour = sliced_wasserstein_distance(real.expand(-1, 3, -1, -1), fake.expand(-1, 3, -1, -1), seed=1)
    assert torch.equal(real, before[0]) and torch.equal(fake, before[1])
    assert grey == pytest.approx(colour, rel=1e-6)


def test_result_is_a_dict_of_sides_with_an_average():
    found = sliced_wasserstein_distance(*random_sets(), seed=0)
    assert list(found) == [32, 16]
    assert found["avg"] == found.average == pytest.approx((found[32] + found[16]) / 2)
    with pytest.raises(KeyError):
        found[8]


@pytest.mark.parametrize(("real", "fake", "says"), [
    (torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, 3, 8, 8, dtype=torch.uint8), "at least 16"),
    (torch.zeros(4, 3, 32, 32), torch.zeros(4, 3, 32, 32), "not uint8"),
    (torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.zeros(5, 3, 32, 32, dtype=torch.uint8), "as many real"),
    (torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.zeros(4, 3, 16, 16, dtype=torch.uint8), "side"),
    (torch.zeros(4, 3, 32, 16, dtype=torch.uint8), torch.zeros(4, 3, 32, 16, dtype=torch.uint8), "shape"),
    (torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.zeros(4, 3, 32, 32, dtype=torch.uint8), "constant"),
    (torch.zeros(4, 3, 66, 66, dtype=torch.uint8), torch.zeros(4, 3, 66, 66, dtype=torch.uint8), "halved"),
    (torch.zeros(0, 3, 32, 32, dtype=torch.uint8), torch.zeros(0, 3, 32, 32, dtype=torch.uint8), "N > 0"),
])
def test_what_it_refuses(real, fake, says):
    with pytest.raises(UserError, match=says):
        sliced_wasserstein_distance(real, fake)
