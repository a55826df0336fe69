"""The convolution with derivatives of its own, called directly (no card needed), beside PyTorch's."""

import pytest
import torch
import torch.nn.functional as F
from model_support import build
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import grad, gradcheck, gradgradcheck

from ganbench.models.nn import convolution
from ganbench.models.nn.convolution import Conv2d, Form, convolve
from ganbench.models.nn.equalized import EqualizedConv2d, blur
from ganbench.models.nn.filtering import Halving, double_maps, filter_maps
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


def with_derivatives(f, x):
    """Value, first and second derivatives of something that is no linear function of them."""
    y = f(x)
    first, = grad(y.pow(3).sum(), x, create_graph=True)
    second, = grad(first.pow(2).sum(), x)
    return y, first, second / second.abs().max()


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 2, 5, 8)])
@pytest.mark.parametrize("filtered, order, padding", [
    (blur, 2, 1), (smooth, 3, 0), (lambda x: smooth(x, 1), 3, 1), (lambda x: smooth(x, 2), 3, 2)])
def test_filters_are_averages_of_averages(shape, filtered, order, padding):
    """To 1e-6, and in float64 to rounding, second derivatives included."""
    def averages(x):
        x = F.pad(x, (padding,) * 4)
        for _ in range(order):
            x = F.avg_pool2d(x, 2, 1)
        return x

    x, = doubles(shape)
    for tensor, tolerance in ((x, 1e-14), (x.detach().float().requires_grad_(), 1e-6)):
        for ours, theirs in zip(with_derivatives(filtered, tensor), with_derivatives(averages, tensor), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    assert gradcheck(filtered, (x,)) and gradgradcheck(filtered, (x,))


def test_doubling_is_the_same_in_either_layout(monkeypatch):
    """What a card does where channels are innermost, with a CPU's tensors."""
    x = torch.randn(2, 3, 4, 6)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    doubled = double_maps(x.contiguous(memory_format=torch.channels_last))
    assert torch.equal(doubled, x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert doubled.is_contiguous(memory_format=torch.channels_last)


def test_halving_is_the_average_of_four():
    x, = doubles((2, 3, 4, 6))
    for ours, theirs in zip(with_derivatives(Halving.apply, x), with_derivatives(lambda x: F.avg_pool2d(x, 2), x)):
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)
    assert gradcheck(Halving.apply, (x,)) and gradgradcheck(Halving.apply, (x,))


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


def test_a_filter_keeps_its_inputs_type_and_knows_its_taps():
    x = torch.randn(1, 1, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert smooth(x).dtype == torch.float32 and smooth(x.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="not binomial"):
        filter_maps(x, (0.25, 0.75))


def test_a_filter_keeps_nothing_between_tensors_with_numbers_and_without():
    """The dry run counts memory with tensors that have none."""
    assert smooth(torch.randn(1, 1, 6, 6)).shape == (1, 1, 3, 3)
    with FakeTensorMode():
        assert smooth(torch.empty(1, 1, 6, 6)).shape == (1, 1, 3, 3)
        assert blur(torch.empty(1, 1, 7, 7)).shape == (1, 1, 7, 7)
    assert float(blur(torch.ones(1, 1, 7, 7))[0, 0, 3, 3]) == 1
