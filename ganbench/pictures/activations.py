"""Looking inside a critic: its activation maps, and guided backpropagation, for any network without touching it.

Both listen to the calls a network makes to torch (convolutions and rectifiers), so it does not matter whether the
network is built from modules or from functions.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ganbench.errors import UserError
from ganbench.family import Family, frozen_modes

RECTIFIERS = {F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.leaky_relu, F.leaky_relu_, F.elu,
              F.elu_, F.selu, F.selu_, F.silu, F.gelu}
CONVOLUTIONS = {F.conv2d, torch.conv2d}


GROUP = 8  # critics that compare the samples of a batch in groups want whole ones


def critic_score(family: Family, images: Tensor, labels: Tensor | None = None) -> Tensor:
    """What the critic says of float images in [-1,1]: (B,), or a reconstruction for an autoencoder critic.

    A batch that is no multiple of 8 is filled up with its own images from the start, and the surplus is cut off again.
    """
    fill = torch.arange(-(-len(images) // GROUP) * GROUP, device=images.device) % len(images)
    if len(fill) > len(images):
        return family.critic_scores(images[fill], None if labels is None else labels[fill])[:len(images)]
    return family.critic_scores(images, labels)


class _Listen(TorchFunctionMode):
    """Hands every rectified map (B,C,H,W) behind a convolution to `receive`, at once (it may be overwritten later)."""

    def __init__(self, receive: Callable[[Tensor], None]):
        super().__init__()
        self.receive, self.convolved = receive, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in CONVOLUTIONS:
            self.convolved = True
        elif func in RECTIFIERS and self.convolved and result.dim() == 4:
            self.receive(result)
        return result


class _GuidedRectifier(torch.autograd.Function):
    """The rectifier itself forwards; backwards only positive gradients pass, and only where its input was positive."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rectifier: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x > 0)
        return rectifier(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (positive,) = ctx.saved_tensors
        return gradients[0].clamp_min(0) * positive, None


class _Guide(_Listen):
    """As _Listen, with every rectifier replaced by its guided form."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in RECTIFIERS:
            return super().__torch_function__(func, types, args, kwargs)
        options = {key: value for key, value in (kwargs or {}).items() if key != "inplace"}
        x, rest = (args[0], args[1:]) if args else (options.pop("input"), ())
        # in place, the input's sign would be lost before the guided form has seen it
        plain = {F.relu_: F.relu, torch.relu_: F.relu, Tensor.relu_: F.relu, F.leaky_relu_: F.leaky_relu, F.elu_: F.elu,
                 F.selu_: F.selu}.get(func, func)
        result = _GuidedRectifier.apply(x, lambda v: plain(v, *rest, **options))
        if self.convolved and result.dim() == 4:
            self.receive(result)
        return result


def maps(family: Family, images: Tensor, labels: Tensor | None, receive: Callable[[Tensor], None]) -> None:
    """Run the critic in evaluation mode without gradients; each rectified map behind a convolution
    goes to `receive`."""
    if family.critic is None:
        raise UserError("this picture or measure looks into a critic, and this family has none")
    with torch.no_grad(), frozen_modes(family.critic):
        family.critic.eval()
        with _Listen(lambda feature_map: receive(feature_map[:len(images)])):
            critic_score(family, images, labels)


def guided_gradients(family: Family, images: Tensor, labels: Tensor | None, channels: list[int]) -> Tensor:
    """Guided backpropagation (Springenberg et al. 2014, arXiv 1412.6806) from the critic's last rectified map.

    Args:
        images: (B,C,S,S). channels: for each image, the channel whose largest unit is sent back.
    Returns:
        d unit / d pixel, (B,C,S,S).
    """
    assert family.critic is not None
    found: list[Tensor] = []
    with torch.enable_grad(), frozen_modes(family.critic):
        family.critic.eval()
        images = images.detach().requires_grad_(True)
        with _Guide(found.append):
            critic_score(family, images, labels)
        last = last_map(found)
        chosen = last[torch.arange(len(images)), torch.tensor(channels)]
        gradients = torch.autograd.grad(chosen.flatten(1).amax(1).sum(), images)
    return gradients[0]


def last_map(found: list[Tensor]) -> Tensor:
    """The last of the maps. Raises UserError where there is none."""
    if not found:
        raise UserError("this family's critic has no convolution followed by a rectifier: use a convolutional one")
    return found[-1]


class _Kernels(TorchFunctionMode):
    """Remembers the weights of all convolutions, in the order of their calls."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in CONVOLUTIONS:
            weight = args[1] if len(args) > 1 else (kwargs or {})["weight"]
            self.weights.append(weight.detach().clone())
        return func(*args, **(kwargs or {}))


def first_kernel(family: Family) -> Tensor:
    """The weights (O,I,k,k), as used, by which the critic looks at images.

    Those of the first convolution larger than 1x1 if the image is its input; else of the first that sees the image, as
    fromRGB of the progressive critics; else (the image is changed before) of the first larger than 1x1.
    """
    assert family.critic is not None
    kernels, spec = convolutions(family.critic), family.images
    if not kernels:
        raise UserError("this family's critic has no convolution: choose a convolutional family")
    device = kernels[0].device
    images = torch.zeros(GROUP, *spec.shape, device=device)
    labels = torch.zeros(GROUP, dtype=torch.int64, device=device)
    with torch.no_grad(), frozen_modes(family.critic):
        family.critic.eval()
        with _Kernels() as listener:
            critic_score(family, images, labels)
    larger = [weight for weight in listener.weights if weight.shape[-1] > 1]
    facing = [weight for weight in listener.weights if weight.shape[1] == spec.channels]
    found = larger if larger and larger[0].shape[1] == spec.channels else facing or larger
    if not found:
        raise UserError("all convolutions of this family's critic are 1x1: there are no filters to show")
    return found[0]


def convolutions(network: nn.Module) -> list[Tensor]:
    """The convolution weights (O,I,k,k) of a network, in their order there."""
    return [p for p in network.parameters() if p.dim() == 4]
