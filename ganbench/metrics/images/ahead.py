"""Images on their way to a GPU while it works on those before them."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

DEPTH = 2  # batches that the host may be ahead of the device: more would only fill its memory


def ahead(batches: Iterator[Tensor], device: torch.device, prepare: Callable[[Tensor], Tensor],
          ) -> Iterator[tuple[Tensor, Tensor]]:
    """Each batch as it came and on the device, (B,C,H,W) uint8. On a GPU the copy of a batch, from pinned memory, goes
    on while the batch before is at work, and the host waits for neither.

    Args:
        batches: on the CPU. device: where the second of each pair is to be. prepare: what is done to a batch first.
    """
    if device.type != "cuda":
        for batch in map(prepare, batches):
            yield batch, batch
        return
    copies, work = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    under_way: tuple[Tensor, Tensor] | None = None
    done: list[torch.cuda.Event] = []  # after each batch's work
    for batch in map(prepare, batches):
        # the next copy is asked for before the batch at hand is handed out
        with torch.cuda.stream(copies):
            arriving = batch.pin_memory().to(device, non_blocking=True)
        if under_way is not None:
            yield _arrived(under_way, copies, work)
            done.append(work.record_event())
            if len(done) > DEPTH:
                done.pop(0).synchronize()
        under_way = batch, arriving
    if under_way is not None:
        yield _arrived(under_way, copies, work)


def _arrived(pair: tuple[Tensor, Tensor], copies: "torch.cuda.Stream", work: "torch.cuda.Stream",
             ) -> tuple[Tensor, Tensor]:
    """A batch that the work asked for from now on may use."""
    work.wait_stream(copies)
    pair[1].record_stream(work)
    return pair
