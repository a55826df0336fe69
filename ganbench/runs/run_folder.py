"""A run's folder, and a run read back from it.

    runs/0001-dcgan-digits-s0/
        config.json      every resolved value with its origin, data set, environment, command
        metrics.jsonl    logged scalars, one JSON object a line
        grids/           sample grids, same latents throughout
        results.csv      this run's rows of the results table
        checkpoints/     images-000020000/ ... and best.json
"""

import base64
import copy
import html
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ganbench.data import Store, open_dataset
from ganbench.errors import UserError
from ganbench.family import Family, ImageSpec, configure, find_family, sampling_batch, to_uint8
from ganbench.pictures.grids import ImageTensor, magnified, png, tile
from ganbench.random import Random, derived_seed
from ganbench.runs import checkpoint

RUNS = Path("runs")


class Run:
    """A trained model as it stands in its folder.

    Attributes:
        path: the folder. config: contents of config.json. family: networks with the checkpoint's weights.
        generator: the averaged generator where the family averages, in sampling mode. images, kimg, step, seconds:
        where training stood.
    """

    def __init__(self, path: Path, config: dict[str, Any], family: Family, generator: nn.Module, state: dict[str, Any],
                 device: torch.device):
        self.path, self.config, self.family, self.generator, self.device = path, config, family, generator, device
        self.images, self.step, self.seconds = state["images"], state["steps"], state["seconds"]

    @property
    def kimg(self) -> float:
        return self.images / 1000

    @property
    def name(self) -> str:
        return self.config["run"]

    def store(self, split: str | None = None) -> Store:
        """The images this run was trained on, or another split of the same data set. Raises UserError if they changed."""
        data = self.config["dataset"]
        store = open_dataset(data["spec"], side=data["side"], split=split or data["split"], crop=data["crop"],
                             channels=data["channels"], root=data["root"], skip_bad=data["skip_bad"])
        if split in (None, data["split"]) and store.content_hash != data["content_hash"]:
            raise UserError(f"the images of '{data['spec']}' are not those that {self.path} was trained on "
                            "(their content hash differs): score it against named images with --real")
        return store

    def sample(self, n: int, seed: int = 0, labels: Tensor | None = None) -> Tensor:
        """n generated images, uint8 (n,C,S,S). Conditional families draw labels uniformly unless they are given.

        The last value of a notebook's cell, they show themselves as a picture.
        """
        batches = sample_batches(self.family, self.generator, n, seed, self.device, labels=labels)
        return torch.cat(list(batches)).as_subclass(ImageTensor)

    def __repr__(self) -> str:
        return f"<Run {self.path}: {self.config['family']} ({self.config['preset']}), {self.kimg:g} kimg>"

    def _repr_html_(self) -> str:
        data = self.config["dataset"]
        facts = [("family", f"{self.config['family']} ({self.config['preset']})"),
                 ("data", f"{data['spec']}, {data['side']} px, {data['channels']} channel(s)"),
                 ("trained", f"{self.kimg:g} thousand images, {self.step:,} updates, {self.seconds:.0f} s"),
                 ("seed", self.config["seed"]), ("folder", self.path)]
        rows = "".join(f"<tr><th>{name}</th><td>{html.escape(str(value))}</td></tr>" for name, value in facts)
        picture = base64.b64encode(png(magnified(tile(self.sample(16))))).decode()
        return f'<table>{rows}</table><img alt="16 samples" src="data:image/png;base64,{picture}">'


def load_run(path: str | Path, *, device: str | torch.device = "cpu", which: str = "last") -> Run:
    """Read a run back.

    Args:
        path: the run's folder. device: where the networks go. which: "last" or "best" checkpoint.
    Raises:
        UserError: no run there, no checkpoint yet, or a damaged one.

    Example:
        >>> import ganbench
        >>> run = ganbench.load_run("runs/0001-dcgan-digits-s0")
        >>> run.sample(16, seed=0).shape
        torch.Size([16, 1, 32, 32])
    """
    path, device = Path(path), torch.device(device)
    config = read_config(path)
    if which == "best":
        checkpoint.check_mark(path / "checkpoints")
    chosen = checkpoint.best_of(path / "checkpoints") if which == "best" else None
    if chosen is None:
        found = checkpoint.list_checkpoints(path / "checkpoints")
        if not found:
            raise UserError(f"{path} holds no checkpoint yet: let `ganbench resume {path}` train on, or name another run")
        chosen = found[-1]
    document, tensors = checkpoint.load_checkpoint(chosen)
    family = build_family(config, device)
    weights = {k.removeprefix("family/"): v for k, v in tensors.items() if k.startswith("family/")}
    averaged = {k.removeprefix("averaged/"): v for k, v in tensors.items() if k.startswith("averaged/")}
    try:
        family.load_state_dict(weights)
        generator = copy.deepcopy(family.generator)
        if averaged:
            generator.load_state_dict(averaged)
    except RuntimeError as error:
        raise UserError(f"{chosen} does not fit the networks of {path / 'config.json'}: "
                        f"{str(error).splitlines()[-1].strip()}") from None
    family.eval()
    family.sample_mode(generator)
    return Run(path, config, family, generator, document, device)


