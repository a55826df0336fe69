"""Parzen-window log-likelihood against scikit-learn's kernel density and by hand."""

import numpy as np
import pytest
import torch
from measure_support import Call, FakeStore, Known, noise_store, subject_of
from sklearn.neighbors import KernelDensity
from torch import nn

from ganbench.errors import UserError
from ganbench.metrics.measures.parzen import SIGMAS, Parzen, log_likelihoods


def test_log_density_equals_scikit_learns():
    rng = np.random.default_rng(0)
    queries, samples = rng.random((30, 6)), rng.random((50, 6))
    got = log_likelihoods(torch.tensor(queries), torch.tensor(samples), (0.1, 0.7), chunk=7)
    for row, sigma in zip(got, (0.1, 0.7), strict=True):
        expected = KernelDensity(bandwidth=sigma).fit(samples).score_samples(queries)
        np.testing.assert_allclose(row, expected, rtol=1e-9)


def test_one_sample_is_one_gaussian():
    got = log_likelihoods(torch.zeros(1, 784, dtype=torch.float64), torch.zeros(1, 784, dtype=torch.float64), (0.2,))
    assert got[0, 0] == pytest.approx(-784 * np.log(0.2 * np.sqrt(2 * np.pi)))


def test_the_widths_are_the_authors():
    assert len(SIGMAS) == 10 and SIGMAS[0] == pytest.approx(0.1) and SIGMAS[-1] == pytest.approx(1)


def test_measure_chooses_the_width_on_other_images_than_it_scores():
    # Held-out images: grey 128 (0.5) plus noise; samples: all 128. The best single width is the noise's own.
    rng = np.random.default_rng(0)

    def near(n, scale):
        return FakeStore(np.clip(128 + rng.normal(0, scale, (n, 1, 8, 8)), 0, 255).round().astype(np.uint8))

    scale = SIGMAS[1] * 255
    family = Known(Call(lambda z: torch.full((len(z), 1, 8, 8), 128 / 127.5 - 1)))
    measure = Parzen(n=5, validation=100)
    got = {s.level: s for s in measure.measure(subject_of(family, near(50, scale), near(300, scale)))}
    assert got["sigma"].value == pytest.approx(SIGMAS[1])
    assert (got["sigma"].n_real, got[""].n_real, got[""].n_fake) == (52, 53, 5)  # 105 images, half for the width
    assert ";validation=52;" in measure.protocol()  # it said 100
    assert ";validation=100;" in Parzen(n=5, validation=100).protocol()
    expected = -64 * (np.log(SIGMAS[1] * np.sqrt(2 * np.pi)) + 0.5)
    assert got[""].value == pytest.approx(expected, abs=1.2)
    assert got[""].ci_low < got[""].value < got[""].ci_high
    assert "Theis" in got[""].note


def test_samples_equal_to_the_training_images_score_as_the_training_images():
    store = noise_store(20)
    images = torch.from_numpy(store.images).float() / 127.5 - 1
    replay = iter(range(100))
    family = Known(Call(lambda z: images[[next(replay) for _ in range(len(z))]]))
    got = {s.level: s for s in Parzen(n=20).measure(subject_of(family, store, noise_store(40, seed=1)))}
    assert got[""].value == pytest.approx(got["train"].value, rel=1e-9)


def test_bad_input():
    with pytest.raises(UserError, match="held out"):
        Parzen().measure(subject_of(Known(nn.Identity()), noise_store()))
    with pytest.raises(UserError, match="has 3"):
        Parzen().measure(subject_of(Known(nn.Identity()), noise_store(), noise_store(3)))
