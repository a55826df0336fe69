"""What turns a loss into an update: backward, precision, averaging over processes, values that are not finite.

Families see it as `engine.update(loss, "critic")`; nothing else in ganbench knows about any of these.

Nothing in a step waits for the device: whether a gradient is finite is decided there, and what is counted there is read
where the log is written.
"""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ganbench import distributed
from ganbench.errors import Diverged, UserError, is_out_of_memory
from ganbench.family import Clock, Family, PartLoss, Stage, short_name
from ganbench.metrics.maths.arrays import allow_tf32
from ganbench.random import Random, derived_seed
from ganbench.runs.batch_norm import estimate_statistics
from ganbench.runs.checkpoint import below
from ganbench.training.optimizers import Skips, like_parameters, set_rate, step_where, without_waits

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
NON_FINITE_LIMIT = 20  # that many skipped updates in a row, and the run has diverged
ROW_AT_END, SHARE_AT_END = 10, 0.1  # so has one that ends in such a row, or of whose updates such a share was skipped
FP16_SEARCH = 16  # updates that fp16 may skip, halving its loss scale from 65,536, before any of it counts


def resolve_precision(name: str, device: torch.device) -> str:
    """What is used where `name` is asked for: "auto" is tf32 on GPUs that have it, as PyTorch's own convolutions, and
    fp32 elsewhere. Raises UserError for an unknown one."""
    if name == "auto":
        return "tf32" if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    if name not in PRECISIONS:
        raise UserError(f"unknown precision '{name}': choose auto or one of {', '.join(PRECISIONS)}")
    return name


