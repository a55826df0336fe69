"""BEGAN: sizes, nets A to D, the controller on prescribed losses, the rate rule, M_global, one step by hand."""

import copy

import pytest
import torch
from model_support import Reals, WatchedEngine, build, count, flat
from torch import nn

from ganbench.errors import UserError
from ganbench.family import Clock
from ganbench.models.began import Conv
from ganbench.models.nn.equilibrium import Balance, StallRule
from ganbench.pictures.sheets import embed
from ganbench.random import Random, derived_seed

COUNTS = {  # (n, side): generator, generator with skip, encoders A to D, both networks A, both networks A with skip
    (64, 32): (489_539, 563_267, 1_821_440, 2_116_480, 1_636_928, 1_931_968, 2_800_518, 2_947_974),
    (64, 64): (563_395, 673_987, 3_448_256, 4_001_408, 2_931_776, 3_484_928, 4_575_046, 4_796_230),
    (64, 128): (637_251, 784_707, 5_960_000, 6_844_992, 4_853_440, 5_738_432, 7_234_502, 7_529_414),
    (128, 32): (1_421_443, 1_716_355, 5_707_200, 6_887_104, 4_969_536, 6_149_440, 8_550_086, 9_139_910),
    (128, 64): (1_716_611, 2_158_979, 11_688_768, 13_900_992, 9_623_616, 11_835_840, 15_121_990, 16_006_726),
    (128, 128): (2_011_779, 2_601_603, 21_209_664, 24_749_120, 16_784_704, 20_324_160, 25_233_222, 26_412_870),
}


@pytest.mark.parametrize("n, side", COUNTS)
def test_parameter_counts(n, side):
    def make(**options):
        return build("began", side=side, channels=3, n=n, **options)
    with torch.device("meta"):
        plain, skip = make(), make(skip=True)
        encoders = [count(make(down=d).critic.encoder) for d in "ABCD"]
    both = [count(f.generator) + count(f.critic) for f in (plain, skip)]
    assert (count(plain.generator), count(skip.generator), *encoders, *both) == COUNTS[n, side]


def test_a_wider_code_adds_what_it_should():
    with torch.device("meta"):
        family = build("began", side=64, channels=3, n=64, hidden=128)
    assert count(family.generator) == 825_539 and count(family.critic.encoder) == 4_496_896


@pytest.mark.parametrize("down", "ABCD")
@pytest.mark.parametrize("side, channels", [(32, 1), (128, 3)])
def test_shapes_and_what_the_nets_are_made_of(down, side, channels):
    family = build("began", "smoke", side=side, channels=channels, down=down, skip=True)
    x = torch.rand(2, channels, side, side)
    assert family.critic(x).shape == x.shape == family.generator(family.latents(2, Random(0))).shape
    assert family.critic.encoder.head.in_features == 64 * 4 * {32: 3, 128: 5}[side]  # 8x8 maps of the last level
    kinds = {type(m) for m in family.modules()}
    assert not kinds & {nn.BatchNorm2d, nn.Dropout, nn.ConvTranspose2d}


def test_images_are_not_bounded_and_latents_are_uniform():
    family = build("began", "smoke")
    with torch.no_grad():
        family.generator.to_image.bias.fill_(3)
    assert family.sample(family.latents(2, Random(0))).max() > 1.5
    z = family.latents(500, Random(0))
    assert z.shape == (500, 8) and z.abs().max() <= 1 and float(z.std()) == pytest.approx(3 ** -0.5, rel=0.03)


def test_initial_weights_are_xavier_uniform():
    layer = build("began", "smoke", n=32).critic.encoder.layers[1]
    bound = (6 / (9 * 64)) ** 0.5
    assert bound * 0.99 < float(layer.weight.detach().abs().max()) <= bound and layer.bias.abs().max() == 0


def test_the_skip_appends_the_enlarged_start():
    """By hand for the second level: the first convolution sees [features, start] at 16x16."""
    family = build("began", "smoke", skip=True)
    g = family.generator
    z = family.latents(2, Random(0))
    start = g.start(z).view(2, 4, 8, 8)
    x = start
    def big(t):
        return t.repeat_interleave(2, 2).repeat_interleave(2, 3)
    for index, level in enumerate(g.levels):
        if index:
            enlarged = start
            for _ in range(index):
                enlarged = big(enlarged)
            x = torch.cat([big(x), enlarged], 1)
        for conv in level:
            x = nn.functional.elu(nn.functional.conv2d(x, conv.weight, conv.bias, padding=1))
    assert torch.allclose(g(z), nn.functional.conv2d(x, g.to_image.weight, g.to_image.bias, padding=1), atol=1e-5)


