"""The recorded step: on a GPU a step is captured once as a CUDA graph and then replayed, without Python in between.

A step takes from outside what is drawn for it and its batches of real images. While it is recorded, each of these gets
a place on the device that stays the same; before a replay all of them are drawn again, in the same order, and copied
there. So a replayed step has the same numbers as one that was not recorded. What Python decides in a step is the key of
a record: side, batch, whether it fades, numbers that optimizers hold in Python, and the family's own `recording_key`.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from ganbench import distributed
from ganbench.errors import UserError
from ganbench.family import Batch, Stage
from ganbench.metrics.networks.replay import capturing
from ganbench.random import taped, to_device
from ganbench.training.augment import take_step
from ganbench.training.augmentation import Augmentation
from ganbench.training.engine import TrainingEngine
from ganbench.training.optimizers import rate_may_be_tensor

# steps of a kind that are taken as they are before one is recorded: they make optimizer state, choose kernels
WARM_UP = 2

Scalars = dict[str, Tensor | float]


class Batches(Protocol):
    """Where real images come from: a `ganbench.data.Stream`, or random ones where only the speed counts."""

    def next(self, side: int, batch: int) -> Batch:
        """The next batch at that side."""


class Places:
    """What a step takes from outside, each at its place on the device, in the order in which it took them."""

    def __init__(self) -> None:
        self.kept: list[tuple[Callable[[], Tensor | None], Tensor | None]] = []  # where it comes from, where it lies
        self.next: int | None = None  # the next place to hand out; None: places are still being made

    def keep(self, draw: Callable[[], Tensor | None], device: torch.device) -> Any:
        """The place of what `draw` makes: filled now while places are made, filled by `refill` later."""
        if self.next is None:
            drawn = draw()
            self.kept.append((draw, None if drawn is None else to_device(drawn, device).clone()))
            return self.kept[-1][1]
        if self.next == len(self.kept):
            raise RuntimeError("a recorded step takes more from outside than when it was recorded: its family's "
                               "recording_key does not name all that it depends on")
        self.next += 1
        return self.kept[self.next - 1][1]

    def refill(self) -> None:
        """Draw everything anew for the next step, in the order of the first time. Nothing waits for the device."""
        for draw, place in self.kept:
            drawn = draw()
            if place is not None and drawn is not None:
                place.copy_(drawn.pin_memory() if place.is_cuda and not drawn.is_cuda else drawn, non_blocking=True)
        self.next = 0

    def check_all_used(self) -> None:
        """Raise RuntimeError for a step that took less than when it was recorded."""
        if self.next != len(self.kept):
            raise RuntimeError("a recorded step took less from outside than when it was recorded: its family's "
                               "recording_key does not name all that it depends on")


class Record:
    """One kind of step: how often it was taken, its places, and on a GPU its graph and where its scalars lie."""

    def __init__(self) -> None:
        self.taken = 0
        self.places = Places()
        self.graph: torch.cuda.CUDAGraph | None = None
        self.names: list[str] = []
        self.numbers: Scalars = {}  # the scalars that are no tensors
        self.values = torch.empty(0)  # the others, float64, at their place


class Steps:
    """Takes a run's steps, recorded where that is possible.

    Args:
        record: whether to record at all. Only a GPU records, in one process, and not in fp16, whose loss scale is
        moved by Python.
        rehearse: on any device, take the later steps of a kind by the same Python from the same places: what a replay
            would compute, without a graph. For tests.
        augmentation: of what the critic sees, or None.
    """

    def __init__(self, engine: TrainingEngine, stream: Batches, *, record: bool = True, rehearse: bool = False,
                 augmentation: Augmentation | None = None):
        self.engine, self.stream, self.rehearse, self.augmentation = engine, stream, rehearse, augmentation
        self.records_steps = rehearse or (record and engine.device.type == "cuda" and engine.world == 1
                                          and engine.precision != "fp16")
        self.place: Hashable = None  # what all present records share; with another, they are dropped
        self.records: dict[Hashable, Record] = {}
        # capturing needs a stream that is not the default one, and the steps before it on the same
        self.side_stream = torch.cuda.Stream(engine.device) if engine.device.type == "cuda" else None

    def take(self, stage: Stage) -> Scalars:
        """One step of the family at the stage that the engine has entered. Returns its scalars."""
        record = self._record(stage)
        if record is None:
            return self._step(stage, None)
        record.taken += 1

        # the first ones as they are, then one that makes the places
        if record.taken <= WARM_UP + 1:
            making = record.taken == WARM_UP + 1
            with _on_stream(self.side_stream):
                return self._step(stage, record.places if making else None)

        # all others from the places
        record.places.refill()
        if self.rehearse:
            scalars = self._step(stage, record.places)
            record.places.check_all_used()
            return scalars
        if record.graph is None:
            self._capture(stage, record)
        assert record.graph is not None
        record.graph.replay()
        return dict(zip(record.names, record.values.clone().unbind())) | record.numbers

    def _record(self, stage: Stage) -> Record | None:
        """The record of this kind of step; None where it is not to be recorded."""
        if not self.records_steps:
            return None
        kind = self.engine.family.recording_key(self.engine.clock)
        if kind is None:
            return None
        place = (stage.side, stage.batch, stage.fade > 0, stage.phase, self._numbers_in_optimizers())
        if place != self.place:  # a new phase has new optimizer state, a new side other networks: nothing old is of use
            self.place, self.records = place, {}
        return self.records.setdefault(kind, Record())

    def _numbers_in_optimizers(self) -> Hashable:
        """What a replayed optimizer step cannot follow: numbers that Python holds, such as momenta that change."""
        return tuple((key, value) for optimizer in self.engine.optimizers.values() for group in optimizer.param_groups
                     for key, value in group.items()
                     if key != "params" and not (key == "lr" and rate_may_be_tensor(group)))

    def _step(self, stage: Stage, places: Places | None) -> Scalars:
        engine = self.engine
        with taped(places), engine.autocast(), distributed.shared_batch(engine.clock.steps):
            batches = self._batches(stage, places)
            return take_step(engine.family, batches, engine, self.augmentation)

    def _batches(self, stage: Stage, places: Places | None) -> Iterator[Batch]:
        """The run's batches, at their places where the step is recorded."""
        batch = Batch(torch.empty(0), None)

        def draw() -> Tensor:
            nonlocal batch
            with taped(None):  # the stream's own draws are no part of the step
                batch = self.stream.next(stage.side, stage.batch)
            return batch.images

        while True:
            if places is None:
                yield self.stream.next(stage.side, stage.batch)
            else:
                images = places.keep(draw, self.engine.device)
                yield Batch(images, places.keep(lambda: batch.labels, self.engine.device))

    def _capture(self, stage: Stage, record: Record) -> None:
        """Run the step's Python once without executing anything, and keep what it would have executed as a graph."""
        graph = torch.cuda.CUDAGraph()
        try:
            with capturing(graph, self.side_stream):
                scalars = self._step(stage, record.places)
                tensors = {name: value for name, value in scalars.items() if isinstance(value, Tensor)}
                record.values = torch.stack([value.detach().double() for value in tensors.values()])
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"this family's step cannot be recorded as a CUDA graph ({reason}): "
                            "train with `ganbench run --no-record`") from error
        record.places.check_all_used()
        record.names, record.graph = list(tensors), graph
        record.numbers = {name: value for name, value in scalars.items() if name not in tensors}


@contextmanager
def _on_stream(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """Work inside goes to a CUDA stream, after what was asked for before and before what is asked for later. None: on
    the CPU, which has none."""
    if stream is None:
        yield
        return
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(stream.device).wait_stream(stream)
