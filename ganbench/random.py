"""Named, seeded random streams.

Every draw that matters comes from a stream with a name ("latents", "order", "mirror", ...), derived from the run's
seed, and its state travels in the checkpoint. A stream draws on the CPU whatever the device, so one seed gives the same
latents everywhere; under several processes each draws the whole batch's numbers and keeps its own rows, so the union
over processes equals what one process would have drawn.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor


def derived_seed(seed: int, *names: object) -> int:
    """A 63-bit seed from a base seed and names; different names give unrelated streams."""
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


_share = (0, 1)  # this process and how many share a batch; ganbench.distributed sets it around a step


_one_for_all = False  # whether all samples of a batch get one and the same draw inside networks


@contextmanager
def one_noise() -> Iterator[None]:
    """Inside, `layer_normal` draws once for all samples of a batch: pictures that show what something else changes."""
    global _one_for_all
    before, _one_for_all = _one_for_all, True
    try:
        yield
    finally:
        _one_for_all = before


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Noise drawn inside a network starts at `seed`; outside, torch's global stream goes on as if nothing was drawn."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def layer_normal(*shape: int, like: Tensor) -> Tensor:
    """N(0, 1) drawn inside a network, from torch's own generator; the first axis is this process's share of the batch.

    Like a `Random`, every process draws the whole batch's numbers and keeps its own rows.
    """
    if _one_for_all:
        return torch.randn(1, *shape[1:], dtype=like.dtype, device=like.device).expand(*shape)
    rank, world = _share
    drawn = torch.randn(shape[0] * world, *shape[1:], dtype=like.dtype, device=like.device)
    return drawn[rank * shape[0]:(rank + 1) * shape[0]]


class Tape(Protocol):
    """Where a recorded step finds what was drawn for it (ganbench.training.recorded)."""

    def keep(self, draw: Callable[[], Tensor], device: torch.device) -> Tensor:
        """What `draw` draws on the CPU, at a place on the device that stays the same from step to step."""


_tape: Tape | None = None  # set while a step is recorded, or taken from its record


@contextmanager
def taped(tape: Tape | None) -> Iterator[None]:
    """Inside, what streams draw has a fixed place; None: it has none."""
    global _tape
    before, _tape = _tape, tape
    try:
        yield
    finally:
        _tape = before


def to_device(drawn: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device. A GPU fetches it by itself: the host does not wait."""
    if device.type != "cuda" or drawn.is_cuda:
        return drawn.to(device)
    return drawn.pin_memory().to(device, non_blocking=True)


class Random:
    """One stream. Shapes are local: the first axis is this process's share of the batch.

    Args:
        seed: seed of the stream.
        device: where the drawn tensors are put (they are drawn on the CPU).
        rank, world: this process and the number of processes that share the stream.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu", rank: int = 0, world: int = 1):
        self.device, self.rank, self.world = torch.device(device), rank, world
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        """float32 N(0, 1)."""
        return self._drawn(lambda whole: torch.randn(whole, generator=self.generator), shape)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """float32 U[low, high)."""
        # scaled on the device, so that what travels is the plain draw
        drawn = self._drawn(lambda whole: torch.rand(whole, generator=self.generator), shape)
        return drawn * (high - low) + low

    def integers(self, *shape: int, high: int) -> Tensor:
        """int64 in [0, high)."""
        return self._drawn(lambda whole: torch.randint(high, whole, generator=self.generator), shape)

    def state(self) -> Tensor:
        """Where the stream is, for a checkpoint."""
        return self.generator.get_state()

    def restore(self, state: Tensor) -> None:
        """Go on from where `state` was taken."""
        self.generator.set_state(state.cpu())

    def _drawn(self, draw: Callable[[tuple[int, ...]], Tensor], shape: tuple[int, ...]) -> Tensor:
        """This process's rows of what is drawn for all, on the device."""
        def own_rows() -> Tensor:
            if not shape or self.world == 1:
                return draw(shape)
            drawn = draw((shape[0] * self.world, *shape[1:]))
            return drawn[self.rank * shape[0]:(self.rank + 1) * shape[0]]

        return to_device(own_rows(), self.device) if _tape is None else _tape.keep(own_rows, self.device)
