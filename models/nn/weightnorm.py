"""Weight normalisation with its initialisation from data (Salimans, Kingma, NeurIPS 2016, arXiv 1602.07868)."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import is_parametrized

from ganbench.models.nn.layers import NormedMinibatchDiscrimination

Layer = TypeVar("Layer", nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def normed(layer: Layer, deviation: float = 0.05, *, train_length: bool = True) -> Layer:
    """The layer with weights g v / |v|: a direction v, from N(0, deviation), and a length g for each output; biases 0.

    Parameters of a layer with bias and k weights an output: (k + 2) an output; one less where the length is not
    trained, which data alone then sets.
    """
    # direction and length both come from these first weights
    nn.init.normal_(layer.weight, 0, deviation)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    weight_norm(layer, dim=1 if isinstance(layer, nn.ConvTranspose2d) else 0)
    length_of(layer).requires_grad_(train_length)
    return layer


def length_of(layer: nn.Module) -> nn.Parameter:
    """A normed layer's lengths g."""
    weight = cast(Any, layer.parametrizations).weight
    return cast(nn.Parameter, weight.original0)


@torch.no_grad()
def initialise_from_data(network: nn.Module, forward: Callable[[], object],
                         deviations: Mapping[nn.Module, float] | None = None) -> None:
    """Set lengths and biases so that every normed layer's outputs have mean 0 and deviation 1 over one minibatch.

    Section 3 of the paper. The layers are set in the order in which the pass meets them, each seeing what the former
    ones make of the data then. Biases must still be 0. Minibatch discrimination on the way is initialised likewise.

    Args:
        forward: runs the network on the minibatch. deviations: of layers that are to have another one than 1.
    """
    def settle(layer: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> Tensor:
        # over everything but the outputs' axis
        axes = [d for d in range(outputs.ndim) if d != 1]
        shape = [-1 if d == 1 else 1 for d in range(outputs.ndim)]
        mean, variance = outputs.mean(axes), outputs.var(axes, correction=0)
        factor = (deviations or {}).get(layer, 1.0) / (variance + 1e-10).sqrt()
        length = length_of(layer)
        length.mul_(factor.view(length.shape))
        bias = layer.bias
        assert isinstance(bias, Tensor)
        bias.copy_(-mean * factor)
        # the pass goes on with what the layer gives from now on
        return (outputs - mean.view(shape)) * factor.view(shape)

    def settle_discrimination(layer: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> Tensor:
        assert isinstance(layer, NormedMinibatchDiscrimination)
        return layer.initialise(inputs[0])

    # hooks meet the layers in the pass's own order
    hooks = []
    for module in network.modules():
        if isinstance(module, NormedMinibatchDiscrimination):
            hooks.append(module.register_forward_hook(settle_discrimination))
        elif is_parametrized(module, "weight") and module.bias is not None:
            hooks.append(module.register_forward_hook(settle))
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
