"""`--init-from RUN`: a training that begins with the weights of another one (transfer to other images or settings).

Taken are generator, critic and the averaged generator; optimizers, schedules and random streams begin anew. A tensor is
taken where name and shape agree; the others are named and stay as they were initialised.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganbench.errors import UserError
from ganbench.runs import checkpoint
from ganbench.runs.run_folder import read_config
from ganbench.training.engine import TrainingEngine

NETWORKS = ("generator.", "critic.")
SHOWN = 6  # names of tensors that are shown; config.json has all


def find_start(text: str) -> dict[str, Any]:
    """What config.json says of the checkpoint that `--init-from` means.

    Args:
        text: a run's folder, for its last checkpoint; with ":best" behind it, for its best.
    Raises:
        UserError: no run there, or no sound checkpoint.
    """
    name, best = text.removesuffix(":best"), text.endswith(":best")
    path = Path(name).expanduser().absolute()
    config = read_config(path, {"run": str, "family": str, "config_hash": str})
    folder = path / "checkpoints"
    if best:
        checkpoint.check_mark(folder)
        chosen = checkpoint.best_of(folder)
    else:
        found = checkpoint.load_newest(folder, keys=checkpoint.POSITION)
        chosen = found and found.path
    if chosen is None:
        raise UserError(f"--init-from {text}: {path} holds no {'best ' if best else ''}checkpoint: name another run")
    document, _ = checkpoint.load_checkpoint(chosen, checkpoint.POSITION)
    return {"run": config["run"], "family": config["family"], "config_hash": config["config_hash"],
            "checkpoint": str(chosen), "sha256": checkpoint.checkpoint_hash(chosen), "kimg": document["images"] / 1000}


def begun_from(config: Mapping[str, Any]) -> str:
    """A row's note on where a run's weights come from, from its config.json; "" where they are its own."""
    start = config.get("init_from")
    if not start:
        return ""
    return f"begun with weights of {start['run']} at {start['kimg']:g} kimg (checkpoint {start['sha256'][:12]})"


class Start:
    """Weights to begin with, and which of them fit.

    Attributes:
        taken, left: names of the family's tensors that are taken over, and that stay as they were initialised.
        unused: names of the other run's tensors that have no place here.
    """

    def __init__(self, record: dict[str, Any], engine: TrainingEngine):
        _, tensors = checkpoint.load_checkpoint(Path(record["checkpoint"]))
        self.engine, self.record = engine, record
        self.networks, self.averaged = (checkpoint.below(prefix, tensors) for prefix in ("family/", "averaged/"))
        ours = {name: value for name, value in engine.family.state_dict().items() if name.startswith(NETWORKS)}
        theirs = {name: value for name, value in self.networks.items() if name.startswith(NETWORKS)}
        self.taken = [name for name, value in ours.items() if _fits(theirs.get(name), value)]
        self.left = [name for name in ours if name not in set(self.taken)]
        self.unused = [name for name in theirs if name not in set(self.taken)]
        if not self.taken:
            raise UserError(f"--init-from {record['run']}: none of its {len(theirs)} tensors fits the networks of this "
                            "run: name a run of the same family and like settings")

    def describe(self) -> dict[str, Any]:
        """For config.json."""
        return {**self.record, "taken": len(self.taken), "left": self.left, "unused": self.unused}

    def summary(self) -> str:
        """For the progress line."""
        text = (f"  begins with {len(self.taken)} of {len(self.taken) + len(self.left)} tensors, from "
                f"{self.record['run']} at {self.record['kimg']:g} kimg")
        if self.left:
            more = f" and {len(self.left) - SHOWN} more" if len(self.left) > SHOWN else ""
            text += f"; left as they were initialised: {', '.join(self.left[:SHOWN])}{more}"
        return text

    @torch.no_grad()
    def apply(self) -> None:
        """Put the weights in place; the average begins with the other run's where it has one, else with its
        generator."""
        family, engine = self.engine.family, self.engine
        taken = {name: self.networks[name] for name in self.taken}
        family.load_state_dict(taken, strict=False)
        if family.ema_decay(engine.stage) == 0 and not self.averaged:
            return
        averaged = engine.begin_average()
        ours = averaged.state_dict()
        averaged.load_state_dict({name: value for name, value in self.averaged.items()
                                  if _fits(ours.get(name), value)}, strict=False)


def _fits(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and one.shape == other.shape