class TrainingEngine:
    """Implements `ganbench.family.Engine` for one family on one device, alone or under torchrun.

    Args:
        family: with its networks on `device` already.
        seed: of all random streams.
        labels: of the whole training set, int64 (N,), or None.
        precision: auto; fp32; tf32 (matrix products on tensor cores); bf16 or fp16 (autocast; fp16 scales losses).
    """

    def __init__(self, family: Family, clock: Clock, *, device: torch.device, seed: int, precision: str = "fp32",
                 labels: Tensor | None = None):
        precision = resolve_precision(precision, device)
        self.family, self.clock, self.device, self.seed, self.precision = family, clock, device, seed, precision
        self.labels = None if labels is None else labels.to(device)
        # a card's kernels for these precisions want channels innermost, and would move everything twice for each call
        if device.type == "cuda" and precision != "fp32":
            family.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        # optimizers, with the settings they were made with: a stage may replace some, the next gives them back
        check_divisible(family)
        self.optimizers = family.make_optimizers()
        self.own_settings = {name: [dict(group) for group in optimizer.param_groups]
                             for name, optimizer in self.optimizers.items()}
        for optimizer in self.optimizers.values():
            without_waits(optimizer, device)
        self.scalers = {name: torch.amp.GradScaler(device.type, enabled=precision == "fp16")
                        for name in self.optimizers}
        self.streams: dict[str, Random] = {}
        self.stage = family.stage(clock)
        check_shares(family, clock, self.world)
        self.phase: int | None = None
        self.averaged: nn.Module | None = None  # made when the family first asks for averaging
        self.skips = {name: Skips(device) for name in self.optimizers}
        allow_tf32(precision == "tf32")

    # --- what families use --------------------------------------------------------------------------------------

    def random(self, name: str) -> Random:
        """The run's random stream of that name, made when it is first asked for."""
        if name not in self.streams:
            self.streams[name] = Random(derived_seed(self.seed, name), self.device, self.rank, self.world)
        return self.streams[name]

    def update(self, loss: Tensor, optimizer: str, clip_norm: float | None = None) -> None:
        """As `ganbench.family.Engine.update`."""
        self._backward(loss, self._cleared(optimizer), optimizer)
        self._make_step(loss.detach(), optimizer, clip_norm)

    def update_in_parts(self, loss: PartLoss, optimizer: str, n: int, clip_norm: float | None = None,
                        ) -> dict[str, Tensor]:
        """As `ganbench.family.Engine.update_in_parts`."""
        k = self.family.config.accumulate
        if k == 1:
            whole, logs = loss(slice(0, n))
            self.update(whole, optimizer, clip_norm)
            return logs
        if n % k:  # parts of different lengths would each weigh 1/k
            raise UserError(f"{n} samples of an update of the {optimizer} do not divide into {k} equal parts: "
                            "choose another accumulate or another batch")
        # each part's graph is gone before the next one's is made; gradients add up
        parameters, whole = self._cleared(optimizer), torch.zeros((), device=self.device)
        sums: dict[str, Tensor] = {}
        for start in range(0, n, n // k):
            share, logs = loss(slice(start, start + n // k))
            self._backward(share / k, parameters, optimizer)
            whole = whole + share.detach() / k
            sums = {name: value.detach() / k + sums.get(name, 0) for name, value in logs.items()}
            del share, logs
        self._make_step(whole, optimizer, clip_norm)
        return sums

    def _cleared(self, optimizer: str) -> list[nn.Parameter]:
        """An optimizer's parameters that are trained, without gradients of before."""
        parameters = [p for group in self.optimizers[optimizer].param_groups for p in group["params"]
                      if p.requires_grad]
        for parameter in parameters:
            parameter.grad = None
        return parameters

    def _backward(self, loss: Tensor, parameters: list[nn.Parameter], optimizer: str) -> None:
        """Add the gradients of this loss for these parameters alone."""
        self.scalers[optimizer].scale(loss).backward(inputs=parameters)

    def _make_step(self, loss: Tensor, optimizer: str, clip_norm: float | None) -> None:
        """Change the weights by the gradients that are there, the same on all processes."""
        chosen, scaler = self.optimizers[optimizer], self.scalers[optimizer]
        parameters = [p for group in chosen.param_groups for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in parameters]
        self._average_over_processes(gradients)
        scaler.unscale_(chosen)

        # a step only where gradients and loss are finite; fp16 finds its loss scale by overflowing
        norm = nn.utils.get_total_norm(gradients)
        finite = torch.isfinite(norm) & torch.isfinite(self.mean(loss))
        if clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
        step_where(finite, chosen)
        self.skips[optimizer].count(finite)
        if scaler.is_enabled():
            scaler.update()
        torch.clear_autocast_cache()  # autocast keeps the weights it has cast, and these are the old ones

    def rate(self, optimizer: str) -> Tensor | float:
        """The learning rate of an optimizer now, on a GPU a scalar there."""
        rate = self.optimizers[optimizer].param_groups[0]["lr"]
        return rate.clone() if isinstance(rate, Tensor) else rate  # the tensor itself changes with the next stage

    def mean(self, value: Tensor) -> Tensor:
        """A scalar averaged over processes."""
        if self.world > 1:
            value = value.detach().clone()
            dist.all_reduce(value)
            value /= self.world
        return value

    def whole_batch(self, x: Tensor) -> Tensor:
        """(B/world, ...) on each process -> (B, ...) on all, in order and differentiable."""
        return distributed.whole_batch(x)

    @property
    def local_batch(self) -> int:
        """This process's share of the stage's batch."""
        return self.stage.batch // self.world

    # --- what the loop uses -------------------------------------------------------------------------------------

    def enter(self, stage: Stage) -> None:
        """Make `stage` hold: learning rates, optimizer resets at a new phase, side and fade in the networks."""
        check_share(self.family, stage, self.world)

        # a new phase begins without what the optimizers remember of the old one
        if self.phase is not None and stage.phase != self.phase:
            for optimizer in self.optimizers.values():
                optimizer.state.clear()
        self.phase, self.stage = stage.phase, stage

        # rates and momenta of this stage, or the optimizers' own
        for name, optimizer in self.optimizers.items():
            for group, own in zip(optimizer.param_groups, self.own_settings[name]):
                set_rate(group, stage.rates.get(name, own["lr"]))
                if "momentum" in group:
                    group["momentum"] = stage.momenta.get(name, own["momentum"])
        self.family.enter(stage)

    @torch.no_grad()
    def average(self, decay: float | None = None) -> None:
        """Take the generator's present weights into the averaged copy (before the step that changes them).

        decay: what the average is multiplied by; None = as the family says.
        """
        if decay is None:
            decay = self.family.ema_decay(self.stage)
        if decay == 0 and self.averaged is None:
            return
        averaged = self.begin_average()
        generator = self.family.generator
        torch._foreach_lerp_(list(averaged.parameters()), list(generator.parameters()), 1 - decay)
        # state such as the fade position is copied, not averaged; batch norm's: see `generator`
        for ours, current in zip(averaged.buffers(), generator.buffers()):
            ours.copy_(current)
        self.family.place(averaged, self.stage)

    def begin_average(self) -> nn.Module:
        """The averaged copy; where there is none yet, it begins as the generator is now."""
        if self.averaged is None:
            self.averaged = copy.deepcopy(self.family.generator).requires_grad_(False)
        return self.averaged

    @property
    def generator(self) -> nn.Module:
        """The generator to show and to score: the averaged one where the family averages, its batch norms' statistics
        estimated on its own samples."""
        if self.averaged is None:
            return self.family.generator
        estimate_statistics(self.family, self.averaged, derived_seed(self.seed, "batch norm"), self.device)
        return self.averaged

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which a step computes in the engine's precision."""
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        return torch.autocast(self.device.type, kind) if kind else nullcontext()

    def read_skipped(self) -> dict[str, float]:
        """{"skipped_updates": n}, or {} while there were none. Waits for the device: call it where the log is written.

        Raises Diverged if NON_FINITE_LIMIT updates of an optimizer in a row were skipped.
        """
        total = 0
        for name, skips in self.skips.items():
            count, _, longest, _ = skips.read()
            total += count
            if longest >= NON_FINITE_LIMIT:
                raise Diverged(f"{NON_FINITE_LIMIT} updates of the {name} in a row had losses or gradients that are "
                               f"not finite (by generator step {self.clock.steps})")
        return {"skipped_updates": float(total)} if total else {}

    def skipped_note(self) -> str:
        """Which share of each optimizer's updates was skipped, for the results' note; "" where none was."""
        counts = {name: skips.read() for name, skips in self.skips.items()}
        return "; ".join(f"{total} of {updates} updates of the {name} skipped (loss or gradient not finite)"
                         for name, (total, _, _, updates) in counts.items() if total)

    def check_skipped(self) -> None:
        """Raise Diverged for a training that came to its end, but in which too many updates were skipped."""
        for name, skips in self.skips.items():
            total, row, _, updates = skips.read()
            spare = FP16_SEARCH if self.scalers[name].is_enabled() else 0
            if row - spare >= ROW_AT_END or total - spare > SHARE_AT_END * updates:
                raise Diverged(f"{self.skipped_note()}, {row} of them at the end")

    # --- state for the checkpoint -------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Everything that the next step depends on, as JSON and tensors."""
        # networks
        tensors = {f"family/{k}": v for k, v in self.family.state_dict().items()}
        if self.averaged is not None:
            tensors |= {f"averaged/{k}": v for k, v in self.generator.state_dict().items()}

        # optimizers: tensors apart from what is written as JSON
        optimizers: dict[str, Any] = {}
        for name, optimizer in self.optimizers.items():
            packed = optimizer.state_dict()
            plain: dict[str, dict[str, Any]] = {}
            for index, entries in packed["state"].items():
                for key, value in entries.items():
                    if isinstance(value, Tensor):
                        tensors[f"optimizer/{name}/{index}/{key}"] = value
                    else:
                        plain.setdefault(str(index), {})[key] = value
            groups = [group | {"lr": float(group["lr"])} for group in packed["param_groups"]]
            optimizers[name] = {"groups": groups, "plain": plain}

        # every random stream
        tensors |= {f"random/{name}": stream.state() for name, stream in self.streams.items()}
        tensors["torch/cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["torch/cuda"] = torch.cuda.get_rng_state(self.device)
        document = {"optimizers": optimizers, "scalers": {n: s.state_dict() for n, s in self.scalers.items()},
                    "phase": self.phase, "skipped": sum(skips.read()[0] for skips in self.skips.values()),
                    "skipped_in_a_row": {name: skips.read()[1] for name, skips in self.skips.items()},
                    "skips": {name: skips.read() for name, skips in self.skips.items()},
                    "streams": sorted(self.streams)}
        return document, tensors

    def restore(self, document: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`. Raises UserError if the checkpoint is of other networks."""
        try:
            # the networks, and the averaged copy if there was one
            self.family.load_state_dict(below("family/", tensors))
            if any(k.startswith("averaged/") for k in tensors):
                self.begin_average().load_state_dict(below("averaged/", tensors))
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(f"the checkpoint holds other networks than this configuration makes: {reason}") from None
        # the same optimizers, each with the state of its parameters put back where it was
        if set(document["optimizers"]) != set(self.optimizers):
            before, now = (", ".join(sorted(names)) for names in (document["optimizers"], self.optimizers))
            raise UserError(f"the checkpoint is of the optimizers {before}, the code as it is now has {now}: "
                            "use the code that it was trained with, or begin a new run")
        for name, optimizer in self.optimizers.items():
            saved = document["optimizers"][name]
            state: dict[int, dict[str, Any]] = {int(i): dict(v) for i, v in saved["plain"].items()}
            for key, value in below(f"optimizer/{name}/", tensors).items():
                index, entry = key.split("/")
                state.setdefault(int(index), {})[entry] = value
            # how the device works is this machine's affair, whatever the checkpoint was made on
            groups = [group | {key: own[key] for key in ("fused", "foreach", "capturable") if key in own}
                      for group, own in zip(saved["groups"], optimizer.param_groups)]
            try:
                optimizer.load_state_dict({"state": state, "param_groups": groups})
            except ValueError as error:
                raise UserError(f"the checkpoint's optimizer '{name}' is of other parameters than this version trains, "
                                f"so that training cannot go on from it: {error}") from None
            without_waits(optimizer, self.device)
            like_parameters(optimizer)
        # loss scales, random streams, phase and counts
        for name, scaler in self.scalers.items():
            if scaler.is_enabled():
                scaler.load_state_dict(document["scalers"][name])
        for name in document["streams"]:
            self.random(name).restore(tensors[f"random/{name}"])
        torch.set_rng_state(tensors["torch/cpu"])
        if self.device.type == "cuda" and "torch/cuda" in tensors:
            torch.cuda.set_rng_state(tensors["torch/cuda"], self.device)
        self.phase = document["phase"]
        for name, skips in self.skips.items():
            # older checkpoints have one total for all optimizers, and no count of updates: counting begins anew
            skips.write(*document.get("skips", {}).get(name, (0, document["skipped_in_a_row"][name], 0, 0)))

    def _average_over_processes(self, gradients: list[Tensor]) -> None:
        if self.world == 1 or not gradients:
            return
        # all gradients in one message: many small ones would each cost a round trip
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, (flat / self.world).split([g.numel() for g in gradients])):
            gradient.copy_(part.view(gradient.shape))


def check_divisible(family: Family) -> None:
    """Raise UserError where `accumulate` is asked of a family whose samples of a batch see each other."""
    if family.config.accumulate > 1 and not family.divisible_batch:
        raise UserError(f"{short_name(type(family))} with these settings compares the samples of a batch (batch norm, "
                        "minibatch statistics or the like), so that parts of one would be another training: leave "
                        "accumulate at 1, and take a smaller batch or --precision bf16 where memory is short")


def check_share(family: Family, stage: Stage, processes: int) -> None:
    """Raise UserError where a step's minibatches cannot be shared evenly, among processes and into parts."""
    parts = family.config.accumulate
    for name, size in (("batch", stage.batch), ("generator_batch", family.generator_batch)):
        if size % processes:
            raise UserError(f"{name} {size} at side {stage.side} does not divide by {processes} processes: "
                            f"choose another number of processes or another {name}")
        if size % (processes * parts):
            shared = f" on {processes} processes" if processes > 1 else ""
            raise UserError(f"{name} {size} at side {stage.side}{shared} does not divide into {parts} equal parts: "
                            f"choose another accumulate or another {name}")


def check_shares(family: Family, clock: Clock, processes: int) -> None:
    """The same for all stages up to the end of training, before it begins: 256 pixels may be days away."""
    for part in range(1001 if processes * family.config.accumulate > 1 else 0):
        images = round(clock.total_images * part / 1000)
        check_share(family, family.stage(replace(clock, images=images)), processes)


@contextmanager
def explained_memory(stage: Stage, device: torch.device) -> Iterator[None]:
    """Turn running out of memory into one line that says at which side and batch, and what to change."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"out of memory on {device} at side {stage.side}, batch {stage.batch}: begin it with a smaller "
                        "batch (`ganbench run --set batch=N`; `ganbench show FAMILY` lists the settings), "
                        "`ganbench run --precision bf16`, or a preset with fewer feature maps") from None