def test_vanishing_residuals():
    torch.manual_seed(0)
    x, same, wider = torch.randn(2, 4, 8, 8), Conv(4, 4), Conv(4, 8)
    for carry in (0.0, 0.25, 1.0):
        blended = carry * x + (1 - carry) * same(x)
        assert torch.allclose(same(x, torch.tensor(carry)), blended, atol=1e-6)
        assert torch.equal(wider(x, torch.tensor(carry)), wider(x))
    family = build("began", "smoke", carry_steps=16_000)
    engine = WatchedEngine(family)
    for step, carry in ((0, 1.0), (4000, 0.75), (16_000, 0.0), (20_000, 0.0)):
        engine.enter(family.stage(Clock(steps=step)))
        assert float(family.generator.carry) == carry == float(family.critic.encoder.carry)
    assert build("began", "smoke").generator.carry is None


# --- the controller on prescribed losses ----------------------------------------------------------------------------

def drive(balance, real, fake, steps):
    for _ in range(steps):
        balance.update(torch.tensor(real), torch.tensor(fake(float(balance.k)) if callable(fake) else fake))
    return float(balance.k)


def test_k_grows_by_exactly_the_error_times_the_gain():
    balance = Balance(0.5, 0.001)
    assert drive(balance, 0.2, 0.05, 10) == pytest.approx(5e-4, rel=1e-6)
    assert drive(balance, 0.2, 0.05, 1990) == pytest.approx(0.1, rel=1e-6)


def test_k_stays_within_0_and_1():
    assert drive(Balance(0.5, 0.001), 0.2, 0.3, 50) == 0
    balance = Balance(0.5, 0.001)
    assert drive(balance, 1.0, 0.0, 1990) < 1
    assert drive(balance, 1.0, 0.0, 20) == 1 == drive(balance, 1.0, 0.0, 10)
    wild = Balance(0.5, 10.0)
    rng = torch.Generator().manual_seed(0)
    for _ in range(200):
        wild.update(torch.rand((), generator=rng), torch.rand((), generator=rng))
        assert 0 <= float(wild.k) <= 1


def test_closed_loop_reaches_its_fixed_point_with_its_time_constant():
    """L(G) = 0.02 + 0.16 k with L(x) = 0.2: k* = 0.5, time constant 1 / (0.001 * 0.16) = 6250 steps."""
    balance, plant = Balance(0.5, 0.001), lambda k: 0.02 + 0.16 * k
    assert drive(balance, 0.2, plant, 6250) == pytest.approx(0.5 * (1 - 2.718281828 ** -1), abs=1e-3)
    assert drive(balance, 0.2, plant, 3750) == pytest.approx(0.399, abs=1e-3)
    k = drive(balance, 0.2, plant, 50_000)
    assert k == pytest.approx(0.49997, abs=1e-5)
    assert plant(k) / 0.2 == pytest.approx(0.5, rel=1e-3)  # the ratio comes to gamma


def test_m_global():
    balance = Balance(0.5, 0.001)
    def m(a, b):
        return float(balance.m_global(torch.tensor(a), torch.tensor(b)))
    assert m(0.2, 0.05) == pytest.approx(0.25) and m(0.2, 0.1) == pytest.approx(0.2)
    assert m(0.2, 0.4) == pytest.approx(0.5)
    assert all(m(0.2, b) >= 0.2 - 1e-7 for b in (0.0, 0.05, 0.1, 0.15, 1.0))


# --- the learning-rate rule -----------------------------------------------------------------------------------------

def test_the_rate_is_halved_after_two_windows_without_progress_and_not_below_the_floor():
    rule, seen = StallRule(1e-4, 2e-5, window=10, patience=2), []
    for m in (1.0, 0.9, 0.895, 0.893, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5):
        for _ in range(10):
            rule.update(torch.tensor(m, dtype=torch.float64))
        seen.append(round(float(rule.rate) * 1e5, 3))
        assert float(rule.last_mean) == pytest.approx(m)
    #       1.0  0.9  .895 .893 0.5  0.5  0.5  ...  (0.895 and 0.893 are above 0.99 * 0.9 = 0.891)
    assert seen == [10, 10, 10, 5, 5, 5, 2.5, 2.5, 2, 2, 2]


