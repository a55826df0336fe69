"""Shared losses against closed forms and float64 NumPy."""

import numpy as np
import pytest
import torch

from ganbench.models.nn import losses

LN2 = np.log(2)
ZEROS = torch.zeros(8)


@pytest.mark.parametrize("loss, args, expected", [
    (losses.logistic_critic, (ZEROS, ZEROS), 2 * LN2),
    (losses.non_saturating_generator, (ZEROS,), LN2),
    (losses.minimax_generator, (ZEROS,), -LN2),
    (losses.wasserstein_critic, (ZEROS, ZEROS), 0.0),
    (losses.wasserstein_generator, (ZEROS,), 0.0),
    (losses.least_squares_critic, (ZEROS, ZEROS), 0.5),
    (losses.least_squares_generator, (ZEROS,), 0.5),
    (losses.least_squares_critic, (ZEROS, ZEROS, -1.0, 1.0), 1.0),
    (losses.least_squares_generator, (ZEROS, 0.0), 0.0),
    (losses.hinge_critic, (ZEROS, ZEROS), 2.0),
    (losses.hinge_generator, (ZEROS,), 0.0),
])
def test_values_against_a_blind_critic(loss, args, expected):
    assert float(loss(*args)) == pytest.approx(expected, abs=1e-6)


def test_values_on_random_scores_agree_with_numpy():
    rng = np.random.default_rng(0)
    r, f = rng.normal(0, 3, 50), rng.normal(-1, 3, 50)
    real, fake = torch.tensor(r), torch.tensor(f)
    def sigmoid(t):
        return 1 / (1 + np.exp(-t))
    expected = {
        "logistic": (losses.logistic_critic(real, fake), -np.log(sigmoid(r)).mean() - np.log(1 - sigmoid(f)).mean()),
        "ns": (losses.non_saturating_generator(fake), -np.log(sigmoid(f)).mean()),
        "minimax": (losses.minimax_generator(fake), np.log(1 - sigmoid(f)).mean()),
        "w": (losses.wasserstein_critic(real, fake), f.mean() - r.mean()),
        "ls": (losses.least_squares_critic(real, fake, -1, 1), ((r - 1) ** 2).mean() / 2 + ((f + 1) ** 2).mean() / 2),
        "hinge": (losses.hinge_critic(real, fake), np.maximum(0, 1 - r).mean() + np.maximum(0, 1 + f).mean()),
        "energy": (losses.energy_critic(real.abs(), fake.abs(), 2.0),
                   np.abs(r).mean() + np.maximum(0, 2 - np.abs(f)).mean()),
    }
    for name, (ours, theirs) in expected.items():
        assert float(ours) == pytest.approx(theirs, rel=1e-12), name


def test_logistic_losses_stay_finite_for_a_critic_that_is_very_sure():
    assert float(losses.logistic_critic(torch.full((2,), -500.0), torch.full((2,), 500.0))) == 1000.0
    assert float(losses.minimax_generator(torch.full((2,), 500.0))) == -500.0


def test_js_bound_is_ln2_for_a_perfect_critic_and_0_for_a_blind_one():
    assert float(losses.js_bound(torch.tensor(0.0))) == pytest.approx(LN2)
    assert float(losses.js_bound(torch.tensor(2 * LN2))) == pytest.approx(0.0, abs=1e-7)


# --- gradient penalty -----------------------------------------------------------------------------------------------

@pytest.fixture
def pair():
    torch.manual_seed(0)
    return torch.rand(5, 3, 32, 32), torch.rand(5, 3, 32, 32)


def test_penalty_of_a_linear_critic_is_its_norm_minus_one_squared(pair):
    a = torch.ones(3, 32, 32)
    norms = losses.gradient_norms(lambda x: (x * a).sum((1, 2, 3)), *pair, torch.rand(5))
    assert float(losses.gradient_penalty(norms)) == pytest.approx((np.sqrt(3072) - 1) ** 2, rel=1e-5)
    assert float(losses.gradient_penalty(norms)) == pytest.approx(2962.15, abs=0.01)


