"""The convolution with derivatives of its own, called directly (no card needed), beside PyTorch's."""

import pytest
import torch
import torch.nn.functional as F
from model_support import build
from torch.autograd import grad, gradcheck, gradgradcheck

from ganbench.models.nn import convolution
from ganbench.models.nn.convolution import Conv2d, Form, convolve
from ganbench.models.nn.equalized import EqualizedConv2d, blur, pooled_blur
from ganbench.models.nn.filtering import filter_maps
from ganbench.models.nn.losses import r1_penalty
from ganbench.models.nn.modulated import smooth

# stride, padding, kernel, side: sizes at which a stride leaves pixels over included
PLAIN = [(1, 1, 3, 5), (1, 0, 1, 3), (2, 1, 4, 6), (2, 1, 4, 7), (2, 2, 5, 6), (2, 0, 3, 6), (1, 0, 4, 4)]
TRANSPOSED = [(2, 1, 4, 3, 0), (2, 2, 5, 3, 1), (1, 0, 4, 2, 0), (1, 1, 3, 4, 0), (3, 0, 5, 2, 0)]


def same_to_the_second_derivative(ours, theirs, *tensors):
    """Values, gradients, and the gradients of a penalty on the gradient with respect to the first tensor."""
    def taken(f):
        y = f(*tensors)
        first = grad(y.pow(3).sum(), tensors, create_graph=True)
        second = grad(first[0].pow(2).sum() + first[1].pow(2).sum(), tensors, allow_unused=True)
        return [y, *first, *[g for g in second if g is not None]]
    for a, b in zip(taken(ours), taken(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def doubles(*shapes):
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize(("stride", "padding", "kernel", "side"), PLAIN)
def test_plain(stride, padding, kernel, side):
    x, weight, bias = doubles((2, 3, side, side), (4, 3, kernel, kernel), (4,))
    form = Form((stride, stride), (padding, padding))

    def ours(x, w, b):
        return convolve(x, w, b, form)

    same_to_the_second_derivative(ours, lambda x, w, b: F.conv2d(x, w, b, stride, padding), x, weight, bias)
    small = doubles((1, 2, side, side), (2, 2, kernel, kernel), (2,))
    assert gradcheck(ours, small) and gradgradcheck(ours, small)


@pytest.mark.parametrize(("stride", "padding", "kernel", "side", "extra"), TRANSPOSED)
def test_transposed(stride, padding, kernel, side, extra):
    x, weight, bias = doubles((2, 3, side, side), (3, 4, kernel, kernel), (4,))
    form = Form((stride, stride), (padding, padding), True, (extra, extra))

    def ours(x, w, b):
        return convolve(x, w, b, form)

    same_to_the_second_derivative(ours, lambda x, w, b: F.conv_transpose2d(x, w, b, stride, padding, extra),
                                  x, weight, bias)
    small = doubles((1, 2, side, side), (2, 2, kernel, kernel), (2,))
    assert gradcheck(ours, small) and gradgradcheck(ours, small)


def test_sides_that_differ_and_groups():
    x, weight = doubles((2, 4, 5, 8), (6, 2, 3, 2))
    form = Form((2, 3), (1, 0), groups=2)
    same_to_the_second_derivative(lambda x, w: convolve(x, w, None, form),
                                  lambda x, w: F.conv2d(x, w, None, (2, 3), (1, 0), groups=2), x, weight)


def test_a_third_derivative():
    x, weight = doubles((1, 2, 4, 4), (2, 2, 3, 3))
    def third(f):
        first, = grad(f(x, weight).pow(4).sum(), x, create_graph=True)
        second, = grad(first.pow(2).sum(), weight, create_graph=True)
        return grad(second.pow(2).sum(), [x, weight])
    ours = third(lambda x, w: convolve(x, w, None, Form(padding=(1, 1))))
    for a, b in zip(ours, third(lambda x, w: F.conv2d(x, w, None, 1, 1)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_under_autocast_it_works_in_the_low_type_as_pytorchs_does():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 6, 6, requires_grad=True), torch.randn(4, 3, 3, 3, requires_grad=True)
    bias = torch.randn(4)
    with torch.autocast("cpu", torch.bfloat16):
        y = convolve(x, weight, bias, Form())
        gradient, = grad(y.sum(), x, create_graph=True)
        assert y.dtype == torch.bfloat16 and y.dtype == F.conv2d(x, weight, bias).dtype
    assert gradient.dtype == torch.float32
    to_weight, = grad(gradient.square().sum(), weight)
    assert to_weight.dtype == torch.float32
    torch.testing.assert_close(y.float(), F.conv2d(x, weight, bias), rtol=0.02, atol=0.1)


def test_the_layer_has_the_weights_and_values_of_pytorchs():
    torch.manual_seed(0)
    ours = Conv2d(3, 4, 4, 2, 1)
    torch.manual_seed(0)
    theirs = torch.nn.Conv2d(3, 4, 4, 2, 1)
    x = torch.randn(2, 3, 8, 8)
    assert list(ours.state_dict()) == list(theirs.state_dict()) and torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 2, 5, 8)])
