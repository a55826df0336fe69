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
import hashlib
import html
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ganbench.data import Store, open_dataset
from ganbench.data.prepare import CHANNELS, MAX_SIDE
from ganbench.environment import choose_device
from ganbench.errors import UserError, is_out_of_memory, unknown
from ganbench.family import Family, ImageSpec, configure, find_family, sampling_batch, to_uint8
from ganbench.files import Kinds, read_json
from ganbench.pictures.grids import ImageTensor, magnified, png, tile
from ganbench.plugins import same_source, source_hash
from ganbench.random import Random, derived_seed, seeded
from ganbench.runs import checkpoint, posthoc
from ganbench.runs.batch_norm import estimate_statistics
from ganbench.runs.options import checked_value
from ganbench.sides import side_of

RUNS = Path("runs")
WHICH = ("last", "best")  # checkpoints that can be asked for
TRAINED: Mapping[str, Kinds] = {  # what config.json must say before networks can be made of it
    "run": str, "family_source": str, "preset": str, "config": dict, "dataset.spec": str, "dataset.side": int,
    "dataset.channels": int, "dataset.classes": list, "dataset.split": str, "dataset.content_hash": str}


class Run:
    """A trained model, read back from its folder.

    Attributes:
        path: the folder. config: contents of config.json. family: networks with the checkpoint's weights.
        generator: the averaged generator where the family averages, in sampling mode.
        images, kimg, step, seconds: how far training was.
        trust: whether code that the folder brings along may be run. checkpoint: the folder that its weights come from.
        ema: relative width of the generator's average, where it was made afterwards.
    """

    def __init__(self, path: Path, config: dict[str, Any], family: Family, generator: nn.Module, state: dict[str, Any],
                 device: torch.device, trust: bool, checkpoint: Path, ema: float | None = None):
        self.path, self.config, self.family, self.generator, self.device = path, config, family, generator, device
        self.images, self.step, self.seconds, self.trust = state["images"], state["steps"], state["seconds"], trust
        self.checkpoint, self.ema = checkpoint, ema

    @property
    def kimg(self) -> float:
        """Thousands of real images that it was trained on."""
        return self.images / 1000

    @property
    def name(self) -> str:
        """Its identifier in the results."""
        return self.config["run"]

    def store(self, split: str | None = None) -> Store:
        """The images this run was trained on, or another split of the data set. Raises UserError if they changed."""
        data = self.config["dataset"]
        # a data set may be a Python file: ask before it is imported
        check_code(self.path, self.config, "dataset", trust=self.trust)
        store = open_dataset(data["spec"], side=side_of(data), split=split or data["split"], crop=data.get("crop"),
                             channels=data["channels"], root=data.get("root"), skip_bad=data.get("skip_bad", False))
        # the split trained on must still hold the same images
        if split in (None, data["split"]) and store.content_hash != data["content_hash"]:
            raise UserError(f"the images of '{data['spec']}' are not those that {self.path} was trained on "
                            "(their content hash differs): score it against named images with `ganbench eval --real`")
        return store

    def sample(self, n: int, seed: int = 0, labels: Tensor | None = None) -> Tensor:
        """n generated images, uint8 (n,C,S,S). Conditional families draw labels uniformly unless they are given.

        The last value of a notebook's cell, they show themselves as a picture. Raises UserError for an n below 1.
        """
        n = checked_value("n", n, int, minimum=1)
        batches = sample_batches(self.family, self.generator, n, seed, self.device, labels=labels)
        return torch.cat(list(batches)).as_subclass(ImageTensor)

    def __repr__(self) -> str:
        return f"<Run {self.path}: {self.config['family']} ({self.config['preset']}), {self.kimg:g} kimg>"

    def _repr_html_(self) -> str:
        data = self.config["dataset"]
        facts = [("family", f"{self.config['family']} ({self.config['preset']})"),
                 ("data", f"{data['spec']}, {side_of(data)} px, {data['channels']} channel(s)"),
                 ("trained", f"{self.kimg:g} thousand images, {self.step:,} updates, {self.seconds:.0f} s"),
                 ("seed", self.config["seed"]), ("folder", self.path)]
        rows = "".join(f"<tr><th>{name}</th><td>{html.escape(str(value))}</td></tr>" for name, value in facts)
        # inside the page: a notebook can be passed on as one file
        picture = base64.b64encode(png(magnified(tile(self.sample(16))))).decode()
        return f'<table>{rows}</table><img alt="16 samples" src="data:image/png;base64,{picture}">'


