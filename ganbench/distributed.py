"""One run on several processes (`torchrun`): what must be the same as if one process had done it all.

Parameters are the same on every process, each holds its share of the batch, and gradients are averaged after backward.
That alone is not enough wherever samples of a batch meet: batch norm, minibatch statistics, dropout's draws. What is
here makes those see the whole batch, with the gradient (of any order) that one process would have. It acts inside
`together()`, which the training loop opens around a step; elsewhere (sampling, scoring, one process) it does nothing.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ganbench import random
from ganbench.errors import UserError

PATIENCE = timedelta(hours=6)  # how long processes wait while the first one scores or prepares data

Network = TypeVar("Network", bound=nn.Module)

_together = False


# --- processes ------------------------------------------------------------------------------------------------------

def start(device: str) -> str:
    """Join the group that torchrun describes in the environment, if there is one.

    Args:
        device: as asked for: auto, cpu, cuda ...
    Returns:
        The device of this process: under torchrun "cuda" becomes the GPU of its local rank.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    local = int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_gpu and local >= torch.cuda.device_count():
        raise UserError(f"{os.environ['LOCAL_WORLD_SIZE']} processes on this machine, and it has "
                        f"{torch.cuda.device_count()} GPU(s): start fewer with --nproc-per-node, or add --device cpu")
    if on_gpu:
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        # gloo beside nccl: some of what is exchanged lives on the CPU
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=PATIENCE)
    return f"cuda:{local}" if on_gpu else "cpu"


def exit_process(code: int) -> None:
    """End this process with an exit code, if it is one of several; alone, do nothing.

    Without Python's own tear-down: a thread of gloo's may still let go of a tensor then, and that aborts the process
    (PyTorch issue 179291). Call it last, when all is written.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """The first process does what is inside, then the others do, and find it done: a prepared store, a download."""
    if rank() != 0:
        dist.barrier()
    yield
    if world() > 1 and rank() == 0:
        dist.barrier()


def broadcast(value: Any) -> Any:
    """The first process's value (None, bool, number, text), on every process."""
    if world() == 1:
        return value
    carrier = [value]
    dist.broadcast_object_list(carrier, src=0, device=torch.device("cpu"))
    return carrier[0]


def mean_of_scalars(scalars: Mapping[str, Tensor | float]) -> dict[str, Tensor | float]:
    """Logged scalars, averaged over processes."""
    if world() == 1 or not scalars:
        return dict(scalars)
    stacked = torch.stack([torch.as_tensor(value, dtype=torch.float64).detach().cpu() for value in scalars.values()])
    dist.all_reduce(stacked)
    return dict(zip(scalars, (stacked / world()).unbind()))


# --- where the samples of a batch meet ------------------------------------------------------------------------------

@contextmanager
def shared_batch() -> Iterator[None]:
    """Inside, the functions and layers below see the batches of all processes as one."""
    global _together
    before = _together, random._share
    _together, random._share = world() > 1, (rank(), world())
    try:
        yield
    finally:
        _together, random._share = before


class _AllSum(torch.autograd.Function):
    """The sum over processes. Every process's loss depends on every process's term, so the gradient of the sum of all
    losses is again a sum over processes; it is made of this same operation, and can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _AllSum.apply(gradient)


def all_sum(x: Tensor) -> Tensor:
    """The sum of the processes' tensors (any shape, the same everywhere). Differentiable to any order."""
    return _AllSum.apply(x) if _together else x


def whole_batch(x: Tensor) -> Tensor:
    """(B/world, ...) on each process -> (B, ...) on all, in the order one process would have. Differentiable."""
    if not _together:
        return x
    share, me = len(x), rank()
    before, after = x.new_zeros(me * share, *x.shape[1:]), x.new_zeros((world() - me - 1) * share, *x.shape[1:])
    return all_sum(torch.cat([before, x, after]))


def own_rows(x: Tensor) -> Tensor:
    """(B, ...) -> this process's (B/world, ...). The inverse of `whole_batch`."""
    if not _together:
        return x
    share = len(x) // world()
    return x[rank() * share:(rank() + 1) * share]


