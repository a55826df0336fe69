"""A network's forward pass as a CUDA graph: for the one shape of batch that comes again and again, hundreds of kernels
are then asked for at once."""

import gc
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

Body = Callable[[Tensor], Mapping[str, Tensor]]
WARM_UP = 2  # batches of a shape that pass as they are before it is recorded: libraries choose their kernels meanwhile


class Replayed:
    """Calls `body`; on a GPU it replays what `body` did, for batches of the first shape that comes often enough.

    What cannot be recorded is called as it is, with a warning once. The numbers are those of the same kernels.

    Args:
        body: (B,C,H,W) on the device -> tensors by name; it reads nothing back and depends on its argument alone.
    """

    def __init__(self, body: Body):
        self.body, self.possible = body, True
        self.seen: dict[tuple[int, ...], int] = {}
        self.shape: tuple[int, ...] | None = None  # that was recorded
        self.given = torch.empty(0)
        self.made: Mapping[str, Tensor] = {}
        self.replay: Callable[[], None] | None = None

    def __call__(self, images: Tensor) -> Mapping[str, Tensor]:
        """Features of images (B,C,H,W) uint8 by layer, from the recorded graph where one fits."""
        shape = tuple(images.shape)
        # is this the shape to record now?
        if self.possible and self.replay is None and self.recordable(images):
            self.seen[shape] = self.seen.get(shape, 0) + 1
            if self.seen[shape] > WARM_UP:
                self._try_to_record(images)
        if self.replay is None or shape != self.shape:
            return self.body(images)
        self.given.copy_(images, non_blocking=True)
        self.replay()
        return {name: value.clone() for name, value in self.made.items()}  # the next replay writes over them

    def _try_to_record(self, images: Tensor) -> None:
        self.given, self.shape = images.clone(), tuple(images.shape)
        try:
            self.made, self.replay = self.record()
        except RuntimeError as error:
            self.possible = False
            reason = " ".join(str(error).split())[:120]
            warnings.warn(f"a feature network could not be recorded as a CUDA graph and runs without ({reason})",
                          stacklevel=2)

    def recordable(self, images: Tensor) -> bool:
        """Whether a graph can be recorded for images (B,C,H,W): they lie on a GPU."""
        return images.is_cuda

    def record(self) -> tuple[Mapping[str, Tensor], Callable[[], None]]:
        """Record `body` of `given`: where its results will lie, and what makes them anew."""
        graph = torch.cuda.CUDAGraph()
        with capturing(graph):
            made = self.body(self.given)
        return made, graph.replay


@contextmanager
def capturing(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream | None = None) -> Iterator[None]:
    """Inside, what is asked of the card is not done but kept in `graph`."""
    # a graph of before that is collected meanwhile gives its memory back, and that may not be while one is captured
    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    try:
        # thread_local: the thread that reads images ahead may go on pinning memory meanwhile
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            yield
    finally:
        if collects:
            gc.enable()