def read_config(path: Path) -> dict[str, Any]:
    """A run's config.json, with paths inside the run's folder where the folder is now. Raises UserError if `path` is not
    a run's folder."""
    if not path.is_dir():
        raise UserError(f"no run at {path}: see the folders in {RUNS}/, or train one with `ganbench run`")
    try:
        document = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not a run's folder: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path / 'config.json'} is damaged ({' '.join(str(error).split())}): name another run") from None
    if not isinstance(document, dict):
        raise UserError(f"{path / 'config.json'} is damaged (not a JSON object): name another run")
    return _followed(document, path)


def _followed(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """Recorded paths are absolute; those inside the run's folder follow it when it is moved or copied."""
    options, data = document.get("options"), document.get("dataset")
    if not isinstance(options, dict) or not isinstance(data, dict):
        return document
    former = options.get("out")
    if not former or not Path(former).is_absolute() or Path(former) == path.absolute():
        return document

    def follow(holder: dict[str, Any], *keys: str) -> None:
        for key in keys:
            kind, colon, place = str(holder.get(key) or "").rpartition(":")
            if place.startswith(f"{former}{os.sep}"):
                holder[key] = f"{kind}{colon}{path.absolute()}{place.removeprefix(former)}"

    follow(options, "family", "dataset", "root", "results")
    follow(document, "family_source")
    follow(data, "spec", "root")
    options["out"] = str(path.absolute())
    return document


def build_family(config: dict[str, Any], device: torch.device) -> Family:
    """The networks that a run's config.json describes, with fresh weights."""
    cls = find_family(config["family_source"])
    resolved, _, _ = configure(cls, config["preset"], config["config"])
    data = config["dataset"]
    return cls(resolved, ImageSpec(data["side"], data["channels"], len(data["classes"]))).to(device)


def newest_run(runs: Path = RUNS) -> Path:
    """The run whose training was worked on last. Raises UserError if there is none."""
    found = [p.parent for p in runs.glob("*/config.json")]
    if not found:
        raise UserError(f"no run in {runs.resolve()}: train one with `ganbench run dcgan`, or name one with --run")
    return max(found, key=lambda p: ((p / "metrics.jsonl").stat().st_mtime_ns if (p / "metrics.jsonl").exists() else 0, p))


def new_run_folder(family: str, dataset: str, seed: int, runs: Path = RUNS) -> Path:
    """Make runs/0001-family-dataset-s0, with the next free number."""
    label = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(dataset.rstrip("/")).name or dataset).strip("-")
    try:
        runs.mkdir(parents=True, exist_ok=True)
        while True:
            taken = [int(m[1]) for p in runs.iterdir() if (m := re.match(r"(\d{4,})-", p.name))]
            path = runs / f"{max(taken, default=0) + 1:04d}-{family}-{label}-s{seed}"
            try:
                path.mkdir()
                return path
            except FileExistsError:  # somebody else was faster
                continue
    except OSError as error:
        raise UserError(f"cannot make a run's folder in {runs.resolve()}: {error.strerror}; "
                        "choose a folder with --out") from None


def write_json(path: Path, document: Any) -> None:
    """Whole or not at all."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    scratch.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    os.replace(scratch, path)


def sample_batches(family: Family, generator: nn.Module, n: int, seed: int, device: torch.device, *,
                   labels: Tensor | None = None, label_pool: Tensor | None = None, batch: int | None = None,
                   share: tuple[int, int] = (0, 1)) -> Iterator[Tensor]:
    """Generated images as uint8 (B,C,S,S) on the CPU, at the full side; a pure function of weights, n and seed.

    Args:
        labels: int64 (n,), or None: drawn from `label_pool` (the training labels), or uniformly without one.
        batch: images at once; it does not change which latents are drawn, but families that sample with batch
            statistics depend on it.
        share: (rank, world): make only batches number rank, rank + world, ...
    """
    batch = batch or sampling_batch(family.images.side)
    stream = Random(derived_seed(seed, "sample"), device)
    if family.needs_labels and labels is None:
        chooser = Random(derived_seed(seed, "sample-labels"), device)
        high = len(label_pool) if label_pool is not None else family.images.classes
        labels = chooser.integers(n, high=high)
        if label_pool is not None:
            labels = label_pool.to(device)[labels]
    forked = [device] if device.type == "cuda" else []
    for number, start in enumerate(range(0, n, batch)):
        size = min(batch, n - start)
        latents = family.latents(size, stream)
        if number % share[1] != share[0]:
            continue
        with torch.random.fork_rng(devices=forked):  # noise drawn inside a network must not disturb training
            torch.manual_seed(derived_seed(seed, "sample-noise", start))
            part = labels[start:start + size].to(device) if labels is not None else None
            images = family.sample(latents, part, generator)
        yield to_uint8(images, family.images.side).cpu()