def load_run(path: str | Path, *, device: str | torch.device = "cpu", which: str = "last", strict: bool = False,
             trust: bool = False, ema: float | None = None) -> Run:
    """Read a run back.

    A damaged checkpoint is passed over with a warning, and the one before it is taken. Code of the family that has
    changed since the training is a warning.

    Args:
        path: the run's folder. device: where the networks go. which: "last" or "best" checkpoint.
        strict: refuse a damaged checkpoint instead.
        trust: import a family's file that lies in the run's folder, or that is not the one the run was trained with.
        ema: relative width of the average that the generator is to be, made of what `ema_snapshots` kept.
    Raises:
        UserError: no run there, no checkpoint yet, none that is sound, or code that needs `trust`.

    Examples:
        >>> import ganbench
        >>> run = ganbench.load_run("runs/0001-dcgan-digits-s0")
        >>> run.sample(16, seed=0).shape
        torch.Size([16, 1, 32, 32])
    """
    # config.json and the checkpoint; then code, once it is known to be trusted
    path, chip = Path(path), choose_device(device)
    config = read_config(path, TRAINED)
    document, tensors, chosen = _chosen(path / "checkpoints", which, strict)
    check_code(path, config, "family", trust=trust)
    family = build_family(config, chip)
    if changed := changed_code(config, type(family).__module__):
        warnings.warn(f"{path}: {changed}; its images and scores may differ from those of the training", stacklevel=2)

    # The checkpoint's weights, into networks that config.json describes.
    weights, averaged = (checkpoint.below(prefix, tensors) for prefix in ("family/", "averaged/"))
    try:
        family.load_state_dict(weights)
        generator = copy.deepcopy(family.generator)
        if averaged:
            generator.load_state_dict(averaged)
        if ema is not None:
            generator.load_state_dict(posthoc.reconstruct(path, ema, document["images"]), strict=False)
            estimate_statistics(family, generator, derived_seed(config.get("seed", 0), "batch norm"), chip)
    except RuntimeError as error:
        raise UserError(f"{chosen} does not fit the networks of {path / 'config.json'}: "
                        f"{str(error).splitlines()[-1].strip()}") from None
    # evaluation mode, but for the generator that in which its family samples
    family.eval()
    family.sample_mode(generator)
    return Run(path, config, family, generator, document, chip, trust, chosen, ema)


def check_which(which: str) -> None:
    """Raise UserError for a word that names no checkpoint."""
    if which not in WHICH:
        raise unknown("unknown checkpoint", str(which), WHICH)


def _chosen(folder: Path, which: str, strict: bool) -> tuple[dict[str, Any], dict[str, Tensor], Path]:
    """The state and the tensors of the checkpoint to take, and where it lies."""
    check_which(which)
    if which == "best":
        checkpoint.check_mark(folder)
        if (best := checkpoint.best_of(folder)) is not None:  # nothing else can replace the best one
            return *checkpoint.load_checkpoint(best, checkpoint.POSITION), best
    found = checkpoint.load_newest(folder, keys=checkpoint.POSITION, strict=strict)
    if found is None:
        raise UserError(f"{folder.parent} holds no checkpoint yet: let `ganbench resume {folder.parent}` train on, "
                        "or name another run")
    for reason in found.skipped:
        warnings.warn(f"{reason}: {found.path.name} is taken instead", stacklevel=3)
    return found.document, found.tensors, found.path


# --- config.json ----------------------------------------------------------------------------------------------------

