"""One run on several processes (`torchrun`): what must be the same as if one process had done it all.

Parameters are the same on every process, each holds its share of the batch, and gradients are averaged after backward.
That alone is not enough wherever samples of a batch meet: batch norm, minibatch statistics, dropout's draws. What is
here makes those see the whole batch, with the gradient (of any order) that one process would have. It acts inside
`shared_batch()`, which the training loop opens around a step; elsewhere (sampling, scoring, one process) it does
nothing.

When a process dies, hangs or meets an error, the others end within seconds, or after the time limit of a step, and one
line says which process it was: each one has a thread that shows the others once a second that it is alive.
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
from ganbench.distributed.watch import Watch
from ganbench.errors import UserError

STEP_LIMIT = 10.0  # minutes that a process waits for the others within a training step; $GANBENCH_STEP_LIMIT
PATIENCE = timedelta(hours=6)  # how long processes wait while the first one scores or prepares data

Network = TypeVar("Network", bound=nn.Module)

_shared = False  # whether the functions below act: inside shared_batch()
_step: int | None = None  # the training step that this process is in
_patient: Any = None  # the group for what may take hours
_watch: Watch | None = None


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
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_step_limit())
        global _patient, _watch
        _patient = dist.new_group(backend="gloo", timeout=PATIENCE)
        _watch = Watch(rank(), world())
        _watch.start()
    return f"cuda:{local}" if on_gpu else "cpu"


def _step_limit() -> timedelta:
    given = os.environ.get("GANBENCH_STEP_LIMIT", str(STEP_LIMIT))
    try:
        minutes = float(given)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < 1e6:
        raise UserError(f"GANBENCH_STEP_LIMIT={given} is not a time: give minutes, e.g. 10")
    return timedelta(minutes=minutes)


def exit_process(code: int) -> None:
    """End this process with an exit code, if it is one of several; alone, do nothing.

    Without Python's own tear-down: a thread of gloo's may still let go of a tensor then, and that aborts the process
    (PyTorch issue 179291). Call it last, when all is written.
    """
    if dist.is_initialized():
        if code == 0:
            dist.destroy_process_group()
        elif _watch is not None:
            _watch.wait_for_the_others()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def rank() -> int:
    """The number of this process, 0 where it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """The first process does what is inside, then the others do, and find it done: a prepared store, a download."""
    if rank() != 0:
        dist.barrier(group=_patient)
    yield
    if world() > 1 and rank() == 0:
        dist.barrier(group=_patient)


def broadcast(value: Any, *, patient: bool = False) -> Any:
    """The first process's value (None, bool, number, text), on every process.

    patient: wait for it as long as an evaluation may take, not as a training step.
    """
    if world() == 1:
        return value
    carrier = [value]
    dist.broadcast_object_list(carrier, src=0, device=torch.device("cpu"), group=_patient if patient else None)
    return carrier[0]


def highest(*numbers: int) -> list[int]:
    """Of each whole number, the highest that any process has; the same answers on all of them."""
    if world() == 1:
        return list(numbers)
    carrier = torch.tensor(numbers)
    dist.all_reduce(carrier, op=dist.ReduceOp.MAX)
    return [int(number) for number in carrier]


def mean_of_scalars(scalars: Mapping[str, Tensor | float]) -> dict[str, Tensor | float]:
    """Logged scalars, averaged over processes on the device where they are: the host does not wait for it."""
    if world() == 1 or not scalars:
        return dict(scalars)
    device = next((v.device for v in scalars.values() if isinstance(v, Tensor)), torch.device("cpu"))
    # Python's numbers are written there by the device itself
    stacked = torch.stack([value.detach().to(device, torch.float64) if isinstance(value, Tensor)
                           else torch.full((), value, dtype=torch.float64, device=device)
                           for value in scalars.values()])
    dist.all_reduce(stacked)
    return dict(zip(scalars, (stacked / world()).unbind()))


# --- when one of them fails -----------------------------------------------------------------------------------------

def failing(code: int) -> bool:
    """This process ends with an exit code that is not 0: the others are to end too.

    Returns whether to say why: not if another process has failed before, and has printed it.
    """
    return _watch is None or _watch.fail(code)


def lost_contact(error: BaseException) -> str:
    """One line on an error that came of another process's end; "" if the error is of another kind.

    Takes some seconds: who shows no sign of life for that long has died, was stopped, or is cut off.
    """
    if _watch is None or not isinstance(error, RuntimeError):
        return ""
    if not (isinstance(error, dist.DistError) or "gloo" in str(error) or "Connection" in str(error)):
        return ""
    silent = ", ".join(map(str, _watch.silent())) or "another process"
    when = "before the first step" if _step is None else f"at step {_step}"
    waited = ""
    if "imed out" in str(error):
        waited = f" for {_step_limit().total_seconds() / 60:g} minutes (GANBENCH_STEP_LIMIT)"
    return f"lost contact {when}: of {world()} processes, rank {silent} has died or does not answer{waited}"


# --- where the samples of a batch meet ------------------------------------------------------------------------------

@contextmanager
def shared_batch(step: int | None = None) -> Iterator[None]:
    """Inside, the functions and layers below see the batches of all processes as one.

    step: the training step that begins, for the message if another process fails in it.
    """
    global _shared, _step
    _step = step
    before = _shared, random._share
    _shared, random._share = world() > 1, (rank(), world())
    try:
        yield
    finally:
        _shared, random._share = before


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
    return _AllSum.apply(x) if _shared else x


def whole_batch(x: Tensor) -> Tensor:
    """(B/world, ...) on each process -> (B, ...) on all, in the order one process would have. Differentiable."""
    if not _shared:
        return x
    share, me = len(x), rank()
    before, after = x.new_zeros(me * share, *x.shape[1:]), x.new_zeros((world() - me - 1) * share, *x.shape[1:])
    return all_sum(torch.cat([before, x, after]))


def own_rows(x: Tensor) -> Tensor:
    """(B, ...) -> this process's (B/world, ...). The inverse of `whole_batch`."""
    if not _shared:
        return x
    share = len(x) // world()
    return x[rank() * share:(rank() + 1) * share]


class _WholeBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the batch of all processes, on any device, with torch's formulas: biased variance to normalise,
    unbiased in the running average."""

    def _check_input_dim(self, input: Tensor) -> None:
        return None

    def forward(self, input: Tensor) -> Tensor:
        if not (_shared and (self.training or not self.track_running_stats)):
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
        if not (_shared and self.training and 0 < self.p < 1):
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
            elif getattr(module, "meets_batch", False):  # a mark that only our own layers carry
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
        broadcast(size, patient=True)
        arriving = _passed_on(make, n, shape, size)
        try:
            for batch in arriving:  # noqa: UP028 - `yield from` would close what is drained below
                yield batch
        finally:
            for _ in arriving:  # whoever stops early must not leave the others waiting to send
                pass

    def alone(size: int) -> Iterator[Tensor]:
        return make(size, (0, 1))

    return batches if world() > 1 else alone


def help_generate(make: Make, n: int, shape: Sequence[int]) -> None:
    """For the other processes: make and send what the first one asks for, as often as it does."""
    while (size := broadcast(None, patient=True)) is not None:
        for _ in _passed_on(make, n, shape, size):
            pass


def release_helpers() -> None:
    """Let the processes go that are in `help_generate`."""
    broadcast(None, patient=True)


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
                dist.send(batch.contiguous(), dst=0, group=_patient)
        elif me == 0:
            batch = torch.empty(min(size, n - start), *shape, dtype=torch.uint8)
            dist.recv(batch, src=maker, group=_patient)
            yield batch
