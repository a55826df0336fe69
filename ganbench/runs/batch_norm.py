"""Batch norm in an averaged generator.

Averaging takes in weights; the running statistics of the weights of the moment do not fit the averaged ones, whose
activations are others. So an averaged generator's statistics are estimated anew, on its own samples, before it samples.
"""

import torch
from torch import nn

from ganbench.family import Family, frozen_modes
from ganbench.random import Random, seeded

PASSES, BATCH = 16, 64  # 1,024 samples in batches of 64


def tracked_norms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The batch norms that sample with running statistics."""
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]


@torch.no_grad()
def estimate_statistics(family: Family, generator: nn.Module, seed: int, device: torch.device) -> None:
    """Set the running statistics of a generator to the mean over minibatches of its own samples. Draws from `seed`
    alone, and leaves torch's own stream as it was. Does nothing where there is no batch norm that keeps any."""
    norms = tracked_norms(generator)
    if not norms:
        return
    random, momenta = Random(seed, device), [norm.momentum for norm in norms]
    with frozen_modes(generator), seeded(seed, device):
        family.sample_mode(generator)
        for norm in norms:
            norm.reset_running_stats()
            norm.training, norm.momentum = True, None  # no momentum: the plain mean over passes
        for _ in range(PASSES):
            z = family.latents(BATCH, random)
            labels = random.integers(BATCH, high=family.images.classes) if family.needs_labels else None
            family.generate(z, labels, generator)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