def read_config(path: Path, keys: Mapping[str, Kinds] | None = None) -> dict[str, Any]:
    """A run's config.json, with paths inside the run's folder where the folder is now.

    Args:
        keys: what it must say, as for `ganbench.files.read_json`.
    Raises:
        UserError: `path` is not a run's folder, or config.json is damaged or may not be read.
    """
    if not os.path.lexists(path):
        raise UserError(f"no run at {path}: see the folders in {RUNS}/, or train one with `ganbench run`")
    try:
        (path / "config.json").stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is not a run's folder: it has no config.json") from None
    except OSError:
        pass  # it may be there: reading it says what is wrong
    return _followed(read_json(path / "config.json", keys=keys, remedy="name another run"), path)


def _followed(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """Recorded paths are absolute; those inside the run's folder follow it when it is moved or copied."""
    options, data = document.get("options"), document.get("dataset")
    if not isinstance(options, dict) or not isinstance(data, dict):
        return document
    # where the run was made, and where it is
    former, now = str(options.get("out") or ""), os.path.abspath(path)
    if not os.path.isabs(former) or former == now:
        return document

    def follow(holder: dict[str, Any], *keys: str) -> None:
        for key in keys:
            kind, colon, place = str(holder.get(key) or "").rpartition(":")
            if place.startswith(f"{former}{os.sep}"):
                holder[key] = f"{kind}{colon}{now}{place.removeprefix(former)}"

    # everything that may be a path inside the folder
    follow(options, "family", "dataset", "root", "results")
    follow(document, "family_source")
    follow(data, "spec", "root")
    options["out"] = now
    return document


# --- code -----------------------------------------------------------------------------------------------------------

def code_files(config: dict[str, Any]) -> dict[Path, str]:
    """The Python files that a run is made of besides ganbench's own, and what each is: family, dataset or metric."""
    options, data = (part if isinstance(part := config.get(key), dict) else {} for key in ("options", "dataset"))
    # every place that may name a file; the document may be damaged, so nothing is taken for granted
    named = [("family", config.get("family_source")), ("family", options.get("family")), ("dataset", data.get("spec")),
             ("dataset", options.get("dataset")), *(("metric", name) for name in list(options.get("metrics") or []))]
    # FILE.py:NAME is of FILE.py
    files = [(what, str(name).partition(":")[0]) for what, name in named]
    return {Path(os.path.abspath(Path(file).expanduser())): what for what, file in files if file.endswith(".py")}


def code_hashes(config: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of each of these files as it is now, for config.json's "code"."""
    return {str(file): _sha256(file) for file in code_files(config)}


def check_code(path: Path, config: dict[str, Any], *which: str, trust: bool) -> None:
    """Refuse to import a file that nobody has vouched for; called before anything that a config.json names is imported.

    A file outside the run's folder may be imported if it is, by its SHA-256, the one that the run was trained with.
    A file inside came with the folder, perhaps from somebody else, and so did the hash beside it.

    Args:
        path: the run's folder. which: family, dataset, metric; none = all. trust: import it all the same, and say so.
    Raises:
        UserError: that names the file and its hash.
    """
    recorded = config.get("code") or {}
    for file, what in code_files(config).items():
        if which and what not in which:
            continue
        # is there a reason not to trust it?
        found = _sha256(file)
        if file.resolve().is_relative_to(path.resolve()):
            reason = f"{file} is code that lies in the run's folder"
        elif str(file) not in recorded:
            reason = f"{file} is code, and {path / 'config.json'} does not say what it was when this run was trained"
        elif recorded[str(file)] != found:
            reason = f"{file} is other code than this run was trained with (SHA-256 {recorded[str(file)]})"
        else:
            continue
        if not trust:
            raise UserError(f"{reason}: it is not run unasked. Read it (its SHA-256 is {found}), "
                            "then add --trust to this command (from Python: trust=True)")
        warnings.warn(f"{reason}; it is trusted and run (its SHA-256 is {found})", stacklevel=3)


def changed_code(config: dict[str, Any], module: str) -> str:
    """What to say if the family's code is not what the run was begun with; "" if it is, or if nobody wrote that down.

    module: the family's, imported.
    """
    recorded = config.get("source_hash")
    if recorded is None or same_source(str(recorded), module):
        return ""
    name = Path(config["family_source"]).stem
    return f"the code of {name} has changed since this run was begun ({recorded}, now {source_hash(module)})"


def _sha256(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {file}, which this run needs ({error.strerror}): put it back") from None


def build_family(config: dict[str, Any], device: torch.device) -> Family:
    """The networks that a run's config.json describes, with fresh weights."""
    cls = find_family(config["family_source"])
    resolved, _, _ = configure(cls, config["preset"], config["config"])
    data = config["dataset"]
    images = ImageSpec.of(side_of(data), data["channels"], len(data["classes"]))
    if max(images.shape[1:]) > MAX_SIDE or images.channels not in CHANNELS:
        raise UserError(f"the images of this run are {'x'.join(map(str, images.shape))}, says its config.json: it is "
                        "damaged; name another run")
    try:
        return cls(resolved, images).to(device)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"the networks that this run's config.json describes do not fit into the memory of {device}: "
                        "use a machine with more, or name another run") from None


# --- folders --------------------------------------------------------------------------------------------------------


def newest_run(runs: Path = RUNS) -> Path:
    """The run whose training was worked on last. Raises UserError if there is none."""
    found = [p.parent for p in runs.glob("*/config.json")]
    if not found:
        raise UserError(f"no run in {runs.resolve()}: train one with `ganbench run dcgan`, or name its folder")

    def worked_on(run: Path) -> int:
        log = run / "metrics.jsonl"
        return log.stat().st_mtime_ns if log.exists() else 0

    return max(found, key=lambda run: (worked_on(run), run))


def new_run_folder(family: str, dataset: str, seed: int, runs: Path = RUNS) -> Path:
    """Make runs/0001-family-dataset-s0, with the next free number."""
    # of a path its last part, in characters that every file system takes
    label = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(dataset.rstrip("/")).name or dataset).strip("-")
    try:
        runs.mkdir(parents=True, exist_ok=True)
        while True:
            # two processes may find the same number free: mkdir decides
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


# --- images ---------------------------------------------------------------------------------------------------------

def sample_batches(family: Family, generator: nn.Module, n: int, seed: int, device: torch.device, *,
                   labels: Tensor | None = None, label_pool: Tensor | None = None, batch: int | None = None,
                   share: tuple[int, int] = (0, 1), quantise: Callable[[Tensor, int], Tensor] = to_uint8,
                   ) -> Iterator[Tensor]:
    """Generated images as uint8 (B,C,S,S) on the CPU, at the full side; a pure function of weights, n and seed.

    Args:
        labels: int64 (n,), or None: drawn from `label_pool` (the training labels), or uniformly without one.
        batch: images at once; it does not change which latents are drawn, but families that sample with batch
            statistics depend on it.
        share: (rank, world): make only batches number rank, rank + world, ...
        quantise: (images, side) -> uint8 at that side.
    """
    batch = batch or sampling_batch(family.images.side)
    # latents and labels have streams of their own: images do not depend on what else was drawn
    stream = Random(derived_seed(seed, "sample"), device)
    if family.needs_labels and labels is None:
        chooser = Random(derived_seed(seed, "sample-labels"), device)
        high = len(label_pool) if label_pool is not None else family.images.classes
        labels = chooser.integers(n, high=high)
        if label_pool is not None:
            labels = label_pool.to(device)[labels]
    for number, start in enumerate(range(0, n, batch)):
        # every process draws all latents, so that each makes the images that one alone would make
        size = min(batch, n - start)
        latents = family.latents(size, stream)
        if number % share[1] != share[0]:
            continue
        with seeded(derived_seed(seed, "sample-noise", start), device):  # a network's own noise, apart from training's
            part = labels[start:start + size].to(device) if labels is not None else None
            images = family.sample(latents, part, generator)
        yield quantise(images, family.images.side).cpu()
