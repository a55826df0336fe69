"""The streaming SWD metric, its interval, and its memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from ganbench.errors import UserError
from ganbench.metrics.functional import sliced_wasserstein_distance
from ganbench.metrics.maths import sliced_wasserstein as swd_core
from ganbench.metrics.maths import sliced_wasserstein_interval as swd_interval
from ganbench.metrics.measures.swd import SWD


def images(n, seed=0, spread=20.0, channels=3, side=16):
    rng = np.random.default_rng(seed)
    x = rng.normal(128, 50, (n, channels, 4, 4)).repeat(side // 4, -1).repeat(side // 4, -2)
    return torch.from_numpy(np.clip(np.rint(x + rng.normal(0, spread, x.shape)), 0, 255).astype(np.uint8))


def test_streaming_equals_the_plain_function_whatever_the_batches():
    real, fake = images(21, 1), images(21, 2, 30)
    metric = SWD(seed=4, patches=32)
    for part in fake.split(4):
        metric.update(part)
    for part in real.split(6):
        metric.update(part, real=True)
    expected = sliced_wasserstein_distance(real, fake, seed=4, patches_per_image=32)
    assert metric.compute() == expected
    scores = metric.scores()
    assert [(s.level, s.value) for s in scores] == [("16", expected[16]), ("avg", expected.average)]
    assert {(s.n_real, s.n_fake, s.higher_is_better) for s in scores} == {(21, 21, False)}
    assert metric.protocol() == "swd;patches=32;size=7;repeats=4;directions=128;norm=set-channel;mirror=0;x1000;n=21"
    metric.reset()
    with pytest.raises(UserError, match="no real images"):
        metric.compute()


def test_what_it_keeps_is_its_own():
    real, fake = images(8, 1), images(8, 2)
    metric = SWD()
    metric.update(real, real=True)
    metric.update(fake)
    expected = sliced_wasserstein_distance(real, fake)
    real.zero_()
    fake.zero_()
    assert metric.compute() == expected


def test_a_state_of_reals_can_be_put_back():
    real, fake = images(10, 1), images(10, 2)
    one, other = SWD(), SWD()
    one.update(real, real=True)
    other.load_real_state(one.real_state())
    for metric in (one, other):
        metric.update(fake)
    assert one.compute() == other.compute()


def test_unequal_numbers_or_shapes_are_refused():
    metric = SWD()
    metric.update(images(8, 1), real=True)
    metric.update(images(7, 2))
    with pytest.raises(UserError, match="got 8 and 7"):
        metric.compute()
    with pytest.raises(UserError, match="shapes"):
        metric.update(images(2, 2, side=32))


# --- the interval -----------------------------------------------------------------------------------------------------

def test_leaving_a_group_out_equals_doing_without_its_images():
    """The shortcut (rescale the projections) against the long way (take the images away, normalise afresh)."""
    real, fake = images(40, 1), images(40, 2, 35)
    draws = swd_core.SeededDraws(seed=2, patches=16, count=32)
    jackknife = swd_interval.Jackknife(draws, 1)
    swd_core.swd(real, fake, draws, repeats=1, on_level=jackknife.on_level)

    class Without:
        def __init__(self, kept):
            self.kept = kept

        def positions(self, which, side, block, count):
            everything = np.concatenate([draws.positions(which, side, b, 8) for b in range(5)])[self.kept]
            return everything[block * 8:block * 8 + count]

        def directions(self, side, repeat):
            return draws.directions(side, repeat)[:swd_interval.DIRECTIONS]

    for group in (0, 7):
        kept = np.flatnonzero(np.arange(40) % swd_interval.GROUPS != group)
        expected = swd_core.swd(real[kept], fake[kept], Without(kept), repeats=1)
        assert jackknife.left_out[16][group].mean() == pytest.approx(expected[16], rel=1e-5)


def test_few_images_have_no_interval_and_say_why():
    metric = SWD(patches=8)
    metric.update(images(39, 1), real=True)
    metric.update(images(39, 2))
    assert {(s.ci_low, s.ci_high) for s in metric.scores()} == {(None, None)}
    assert "at least 40 images" in metric.scores()[0].ci_method


def coverage(trials, n, spread, **settings):
    found = []
    for trial in range(trials):
        metric = SWD(seed=trial, **settings)
        metric.update(images(n, 10_000 + trial), real=True)
        metric.update(images(n, 20_000 + trial, spread))
        found.append(metric.scores()[-1])
    truth = np.mean([s.value for s in found])  # the interval is for the expected SWD at this number of images
    return np.mean([s.ci_low <= truth <= s.ci_high for s in found])


def test_interval_covers_what_it_says():
    assert 0.87 <= coverage(80, 60, 25, patches=16, directions=64, repeats=2) <= 1  # 95% less 3 deviations of 80 trials


@pytest.mark.slow
@pytest.mark.parametrize("spread", [20, 24, 32])  # from no difference at all to a large one
def test_interval_covers_what_it_says_over_many_trials(spread):
    assert 0.90 <= coverage(300, 60, spread, patches=32, directions=64, repeats=2) <= 0.985


# --- memory -----------------------------------------------------------------------------------------------------------

PROGRAM = """
import resource, sys
import torch
from ganbench.metrics.maths import sliced_wasserstein as swd_core
from ganbench.metrics.measures.swd import SWD
swd_core.KEPT_BUDGET = 0  # as it is for 16,384 images
n = int(sys.argv[1])
metric = SWD(repeats=1, directions=8)
generator = torch.Generator().manual_seed(0)
for start in range(0, n, 64):
    for real in (True, False):
        metric.update(torch.randint(256, (64, 3, 128, 128), dtype=torch.uint8, generator=generator), real=real)
metric.compute()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def peak(n):
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(n)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
def test_memory_of_the_paper_s_evaluation_stays_below_6_gb():
    """Memory is linear in the images: measure the slope on fewer."""
    small, large = peak(2048), peak(4096)
    assert large + (large - small) / 2048 * (16_384 - 4096) < 6e9