def test_progress_resets_the_count():
    rule = StallRule(1e-4, 2e-5, window=1, patience=2)
    for m in (1.0, 1.0, 0.9, 0.9, 0.8, 0.8, 0.7):
        rule.update(torch.tensor(m, dtype=torch.float64))
    assert float(rule.rate) == 1e-4


def test_the_other_rules():
    family = build("began", "smoke", rate=8e-5, rate_rule="steps")
    rates = [family.stage(Clock(steps=s)).rates["critic"] for s in (0, 99_999, 100_000, 200_000, 900_000)]
    assert rates == pytest.approx([8e-5, 8e-5, 4e-5, 2e-5, 2e-5])
    assert build("began", "smoke", rate=8e-5, rate_rule="constant").stage(Clock(steps=10**6)).rates["critic"] == 8e-5


# --- a step ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("eta, shared", [(1, True), (2, False)])
def test_one_step_by_plain_pytorch(eta, shared):
    family = build("began", "smoke", eta=eta, share_latents=shared)
    family.balance.k.fill_(0.3)
    g, d = copy.deepcopy(family.generator), copy.deepcopy(family.critic)
    engine = WatchedEngine(family)
    logs = engine.steps(Reals(engine))

    x, stream = Random(1).uniform(16, 1, 32, 32, low=-1.0), Random(derived_seed(0, "latents"))
    def loss(v):
        return ((v - d(v)).abs() ** eta).mean()
    fake = g(stream.uniform(16, 8, low=-1.0))
    critic_fake = (fake if shared else g(stream.uniform(16, 8, low=-1.0))).detach()
    real_loss, fake_loss = loss(x), loss(fake)
    critic_loss = real_loss - 0.3 * loss(critic_fake)
    for network, value in ((g, fake_loss), (d, critic_loss)):
        gradients = torch.autograd.grad(value, list(network.parameters()), retain_graph=True)
        for p, gradient in zip(network.parameters(), gradients, strict=True):
            p.grad = gradient
    torch.optim.Adam(g.parameters(), 1e-4).step()
    torch.optim.Adam(d.parameters(), 1e-4).step()
    assert flat(family.generator).numpy() == pytest.approx(flat(g).numpy(), abs=2e-6)
    assert flat(family.critic).numpy() == pytest.approx(flat(d).numpy(), abs=2e-6)
    error = 0.5 * float(real_loss) - float(fake_loss)
    assert logs["k"] == pytest.approx(0.3) and float(family.balance.k) == pytest.approx(0.3 + 0.001 * error)
    assert logs["m_global"] == pytest.approx(float(real_loss) + abs(error), rel=1e-5)
    assert logs["ratio"] == pytest.approx(float(fake_loss) / float(real_loss), rel=1e-5)
    assert engine.updates[1] == ("critic", pytest.approx(float(critic_loss), rel=1e-5))


def test_the_generators_gradient_flows_through_the_image_and_its_reconstruction():
    family = build("began", "smoke")
    v = torch.rand(2, 1, 32, 32, requires_grad=True)
    ours, = torch.autograd.grad(family.loss(v), v)
    expected, = torch.autograd.grad((family.critic(v) - v).abs().mean(), v)
    detached, = torch.autograd.grad((family.critic(v) - v.detach()).abs().mean(), v)
    assert torch.allclose(ours, expected) and not torch.allclose(ours, detached, rtol=1e-2, atol=1e-7)


def test_controllers_travel_in_the_state():
    family = build("began", "smoke")
    engine = WatchedEngine(family)
    engine.steps(Reals(engine), 12)  # a window is 10 steps
    family.balance.k.fill_(0.37)
    twin = build("began", "smoke", seed=5)
    twin.load_state_dict(family.state_dict())
    assert float(twin.balance.k) == 0.37 and float(twin.stall.seen) == 2
    assert float(twin.stall.best) == float(family.stall.best) < 10


def test_reals_are_embedded_into_latents():
    family = build("began", "smoke")
    target = family.latents(2, Random(7))
    images = family.generator(target).detach()
    start = family.latents(2, Random(3))
    embedded = embed(family, family.generator, images, start, steps=300)
    far = (family.generator(start) - images).abs().mean()
    assert (family.generator(embedded) - images).abs().mean() < 0.3 * far


def test_gamma_outside_0_and_1_is_one_clear_line():
    for gamma in (-0.1, 1.5):
        with pytest.raises(UserError, match="gamma"):
            build("began", "smoke", gamma=gamma)
    with pytest.raises(UserError, match="side 8"):
        build("began", "smoke", side=8)
