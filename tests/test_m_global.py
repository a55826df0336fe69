"""M_global against hand computations."""

import numpy as np
import pytest
import torch
from measure_support import Call, FakeStore, Known, noise_store, subject_of
from torch import nn

from ganbench.metrics.measures.m_global import MGlobal, numbers


class Half(nn.Module):
    """An autoencoder that returns half of what it sees: |v - D(v)| = |v| / 2."""

    def forward(self, images):
        return images / 2


def levels(scores):
    return {s.level: s for s in scores}


def test_equals_the_hand_computation_for_known_energies():
    # Reals are all white (v = 1, L = 0.5); fakes are all 0.2 (L = 0.1): M = 0.5 + |0.5 * 0.5 - 0.1| = 0.65.
    family = Known(Call(lambda z: torch.full((len(z), 1, 8, 8), 0.2)), Half(), autoencoder_critic=True)
    got = levels(MGlobal().measure(subject_of(family, FakeStore(np.full((10, 1, 8, 8), 255, np.uint8)), n=32)))
    expected = {"": 0.65, "L_real": 0.5, "L_fake": 0.1, "balance": 0.15, "ratio": 0.2}
    assert {k: s.value for k, s in got.items()} == pytest.approx(expected, abs=1e-6)
    assert got[""].ci_low == pytest.approx(0.65) and got[""].ci_high == pytest.approx(0.65)  # no spread over images
    assert (got[""].n_real, got[""].n_fake) == (10, 32)


def test_equals_float64_numpy_for_a_random_autoencoder():
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ELU(), nn.Linear(5, 64), nn.Unflatten(1, (1, 8, 8)))
    generator = nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (1, 8, 8)))
    family = Known(generator, critic, autoencoder_critic=True, energy_ratio=0.7)
    store, measure = noise_store(40), MGlobal(n=40)
    subject = subject_of(family, store)

    def energies(images):
        w1, b1, w2, b2 = (p.detach().double().numpy() for p in critic.parameters())
        v = images.reshape(len(images), 64)
        h = v @ w1.T + b1
        h = np.where(h > 0, h, np.expm1(np.minimum(h, 0)))
        return np.abs(v - (h @ w2.T + b2)).mean(1)

    from ganbench.metrics.subjects import stream
    random = stream(subject, "m_global")
    with torch.no_grad():
        made = generator(family.latents(40, random)).double().numpy()
    a, b = energies(store.images / 127.5 - 1).mean(), energies(made).mean()
    got = levels(measure.measure(subject))
    assert got["L_real"].value == pytest.approx(a, rel=1e-5)
    assert got["L_fake"].value == pytest.approx(b, rel=1e-5)
    assert got[""].value == pytest.approx(a + abs(0.7 * a - b), rel=1e-5)
    assert got["ratio"].value == pytest.approx(b / a, rel=1e-5)
    assert got[""].ci_low < got[""].value < got[""].ci_high
    assert "gamma=0.7" in measure.protocol()


def test_the_interval_of_the_mean_is_as_wide_as_theory_says():
    store = noise_store(400)
    family = Known(Call(lambda z: z[:, :1, None, None].expand(-1, 1, 8, 8)), Half(), autoencoder_critic=True)
    got = levels(MGlobal(n=400).measure(subject_of(family, store)))["L_fake"]
    # L of one fake is |z|/2 with z ~ N(0,1): standard deviation sqrt(1 - 2/pi) / 2.
    theory = 2 * 1.96 * np.sqrt(1 - 2 / np.pi) / 2 / np.sqrt(400)
    assert got.ci_high - got.ci_low == pytest.approx(theory, rel=0.1)


@pytest.mark.parametrize("shift", [0.3, 0.5, 0.9])  # fakes too good, balanced, too bad for gamma = 0.5
def test_the_errors_are_those_of_repeated_draws(shift):
    rng, gamma = np.random.default_rng(0), 0.5
    draws = [numbers(1 + 0.2 * rng.normal(size=200), shift + 0.3 * rng.normal(size=100), gamma) for _ in range(2000)]
    for level in ("", "L_real", "L_fake", "balance", "ratio"):
        spread = np.std([d[level][0] for d in draws])
        error = np.mean([d[level][1] for d in draws])
        if level == "" and shift == 0.5:
            assert spread < error < 2 * spread  # in balance the error given is on the safe side
        else:
            assert error == pytest.approx(spread, rel=0.06)


def test_a_family_may_say_its_energy_itself_and_without_gamma_balance_means_equal_energies():
    class NormEnergy(Known):
        def energy(self, images):
            return (images - self.critic(images)).flatten(1).norm(dim=1)

    family = NormEnergy(Call(lambda z: torch.ones(len(z), 1, 8, 8)), Half(), autoencoder_critic=True, energy_ratio=1.0)
    measure = MGlobal()
    got = levels(measure.measure(subject_of(family, FakeStore(np.zeros((5, 1, 8, 8), np.uint8)))))
    assert got[""].value == pytest.approx(4.0)  # both energies are sqrt(64) / 2 = 4 and balance is 0
    assert got["balance"].value == pytest.approx(0) and "gamma=1;" in measure.protocol()


def test_the_critics_mode_is_left_as_it_was_and_does_not_matter():
    critic = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5))
    family = Known(Call(lambda z: torch.zeros(len(z), 1, 8, 8)), critic, autoencoder_critic=True)
    critic.train()
    first = MGlobal().measure(subject_of(family, noise_store()))
    assert critic.training and critic[1].training and critic[0].num_batches_tracked == 0
    critic.eval()
    assert MGlobal().measure(subject_of(family, noise_store())) == first


@pytest.mark.parametrize("eta", [1, 2])
def test_began_says_gamma_and_its_energy(eta):
    from ganbench.family import create
    family = create("began", side=16, channels=1, preset="smoke", gamma=0.3, eta=eta).eval()
    images = torch.rand(3, 1, 16, 16) * 2 - 1
    expected = (images - family.critic(images)).abs().pow(eta).mean((1, 2, 3))
    torch.testing.assert_close(family.energy(images), expected)
    assert family.energy_ratio == 0.3 and family.loss(images).item() == pytest.approx(expected.mean().item(), rel=1e-6)


def test_other_families_get_a_line_that_says_why_not():
    assert "autoencoder" in MGlobal().applies(Known(nn.Identity()))
    assert MGlobal().applies(Known(nn.Identity(), autoencoder_critic=True)) == ""
