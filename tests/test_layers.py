"""Shared layers against loops, closed forms and autograd."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from ganbench.models.nn.layers import (
    LayerNorm,
    MaskedConv2d,
    Maxout,
    MinibatchDiscrimination,
    batch_statistics,
    normal_weights,
    uniform_weights,
)


def test_layer_norm_is_over_all_of_a_sample():
    x = torch.randn(3, 4, 5, 5) * 7 + 2
    layer = LayerNorm(4)
    out = layer(x)
    assert out.mean((1, 2, 3)).abs().max() < 1e-5 and (out.std((1, 2, 3), correction=0) - 1).abs().max() < 1e-4
    with torch.no_grad():
        layer.weight.copy_(torch.arange(4.0))
        layer.bias.fill_(1)
    assert torch.allclose(layer(x), out * torch.arange(4.0).view(1, 4, 1, 1) + 1, atol=1e-6)
    assert torch.allclose(layer(x)[:1], layer(x[:1]), atol=1e-6)  # a sample does not see the others


def test_maxout_is_the_largest_piece():
    layer = Maxout(6, 4, 3)
    x = torch.randn(5, 6)
    w, b = layer.linear.weight.detach().numpy(), layer.linear.bias.detach().numpy()
    affine = x.numpy() @ w.T + b
    expected = np.stack([affine[:, 3 * u:3 * u + 3].max(1) for u in range(4)], 1)
    assert layer(x).detach().numpy() == pytest.approx(expected, abs=1e-6)


# --- minibatch discrimination ---------------------------------------------------------------------------------------

def closeness(layer, x):
    return layer(x)[:, x.shape[1]:]


def test_minibatch_discrimination_against_loops():
    torch.manual_seed(0)
    layer = MinibatchDiscrimination(6, 4, 3).double()
    x = torch.randn(5, 6, dtype=torch.float64) * 10
    m = (x @ layer.T).detach().numpy().reshape(5, 4, 3)
    expected = np.array([[sum(np.exp(-np.abs(m[i, b] - m[j, b]).sum()) for j in range(5) if j != i) for b in range(4)]
                         for i in range(5)])
    assert closeness(layer, x).detach().numpy() == pytest.approx(expected, abs=1e-10)
    assert torch.equal(layer(x)[:, :6], x)


def test_minibatch_discrimination_at_its_extremes():
    layer = MinibatchDiscrimination(6, 4, 3)
    same = torch.randn(1, 6).expand(7, 6)
    assert closeness(layer, same).detach().numpy() == pytest.approx(6.0, abs=1e-4)  # N - 1
    far = torch.randn(7, 6) * 1e5
    assert closeness(layer, far).abs().max() < 1e-5
    x = torch.randn(7, 6)
    order = torch.randperm(7)
    assert torch.allclose(layer(x)[order], layer(x[order]), atol=1e-6)
    shifted = closeness(layer, x + torch.ones(6))  # shifts all M by one constant
    assert torch.allclose(shifted, closeness(layer, x), atol=1e-4)


# --- masked convolutions --------------------------------------------------------------------------------------------

def test_masked_layers_see_only_what_comes_before_in_raster_and_colour_order():
    """d out[colour, row, column] / d in is exactly 0 at and after that place, through one A layer and two B layers."""
    torch.manual_seed(0)
    net = nn.Sequential(MaskedConv2d("A", 3, 7, 5, 3), nn.Tanh(), MaskedConv2d("B", 7, 8, 3, 3), nn.Tanh(),
                        MaskedConv2d("B", 8, 6, 1, 3)).double()
    x = torch.randn(1, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    groups = torch.arange(6) * 3 // 6
    for colour in range(3):
        for place in range(25):
            out = net(x)[0, groups == colour].flatten(1)[:, place].sum()
            gradient, = torch.autograd.grad(out, x)
            position = torch.arange(25).expand(3, 25) * 3 + torch.arange(3)[:, None]  # raster order, colours inside
            later = (position >= place * 3 + colour).view(3, 5, 5)
            assert gradient[0][later].abs().max() == 0
            if place:  # and it does see something: the pixel before, in every colour
                assert (gradient[0].flatten(1)[:, place - 1] != 0).all() or place % 5 == 0
            if colour:
                assert gradient[0, colour - 1].flatten()[place] != 0


def test_mask_b_alone_shows_a_pixel_its_own_colour():
    layer = MaskedConv2d("B", 3, 3, 3, 3)
    x = torch.randn(1, 3, 5, 5, requires_grad=True)
    gradient, = torch.autograd.grad(layer(x)[0, 1, 2, 2], x)
    assert (gradient[0, :2, 2, 2] != 0).all() and gradient[0, 2, 2, 2] == 0


# --- initialisers ---------------------------------------------------------------------------------------------------

def test_normal_weights():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(64, 64, 4), nn.BatchNorm2d(4096), nn.Linear(500, 100))
    normal_weights(net, 0.02)
    for layer in (net[0], net[2]):
        n = layer.weight.numel()
        assert abs(float(layer.weight.std()) - 0.02) < 3 * 0.02 / math.sqrt(2 * n)
        assert layer.bias.abs().max() == 0
    assert float(net[1].weight.mean()) == pytest.approx(1, abs=2e-3)
    assert float(net[1].weight.std()) == pytest.approx(0.02, rel=0.1)
    assert net[1].bias.abs().max() == 0


@pytest.mark.parametrize("layer, he, variance", [
    (nn.Linear(300, 200), False, 2 / 500),
    (nn.Conv2d(64, 32, 3), True, 4 / (9 * 64 + 9 * 32)),
    (nn.Conv2d(64, 32, 5, 2), True, 4 / (25 * 64 + 25 * 32 / 4)),
    (nn.ConvTranspose2d(64, 32, 5, 2), True, 4 / (25 * 64 / 4 + 25 * 32)),
    (nn.Conv2d(256, 256, 1), False, 2 / 512),
])
def test_uniform_weights(layer, he, variance):
    torch.manual_seed(0)
    uniform_weights(layer, he)
    weight = layer.weight.detach()
    assert float(weight.var()) == pytest.approx(variance, rel=0.03)
    assert float(weight.abs().max()) == pytest.approx(math.sqrt(3 * variance), rel=2e-3)
    assert float(weight.abs().max()) <= math.sqrt(3 * variance) * (1 + 1e-6)
    assert layer.bias.abs().max() == 0


def test_batch_statistics_normalise_by_the_batch_and_leave_the_averages_alone():
    norm = nn.BatchNorm2d(3).eval()
    x = torch.randn(8, 3, 4, 4) * 5 + 3
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    with batch_statistics(norm):
        out = norm(x)
    assert out.mean((0, 2, 3)).abs().max() < 1e-5
    assert all(torch.equal(before[k], v) for k, v in norm.state_dict().items())
    assert not norm.training and norm.track_running_stats
    assert (norm(x).mean((0, 2, 3)) - 3).abs().max() < 1.5  # outside, the running averages again