def test_the_point_between_is_eps_x_plus_rest_of_fake_with_one_eps_per_sample(pair):
    real, fake = pair
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.square().sum((1, 2, 3))

    eps = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    norms = losses.gradient_norms(critic, real, fake, eps)
    recovered = (seen[0] - fake) / (real - fake)
    for i in range(5):
        solid = (real[i] - fake[i]).abs() > 0.05  # elsewhere the quotient is mostly rounding
        assert recovered[i][solid].numpy() == pytest.approx(float(eps[i]), abs=1e-4)
    # the gradient of |x|^2 is 2x: with eps 1 the fakes do not matter, with eps 0 the reals do not
    assert float(norms[4]) == pytest.approx(2 * float(real[4].norm()), rel=1e-5)
    assert float(norms[0]) == pytest.approx(2 * float(fake[0].norm()), rel=1e-5)


def test_penalty_reaches_the_critic_and_not_the_generator(pair):
    generator = torch.nn.Conv2d(3, 3, 1)
    critic = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Tanh(), torch.nn.Flatten(),
                                 torch.nn.Linear(3600, 1), torch.nn.Flatten(0))
    losses.gradient_penalty(losses.gradient_norms(critic, pair[0], generator(pair[1]), torch.rand(5))).backward()
    assert all(p.grad is None for p in generator.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in critic.parameters())


def test_a_flat_critic_has_a_finite_gradient_of_its_penalty(pair):
    critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 1, bias=False), torch.nn.Flatten(0))
    torch.nn.init.zeros_(critic[1].weight)
    losses.gradient_penalty(losses.gradient_norms(critic, *pair, torch.rand(5))).backward()
    assert torch.isfinite(critic[1].weight.grad).all()


def test_r1_of_linear_and_quadratic_critics(pair):
    x = pair[0]
    a = torch.rand(3, 32, 32)
    linear = losses.r1_penalty(lambda v: (v * a).sum((1, 2, 3)), x, 10.0)
    assert float(linear) == pytest.approx(5 * float(a.square().sum()), rel=1e-5)
    quadratic = losses.r1_penalty(lambda v: 0.5 * v.square().sum((1, 2, 3)), x, 3.0)
    assert float(quadratic) == pytest.approx(1.5 * float(x.square().sum((1, 2, 3)).mean()), rel=1e-5)


# --- energies -------------------------------------------------------------------------------------------------------

def test_pulling_away_term():
    row = torch.randn(1, 7)
    assert float(losses.pulling_away(row.expand(4, 7))) == pytest.approx(1.0)
    assert float(losses.pulling_away(torch.eye(5))) == pytest.approx(0.0, abs=1e-7)
    assert float(losses.pulling_away(torch.cat([row, -row]))) == pytest.approx(1.0)  # the cosine is squared
    assert float(losses.pulling_away(row)) == 0.0
    code = torch.randn(6, 2, 3, 3)
    scaled = code * torch.tensor([1.0, 2, 0.1, 5, 1, 9]).view(-1, 1, 1, 1)
    assert float(losses.pulling_away(scaled)) == pytest.approx(float(losses.pulling_away(code)), rel=1e-5)
    s = code.flatten(1).double().numpy()
    expected = np.mean([(s[i] @ s[j] / np.linalg.norm(s[i]) / np.linalg.norm(s[j])) ** 2
                        for i in range(6) for j in range(6) if i != j])
    assert float(losses.pulling_away(code)) == pytest.approx(expected, rel=1e-5)


def test_the_energy_hinge_acts_on_each_sample_by_itself():
    fake = torch.tensor([0.0, 4.0])  # batch mean 2 is beyond the margin; the first sample is not
    assert float(losses.energy_critic(torch.zeros(2), fake, 1.0)) == 0.5
