"""Convolutions that may be differentiated twice, as gradient penalties and R1 do, at the card's speed.

PyTorch derives a convolution's second derivative from a convolution whose kernel is the whole feature map. cuDNN has no
good kernel for that: in bfloat16 at 128 pixels it was nine tenths of a PGGAN step. Here a derivative of any order is
one of three things that cuDNN does well: a convolution, a transposed convolution, a weight gradient. Values are those
of PyTorch, up to rounding. On a CPU PyTorch's own way is as fast or faster, and is taken.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function


class Form(NamedTuple):
    """What a two-dimensional convolution is beside its weight."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    transposed: bool = False
    output_padding: tuple[int, int] = (0, 0)
    groups: int = 1

    def reversed(self, x: Tensor, y: Tensor, weight: Tensor) -> "Form":
        """The form that leads from the shape of `y` back to that of `x`: the other of plain and transposed."""
        if self.transposed:
            return self._replace(transposed=False, output_padding=(0, 0))
        # several input sizes give the same output size; the output padding of the way back says which it was
        short = [x.shape[d + 2] - ((y.shape[d + 2] - 1) * self.stride[d] - 2 * self.padding[d] + weight.shape[d + 2])
                 for d in (0, 1)]
        return self._replace(transposed=True, output_padding=(short[0], short[1]))


class Convolution(Function):
    """x (B,I,H,W), weight as nn.Conv2d or nn.ConvTranspose2d has it -> (B,O,H',W'). Apply through `convolve`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, form: Form) -> Tensor:
        """The convolution, with what its derivatives need kept."""
        ctx.save_for_backward(x, weight)
        ctx.form = form
        return torch.ops.aten.convolution(x, weight, None, form.stride, form.padding, (1, 1), form.transposed,
                                          form.output_padding, form.groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Gradients of input and weight, each by an operation that can be differentiated again."""
        # linear in input and weight, so the gradients are again convolutions, differentiable in turn
        (gradient,), (x, weight), form = gradients, ctx.saved_tensors, ctx.form
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            to_x = Convolution.apply(gradient, weight, form.reversed(x, gradient, weight))
        if ctx.needs_input_grad[1]:
            to_weight = WeightGradient.apply(gradient, x, weight.shape, form)
        return to_x, to_weight, None


class WeightGradient(Function):
    """The gradient of a convolution's weight, from that of its output. Linear in both, so its own derivatives are
    convolutions with the incoming gradient as the weight."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, shape: torch.Size, form: Form) -> Tensor:
        """The weight's gradient, with what its own derivatives need kept."""
        ctx.save_for_backward(gradient, x)
        ctx.form = form
        # only the shape of this weight is looked at
        weight = x.new_empty(shape)
        return torch.ops.aten.convolution_backward(
            gradient, x, weight, None, form.stride, form.padding, (1, 1), form.transposed, form.output_padding,
            form.groups, (False, True, False))[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Gradients of output gradient and input, each by an operation that can be differentiated again."""
        # the incoming gradient has the weight's shape and takes its place
        (weight,), (gradient, x), form = gradients, ctx.saved_tensors, ctx.form
        to_gradient = to_x = None
        if ctx.needs_input_grad[0]:
            to_gradient = Convolution.apply(x, weight, form)
        if ctx.needs_input_grad[1]:
            to_x = Convolution.apply(gradient, weight, form.reversed(x, gradient, weight))
        return to_gradient, to_x, None, None


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, form: Form) -> Tensor:
    """The convolution with derivatives of its own, on any device.

    Args:
        x: (B,I,H,W). weight: (O,I/groups,k,k), transposed (I,O/groups,k,k). bias: (O,).
    """
    # what autocast would do to PyTorch's own convolution; the derivatives then find everything in one type
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    # the bias is added outside: that needs no derivative of its own
    y = Convolution.apply(x, weight, form)
    return y if bias is None else y + bias.to(y.dtype).view(1, -1, 1, 1)


def own_derivatives(x: Tensor) -> bool:
    """Whether the derivatives here are faster than PyTorch's on this tensor's device."""
    return x.device.type == "cuda"


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0) -> Tensor:
    """F.conv2d for what may be differentiated twice: its values and derivatives, by whichever way is fast on the
    device.

    Examples:
        >>> import torch
        >>> conv2d(torch.ones(1, 2, 4, 4), torch.ones(3, 2, 4, 4)).flatten().tolist()
        [32.0, 32.0, 32.0]
    """
    if not own_derivatives(x):
        return F.conv2d(x, weight, bias, stride, padding)
    return convolve(x, weight, bias, Form((stride, stride), (padding, padding)))


def conv_transpose2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1,
                     padding: int = 0) -> Tensor:
    """F.conv_transpose2d, likewise."""
    if not own_derivatives(x):
        return F.conv_transpose2d(x, weight, bias, stride, padding)
    return convolve(x, weight, bias, Form((stride, stride), (padding, padding), transposed=True))


class Conv2d(nn.Conv2d):
    """nn.Conv2d for critics under a gradient penalty or R1: the same weights, values and derivatives."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not own_derivatives(input):
            return super()._conv_forward(input, weight, bias)
        # only what critics use; anything else would be wrong silently
        if self.padding_mode != "zeros" or isinstance(self.padding, str) or self.dilation != (1, 1):
            raise ValueError("a Conv2d with derivatives of its own has zero padding, given as a number, and no "
                             "dilation")
        (s, t), (p, q) = self.stride, self.padding
        return convolve(input, weight, bias, Form((s, t), (p, q), groups=self.groups))