def test_blur_as_two_pools_is_the_blur(shape):
    """Value, first and second derivatives to 1e-6, and in float64 to rounding."""
    x, = doubles(shape)
    for tensor, tolerance in ((x, 1e-14), (x.detach().float().requires_grad_(), 1e-6)):
        results = []
        for f in (pooled_blur, blur):
            y = f(tensor)
            first, = grad(y.pow(3).sum(), tensor, create_graph=True)
            second, = grad(first.pow(2).sum(), tensor)
            results.append((y, first, second / second.abs().max()))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def averages(x):
    """What a card smooths by in place of one filter."""
    for _ in range(3):
        x = F.avg_pool2d(x, 2, 1)
    return x


@pytest.mark.parametrize(("name", "preset"), [
    ("wgan_gp", "smoke"), ("wgan_gp", "resnet32"), ("wgan_gp", "resnet"), ("dcgan", "alt:r1"), ("pggan", "smoke"),
    ("pggan", "paper-ablation-128-b"), ("stylegan", "smoke"), ("stylegan", "smoke-wgan"),
    ("r3gan", "smoke"), ("r3gan", "config-c"), ("dragan", "smoke")])
def test_all_convolutions_under_a_penalty_go_by_it(name, preset, monkeypatch):
    """With PyTorch's functions out of reach, the penalty's gradients are what they are with them."""
    small = {"wgan_gp": {"dim": 4}, "dcgan": {"ndf": 4, "ngf": 4}, "pggan": {"fmap_max": 4},
             "r3gan": {"fmap_max": 16, "conditional": False}}.get(name, {})
    side = 32 if name in ("dcgan", "dragan") else 16
    critic = build(name, preset, side=side, **small).critic
    x = torch.rand(2, 1, side, side) * 2 - 1

    def penalised():
        loss = r1_penalty(critic, x)
        return [loss, *grad(loss, [p for p in critic.parameters() if p.requires_grad], allow_unused=True)]

    expected = penalised()
    monkeypatch.setattr(convolution, "own_derivatives", lambda x: True)
    monkeypatch.setattr(F, "conv2d", None)
    monkeypatch.setattr("ganbench.models.nn.equalized.blur", pooled_blur)
    monkeypatch.setattr("ganbench.models.nn.progressive.blur", pooled_blur)
    monkeypatch.setattr("ganbench.models.nn.bottleneck.blur", pooled_blur)
    monkeypatch.setattr("ganbench.models.nn.modulated.blur", pooled_blur)
    monkeypatch.setattr("ganbench.models.nn.modulated.smooth", averages)
    monkeypatch.setattr(torch.nn.Conv2d, "_conv_forward", None)
    for ours, theirs in zip(penalised(), expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("resample", ["up", "down"])
def test_folded_or_in_two_it_is_the_same_map(resample, monkeypatch):
    torch.manual_seed(0)
    layer, x = EqualizedConv2d(256, 4, resample=resample), torch.randn(1, 256, 8, 8)
    in_two = layer(x)
    monkeypatch.setattr("ganbench.models.nn.equalized._better_in_two", lambda *args, **options: False)
    torch.testing.assert_close(layer(x), in_two, rtol=1e-5, atol=1e-5)
    assert not torch.equal(layer(x), in_two), "the shapes of this test take the one way and the other"


def test_smoothing_by_one_filter_is_three_averages():
    """To the second derivative, at even and odd sides; and the filter keeps its input's type under autocast."""
    for shape in ((2, 3, 7, 8), (1, 1, 4, 4)):
        x, = doubles(shape)
        for ours, theirs in ((smooth, averages), (blur, pooled_blur)):
            taken = []
            for f in (ours, theirs):
                y = f(x)
                first, = grad(y.pow(3).sum(), x, create_graph=True)
                taken.append([y, first, *grad(first.pow(2).sum(), x)])
            for a, b in zip(*taken, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
            assert gradcheck(ours, (x,)) and gradgradcheck(ours, (x,))
    with torch.autocast("cpu", torch.bfloat16):
        assert smooth(x.float()).dtype == torch.float32 and smooth(x.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="not symmetric"):
        filter_maps(x, (0.25, 0.75))
