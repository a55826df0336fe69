"""Weight normalisation with its initialisation from data (Salimans, Kingma, NeurIPS 2016, arXiv 1602.07868)."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

Layer = TypeVar("Layer", nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def normed(layer: Layer, deviation: float = 0.05) -> Layer:
    """The layer with weights g v / |v|: a direction v, from N(0, deviation), and a length g for each output; biases 0.

    Parameters of a layer with bias and k weights an output: (k + 2) an output.
    """
    nn.init.normal_(layer.weight, 0, deviation)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    weight_norm(layer, dim=1 if isinstance(layer, nn.ConvTranspose2d) else 0)
    return layer


@torch.no_grad()
def initialise_from_data(network: nn.Module, forward: Callable[[], object],
                         deviations: Mapping[nn.Module, float] | None = None) -> None:
    """Set lengths and biases so that every normed layer's outputs have mean 0 and deviation 1 over one minibatch.

    Section 3 of the paper. The layers are set in the order in which the pass meets them, each seeing what the former ones
    make of the data then. Biases must still be 0.

    Args:
        forward: runs the network on the minibatch. deviations: of layers that are to have another one than 1.
    """
    def settle(layer: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> Tensor:
        axes = [d for d in range(outputs.ndim) if d != 1]
        shape = [-1 if d == 1 else 1 for d in range(outputs.ndim)]
        mean, variance = outputs.mean(axes), outputs.var(axes, correction=0)
        factor = (deviations or {}).get(layer, 1.0) / (variance + 1e-10).sqrt()
        length = layer.parametrizations.weight.original0  # type: ignore[union-attr]
        length.mul_(factor.view([-1 if n > 1 or length.numel() == 1 else 1 for n in length.shape]))  # type: ignore
        bias = layer.bias
        assert isinstance(bias, Tensor)
        bias.copy_(-mean * factor)
        return (outputs - mean.view(shape)) * factor.view(shape)

    layers = [m for m in network.modules() if hasattr(m, "parametrizations") and m.bias is not None]
    hooks = [layer.register_forward_hook(settle) for layer in layers]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