class _WholeBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the batch of all processes, on any device, with torch's formulas: biased variance to normalise,
    unbiased in the running average."""

    def _check_input_dim(self, input: Tensor) -> None:
        return None

    def forward(self, input: Tensor) -> Tensor:
        if not (_together and (self.training or not self.track_running_stats)):
            return super().forward(input)
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        axes = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        count = x.numel() // x.shape[1] * world()
        mean = all_sum(x.sum(axes)) / count
        centred = x - mean.view(shape)
        variance = all_sum(centred.square().sum(axes)) / count
        if self.training and self.track_running_stats:
            self._follow(mean.detach(), variance.detach() * count / max(1, count - 1))
        x = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            x = x * self.weight.view(shape) + self.bias.view(shape)
        return x.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.num_batches_tracked is not None and self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked += 1
        weight = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        self.running_var.lerp_(variance.to(self.running_var.dtype), weight)


class _WholeBatchDropout(nn.Dropout):
    """Dropout whose mask is this process's rows of the mask that one process would draw."""

    def forward(self, input: Tensor) -> Tensor:
        if not (_together and self.training and 0 < self.p < 1):
            return super().forward(input)
        share, *rest = self._mask_shape(input)
        keep = torch.empty(share * world(), *rest, dtype=input.dtype, device=input.device).bernoulli_(1 - self.p)
        return input * (own_rows(keep) / (1 - self.p))

    def _mask_shape(self, input: Tensor) -> Sequence[int]:
        return input.shape


class _WholeBatchDropout2d(_WholeBatchDropout):
    """Drops whole maps."""

    def _mask_shape(self, input: Tensor) -> Sequence[int]:
        return (*input.shape[:2], *(1 for _ in input.shape[2:]))


_SUCCESSORS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: _WholeBatchNorm, nn.BatchNorm2d: _WholeBatchNorm, nn.BatchNorm3d: _WholeBatchNorm,
    nn.Dropout: _WholeBatchDropout, nn.Dropout2d: _WholeBatchDropout2d}


def convert(network: Network) -> Network:
    """Make a network right under several processes, in place. With one process, do nothing.

    Batch norm and dropout keep their objects (parameters, buffers, references held elsewhere); their class changes.
    A layer of one's own whose samples meet says so with a class attribute `meets_batch = True`: it then gets the whole
    batch in its first argument, and this process keeps its rows of what comes out.
    """
    if world() > 1:
        for module in network.modules():
            if type(module) in _SUCCESSORS:
                module.__class__ = _SUCCESSORS[type(module)]
            elif getattr(module, "meets_batch", False):
                module.register_forward_pre_hook(_gather_first)
                module.register_forward_hook(_keep_own)
    return network


def _gather_first(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return whole_batch(arguments[0]), *arguments[1:]


def _keep_own(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
    return own_rows(output)


# --- evaluation -----------------------------------------------------------------------------------------------------

# (batch size, (rank, world)) -> that process's batches, number rank, rank + world, ...; uint8 (n, *shape) on the CPU
Make = Callable[[int, tuple[int, int]], Iterator[Tensor]]


def generate_on_all(make: Make, n: int, shape: Sequence[int]) -> Callable[[int], Iterator[Tensor]]:
    """For the first process: batch size -> batches of n images in order, each made by exactly one of the processes.

    The others have to be in `help_generate`, until `release_helpers`. shape: of one image.
    """
    def batches(size: int) -> Iterator[Tensor]:
        broadcast(size)
        arriving = _passed_on(make, n, shape, size)
        try:
            for batch in arriving:  # noqa: UP028 - `yield from` would close what is drained below
                yield batch
        finally:
            for _ in arriving:  # whoever stops early must not leave the others waiting to be heard
                pass

    return batches if world() > 1 else lambda size: make(size, (0, 1))


def help_generate(make: Make, n: int, shape: Sequence[int]) -> None:
    """For the other processes: make and send what the first one asks for, as often as it does."""
    while (size := broadcast(None)) is not None:
        for _ in _passed_on(make, n, shape, size):
            pass


def release_helpers() -> None:
    broadcast(None)


def _passed_on(make: Make, n: int, shape: Sequence[int], size: int) -> Iterator[Tensor]:
    me, processes = rank(), world()
    own = make(size, (me, processes))
    for number, start in enumerate(range(0, n, size)):
        maker = number % processes
        if maker == me:
            batch = next(own)
            if me == 0:
                yield batch
            else:
                dist.send(batch.contiguous(), dst=0)
        elif me == 0:
            batch = torch.empty(min(size, n - start), *shape, dtype=torch.uint8)
            dist.recv(batch, src=maker)
            yield batch
