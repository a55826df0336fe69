"""Activation maps and guided backpropagation against what one computes by hand."""

import pytest
import torch
import torch.nn.functional as F
from measure_support import Known
from torch import nn

from ganbench.errors import UserError
from ganbench.pictures.activations import convolutions, critic_score, guided_gradients, maps


def critic_of_modules():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3, 2, 1), nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(3, 5, 3, 1, 1),
                         nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(80, 1), nn.LeakyReLU(), nn.Flatten(0))


class CriticOfFunctions(nn.Module):
    def __init__(self, modules):
        super().__init__()
        self.layers = modules

    def forward(self, x):
        first, _, second, norm, _, _, last, *_ = self.layers
        x = F.leaky_relu(first(x), 0.2)
        return last(torch.relu(norm(second(x))).flatten(1)).flatten()


@pytest.mark.parametrize("make", [lambda c: c, CriticOfFunctions])
def test_every_rectified_map_behind_a_convolution_is_heard(make):
    layers = critic_of_modules().eval()
    x, received = torch.randn(4, 1, 8, 8), []
    maps(Known(nn.Identity(), make(layers)), x, None, received.append)
    first = F.leaky_relu(layers[0](x), 0.2)
    second = layers[3](layers[2](first)).clamp_min(0)
    assert [tuple(h.shape) for h in received] == [(4, 3, 4, 4), (4, 5, 4, 4)]
    torch.testing.assert_close(received[0], first)
    torch.testing.assert_close(received[1], second)


def test_the_critic_is_in_evaluation_mode_and_gets_its_mode_back():
    critic = critic_of_modules().train()
    maps(Known(nn.Identity(), critic), torch.randn(4, 1, 8, 8), None, lambda m: None)
    assert critic[3].training and critic[3].num_batches_tracked == 0


@pytest.mark.parametrize("make", [lambda c: c, CriticOfFunctions])
def test_guided_backpropagation_equals_the_rule_written_out(make):
    layers = critic_of_modules().eval()
    x = torch.randn(2, 1, 8, 8)
    got = guided_gradients(Known(nn.Identity(), make(layers)), x, None, [1, 4])
    conv1, conv2, norm = layers[0], layers[2], layers[3]
    pre1 = conv1(x)
    pre2 = norm(conv2(F.leaky_relu(pre1, 0.2)))
    gradient = torch.zeros_like(pre2)  # 1 at the chosen channel's largest unit
    for row, channel in enumerate([1, 4]):
        place = pre2.clamp_min(0)[row, channel].flatten().argmax()
        gradient[row, channel].view(-1)[place] = 1
    gradient = gradient.clamp_min(0) * (pre2 > 0)
    gradient = gradient * (norm.weight / (norm.running_var + norm.eps).sqrt()).view(1, -1, 1, 1)
    gradient = F.conv_transpose2d(gradient, conv2.weight, padding=1)
    gradient = gradient.clamp_min(0) * (pre1 > 0)
    expected = F.conv_transpose2d(gradient, conv1.weight, stride=2, padding=1, output_padding=1)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    plain = x.clone().requires_grad_(True)
    out = norm(conv2(F.leaky_relu(conv1(plain), 0.2))).clamp_min(0)
    (ordinary,) = torch.autograd.grad(out[0, 1].amax() + out[1, 4].amax(), plain)
    assert not torch.allclose(got, ordinary)


def test_a_critic_without_convolutions_is_refused_in_one_line():
    critic = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1))
    assert convolutions(critic) == []
    with pytest.raises(UserError, match="no convolution"):
        guided_gradients(Known(nn.Identity(), critic), torch.randn(1, 1, 8, 8), None, [0])


def test_a_conditional_critic_is_given_the_labels():
    seen = []

    class Conditional(nn.Module):
        def forward(self, x, y):
            seen.append(y.tolist())
            return x.flatten(1).sum(1)

    class Both(Known):
        def critic_scores(self, images, labels):
            return self.critic(images, labels)

    x = torch.zeros(2, 1, 8, 8)
    maps(Both(nn.Identity(), Conditional(), needs_labels=True, classes=2), x, torch.tensor([0, 1]), lambda m: None)
    assert seen == [[0, 1] * 4]  # filled up to a whole batch of eight
    critic = nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Flatten(0))
    family = Known(nn.Identity(), critic, needs_labels=True, classes=2)
    assert critic_score(family, x, torch.tensor([0, 1])).shape == (2,)  # this one judges the image alone
