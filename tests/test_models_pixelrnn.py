"""PixelRNN's Row LSTM: size, the recurrence against NumPy, its triangular context, sampling."""

import math

import numpy as np
import pytest
import torch
from model_support import Reals, WatchedEngine, build, count
from scipy.special import expit
from torch import nn

from ganbench.models.pixelrnn import RowLSTM


@pytest.mark.parametrize("preset, channels, h, layers, head, outputs", [
    ("paper", 3, 128, 12, 1024, 3 * 256), ("small", 1, 32, 4, 32, 256), ("binary", 1, 32, 4, 32, 1),
    ("smoke", 3, 4, 1, 8, 12)])
def test_parameter_counts(preset, channels, h, layers, head, outputs):
    with torch.device("meta"):
        found = count(build("pixelrnn", preset, channels=channels).generator)
    layer = (3 * 2 * h + 1) * 4 * h + 3 * h * 4 * h + (h + 1) * 2 * h  # input to state, state to state, back to 2h
    ends = (49 * channels + 1) * 2 * h + (2 * h + 1) * head + (head + 1) * head + (head + 1) * outputs
    assert found == layers * layer + ends
    assert preset != "paper" or found == 9_618_176


def test_the_recurrence_against_numpy():
    """One colour, so that the mask hides only what lies to the right."""
    torch.manual_seed(0)
    layer = RowLSTM(3, 1).double()
    x = torch.randn(1, 6, 4, 5, dtype=torch.float64)
    inward, above = layer.inward.weight.detach().numpy()[:, :, 0], layer.above.weight.detach().numpy()
    bias, up, up_bias = (t.detach().numpy() for t in (layer.inward.bias, layer.up.weight[:, :, 0, 0], layer.up.bias))
    image = x[0].numpy()
    state, cell, expected = np.zeros((3, 5)), np.zeros((3, 5)), image.copy()
    for i in range(4):
        new_state, new_cell = np.zeros((3, 5)), np.zeros((3, 5))
        for j in range(5):
            gates = bias + inward[:, :, 1] @ image[:, i, j]
            if j > 0:
                gates = gates + inward[:, :, 0] @ image[:, i, j - 1] + above[:, :, 0] @ state[:, j - 1]
            gates = gates + above[:, :, 1] @ state[:, j]
            if j < 4:
                gates = gates + above[:, :, 2] @ state[:, j + 1]
            output, forget, entry, content = gates.reshape(4, 3)
            new_cell[:, j] = expit(forget) * cell[:, j] + expit(entry) * np.tanh(content)
            new_state[:, j] = expit(output) * np.tanh(new_cell[:, j])
            expected[:, i, j] += up @ new_state[:, j] + up_bias
        state, cell = new_state, new_cell
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_a_layers_context_is_a_triangle():
    """Own row: itself and its left neighbour; r rows above: from r + 1 columns to the left to r to the right."""
    torch.manual_seed(0)
    layer = RowLSTM(4, 1).double()
    x = torch.randn(1, 8, 6, 11, dtype=torch.float64, requires_grad=True)
    gradient, = torch.autograd.grad(layer(x)[0, :, 4, 5].sum(), x)
    seen = {tuple(p) for p in gradient[0].abs().sum(0).nonzero().tolist()}
    assert seen == {(4 - r, j) for r in range(5) for j in range(5 - r - 1, 5 + r + 1)}


@pytest.mark.parametrize("hidden", [12, 13])  # 13 does not divide by three colours
def test_logits_never_see_their_own_pixel_nor_later_ones(hidden):
    torch.manual_seed(0)
    net = build("pixelrnn", "smoke", channels=3, hidden=hidden, head=24, blocks=2).generator.double()
    x = torch.randn(1, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    order = torch.arange(25).expand(3, 25) * 3 + torch.arange(3)[:, None]
    blind = 0
    for colour in range(3):
        for place in range(25):
            out = net(x)[0, colour].flatten(1)[:, place].square().sum()
            gradient, = torch.autograd.grad(out, x)
            assert gradient[0].flatten(1)[order >= place * 3 + colour].abs().max() == 0
            blind += place > 0 and not gradient.any()
    assert blind <= 3, "of 72; a few may have all their few rectified units off"


@pytest.mark.parametrize("channels, levels", [(1, 4), (3, 4), (1, 2)])
def test_drawing_pixel_by_pixel_equals_drawing_with_whole_passes(channels, levels):
    torch.manual_seed(0)
    net = build("pixelrnn", "smoke", channels=channels, hidden=6, head=24, blocks=2, levels=levels).generator.double()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2)  # so that the distributions are far from uniform
    noise = torch.rand(4, channels, 6, 6, dtype=torch.float64)
    images = torch.zeros(4, channels, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        for i in range(6):
            for j in range(6):
                for colour in range(channels):
                    cumulative = net(images)[:, colour, :, i, j].softmax(1).cumsum(1)
                    level = torch.searchsorted(cumulative, noise[:, colour, i, j, None].contiguous(), right=True)[:, 0]
                    images[:, colour, i, j] = level.clamp_max(levels - 1).double() * 2 / (levels - 1) - 1
    np.testing.assert_allclose(net.draw(noise).numpy(), images.numpy(), atol=1e-6)
    assert len(images.unique()) == levels


def test_a_zero_head_knows_nothing_exactly():
    family = build("pixelrnn", "smoke", levels=256, channels=3)
    nn.init.zeros_(family.generator.out.weight)
    nn.init.zeros_(family.generator.out.bias)
    logs = WatchedEngine(family)
    logs = logs.steps(Reals(logs))
    assert logs["bits_per_dim"] == pytest.approx(8, abs=1e-5)
    assert logs["nll"] == pytest.approx(math.log(256) * 3 * 1024, rel=1e-5)
