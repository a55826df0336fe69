"""From the options of a run to everything that they resolve to, and to config.json. Nothing is trained here."""

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from ganbench import distributed, records
from ganbench.data import Store, absolute_spec, open_dataset
from ganbench.data.prepare import refuse_unused
from ganbench.environment import choose_device, describe, now
from ganbench.errors import UserError, nearest
from ganbench.family import (
    Clock,
    Family,
    FamilyConfig,
    ImageSpec,
    Preset,
    configuration_hash,
    configure,
    deciding,
    find_family,
    short_name,
)
from ganbench.metrics.evaluate import check as check_metrics
from ganbench.plugins import source_hash
from ganbench.runs import checkpoint
from ganbench.runs.options import LONGEST, by_count, check_options, without_counts
from ganbench.runs.run_folder import changed_code, check_code, code_hashes, new_run_folder, read_config
from ganbench.sides import side_or_none
from ganbench.training.augment import check_augmentation
from ganbench.training.engine import resolve_precision
from ganbench.training.init_from import find_start
from ganbench.training.loop import LONGEST as MAX_UNSAVED
from ganbench.training.loop import UNITS, Plan
from ganbench.training.power_average import check_averaging
from ganbench.training.run_options import RunOptions


@dataclass
class Resolved:
    """A run before anything is built: what its options mean for this family, these images and this machine."""

    options: RunOptions
    cls: type[Family]
    config: FamilyConfig
    preset: str
    store: Store
    images: ImageSpec
    plan: Plan
    device: torch.device
    document: dict[str, Any]  # what config.json will hold
    decided: dict[str, Any]  # what its configuration hash is made of
    former: dict[str, Any] = field(default_factory=dict)  # the config.json that lies in the folder of a resumed run


def resolve(options: RunOptions) -> Resolved:
    """Look everything up and check that it fits together. Raises UserError; writes nothing but a prepared store."""
    # what needs no images: values, device, precision, family, settings
    check_options(options)
    device = choose_device(distributed.start(options.device))
    options = replace(options, precision=resolve_precision(options.precision, device), side=side_or_none(options.side))
    cls = find_family(options.family)
    if options.augment is not None:  # a setting as any other, with a flag of its own
        other = options.overrides.get("augment", options.augment)
        if other != options.augment:
            raise UserError(f"--augment {options.augment} and --set augment={other} contradict each other: give one of "
                            "them")
        options = replace(options, augment=None, overrides={**options.overrides, "augment": options.augment})
    check_metrics(options.metrics, without_counts(options.metric_settings, options.metrics))
    config, preset, origin = configure(cls, options.preset, options.overrides)
    check_averaging(config)

    # the images, and whether preset, family and metrics can work with them
    if not options.resume:
        refuse_unused(options.dataset, root=options.root, skip_bad=options.skip_bad)
    # a run that goes on keeps what its preset says otherwise by now
    kept = _former(options).get("dataset")
    kept = kept if isinstance(kept, dict) else {}
    with distributed.rank_zero_first():
        store = open_dataset(options.dataset, side=options.side or preset.side,
                             split=options.split or kept.get("split") or preset.split,
                             crop=options.crop, channels=options.channels, root=options.root, skip_bad=options.skip_bad)
    images = ImageSpec.of(store.written_side, store.channels, len(store.classes))
    # a preset made for one side does not fit another
    if preset.side is not None and preset.side != store.written_side:
        fitting = [n for n, p in cls.presets.items() if p.side in (None, store.written_side)]
        raise UserError(f"preset '{options.preset}' of {options.family} is for side {preset.side}, the data has "
                        f"{store.written_side}: use --side {preset.side}, or a preset that fits "
                        f"({', '.join(fitting[:5])})")
    cls.check(config, images)
    check_augmentation(config, cls, images)
    # the metrics again, now that it is known how many images each will have
    groups = by_count(options.metrics, options.n_eval, options.metric_settings)
    for count, names in groups:
        check_metrics(names, without_counts(options.metric_settings, names), min(count, store.n), images.shape)

    # how long, and where rows go
    plan = _plan(options, cls, preset, scored=max((min(count, store.n) for count, _ in groups), default=0))
    if options.results and distributed.rank() == 0:
        records.append(options.results, [])  # a table that cannot take rows is better known now than at the end
    mirror = next(asked for asked in (options.mirror, kept.get("mirror"), preset.mirror, store.mirror)
                  if asked is not None)
    document, decided = _document(options, cls, config, origin, store, plan, device, mirror)
    return Resolved(options, cls, config, options.preset or cls.default_preset, store, images, plan, device, document,
                    decided)


def claim_folder(resolved: Resolved) -> Path:
    """The run's folder, made or found fit to go on in; the document then names it. Raises UserError."""
    document = resolved.document
    # the first process chooses and makes the folder, the others get its name
    chosen = str(_folder(resolved)) if distributed.rank() == 0 else None
    folder = Path(distributed.broadcast(chosen))
    document["run"], document["options"]["out"] = folder.name, _absolute(str(folder))
    return folder


def check_length(resolved: Resolved, family: Family, clock: Clock, seconds: float) -> None:
    """Whether a run can go on from a checkpoint to the length asked for, where it had another one.

    With --force it may where its schedule follows the length; the document then says so, for the notes of its rows.

    Args:
        clock, seconds: how far it is trained.
    Raises:
        UserError: nothing would be left to train, or what is trained is not the beginning of a training of that length.
    """
    if "rescheduled" in resolved.former:
        resolved.document["rescheduled"] = str(resolved.former["rescheduled"])
    former, now = (_length(document.get("training")) for document in (resolved.former, resolved.document))
    if not former or former == now:
        return
    if resolved.plan.fraction(clock.images, clock.steps, seconds) >= 1:
        trained = {"kimg": clock.kimg, "steps": clock.steps, "seconds": round(seconds, 2)}
        unit = max(now, key=lambda unit: trained[unit] / now[unit])
        raise UserError(f"{resolved.options.out}: trained {trained[unit]:.12g} {unit} already: nothing to do; give "
                        f"more than that with --{unit}")
    if not _scheduled_alike(family, clock, round(1000 * former.get("kimg", 0))):
        was, becomes = (" or ".join(f"{unit} {limit:.12g}" for unit, limit in length.items())
                        for length in (former, now))
        if not resolved.options.force:
            raise UserError(f"{resolved.options.out}: its schedule follows the length of the training ({was}), and "
                            f"what is trained is not how one of {becomes} begins: leave the length as it was, or add "
                            "--force to go on all the same, which its rows will say in their note")
        change = f"schedule of a training of {was} up to {clock.kimg:.12g} kimg, then of {becomes}"
        resolved.document["rescheduled"] = "; ".join(filter(None, [resolved.document.get("rescheduled"), change]))


def _scheduled_alike(family: Family, clock: Clock, total: int) -> bool:
    """Whether the stages trained so far would be the same with so many images in total."""
    for part in range(1001):
        then = replace(clock, images=clock.images * part // 1000, steps=clock.steps * part // 1000)
        if family.stage(then) != family.stage(replace(then, total_images=total)):
            return False
    return True


def _length(training: Any) -> dict[str, float]:
    """What ends a training, by its unit, from the "training" of a config.json, which a hand may have changed."""
    given = training if isinstance(training, dict) else {}
    return {unit: given[unit] for unit in UNITS if isinstance(given.get(unit), int | float) and given[unit] > 0}


def recorded_options(path: Path, *, trust: bool = False) -> RunOptions:
    """The options that a run was begun with. `trust`: code in its folder, or that has changed, may be run.

    Raises UserError for a config.json that a hand or another version made, and for code that is not trusted.
    """
    document = read_config(path)
    given, known = document.get("options"), {f.name for f in fields(RunOptions)} - {*RunOptions.OF_ONE_CALL}
    place = path / "config.json"
    if not isinstance(given, dict) or "family" not in given:
        raise UserError(f"{place} says nothing of the options of this run: begin it anew with `ganbench run`")
    # checked here: pydantic passes over names that it does not know, and the option would be without effect
    for key in given:
        if key not in known:
            raise UserError(f"{place}: unknown option '{key}' in \"options\".{nearest(key, known)} "
                            "Take it out, or use the version of ganbench that began this run")
    # before anything that the document names is imported
    check_code(path, document, trust=trust)
    # each of the right kind
    try:
        return TypeAdapter(RunOptions).validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{place}: option '{key}' is {first['input']!r}: {first['msg']}; write it as "
                        "`ganbench run --help` says") from None


def _plan(options: RunOptions, cls: type[Family], preset: Preset, scored: int) -> Plan:
    """Lengths and intervals, by default the preset's own length and tenths of it. scored: images of an evaluation."""
    # the preset's own length counts only where none is given
    kimg = options.kimg
    if kimg is None and options.steps is None and options.seconds is None:
        kimg = preset.kimg or cls.kimg
    # a zero would pass for "not given" below
    for name, value in (("--kimg", kimg), ("--steps", options.steps), ("--seconds", options.seconds),
                        ("--grid-every", options.grid_every), ("--eval-every", options.eval_every),
                        ("--checkpoint-every", options.checkpoint_every)):
        if value is not None and not 0 < value <= LONGEST:
            raise UserError(f"{name} {value} is not a length: give a positive number up to {LONGEST:g}")
    # ten grids, scores and checkpoints; a length in steps or seconds alone says nothing of kimg. Scores are rarer where
    # that would mean more images scored than shown: a training of seconds is scored once, at its end
    tenth = kimg / 10 if kimg else 10.0
    return Plan(kimg=kimg, steps=options.steps, seconds=options.seconds, keep=options.keep,
                grid_every=options.grid_every or tenth, ticks=options.grid_every is None,
                score_every=options.eval_every or max(tenth, scored / 1000),
                checkpoint_every=options.checkpoint_every or tenth)


def _document(options: RunOptions, cls: type[Family], config: FamilyConfig, origin: dict[str, str], store: Store,
              plan: Plan, device: torch.device, mirror: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json, and what its configuration hash is made of.

    It has every resolved value with its origin, so that the run can be made again.
    "origin" says for each of the family's settings whether it is the default, the preset's or a flag's; "flags" lists
    the other options that were given; what they resolved to is in "training" and "dataset".
    """
    recorded = _with_absolute_paths(options)
    # the defaults as they resolve on this machine: "auto" is not a flag that was given
    defaults = asdict(RunOptions(options.family, precision=resolve_precision(RunOptions.precision, device)))
    # which images, how they were cut, and the hash by which they are known again
    data = {"spec": recorded["dataset"], "name": store.name, "side": store.side, "crop": store.crop,
            **({"width": store.width} if store.width != store.side else {}),
            "split": store.split, "channels": store.channels, "classes": list(store.classes), "n": store.n,
            "root": recorded["root"], "content_hash": store.content_hash, "skip_bad": options.skip_bad,
            "mirror": mirror}
    decided = deciding(cls, config, store.content_hash, store.side, mirror, options.precision)
    # what a training begins with decides what comes of it
    start = _start(options)
    decided |= {"init_from": start["sha256"]} if start else {}
    code = code_hashes({"options": recorded})
    return {"run": "",
            "family": short_name(cls),
            "family_source": _absolute(options.family) if options.family.endswith(".py") else short_name(cls),
            "source_hash": source_hash(cls.__module__),
            "code": code,  # SHA-256 of what is not ganbench's own
            # what is trained, and where each value came from
            "preset": options.preset or cls.default_preset,
            "config": config.model_dump(mode="json"),
            "origin": origin,
            "flags": [name for name, value in asdict(options).items() if value != defaults[name]],
            "config_hash": configuration_hash(decided),
            "seed": options.seed,
            "init_from": start,  # the weights that it begins with
            # on which images, how long
            "dataset": data,
            "training": asdict(plan),
            "options": recorded,
            # where, how and when it was begun
            "environment": describe(device),
            "command": " ".join(sys.argv),
            "created": now()}, decided


def _start(options: RunOptions) -> dict[str, Any] | None:
    """The checkpoint that a run begins with, if any. A run that goes on keeps its own: the other may be gone."""
    if not options.init_from:
        return None
    former = _former(options).get("init_from")
    if isinstance(former, dict) and isinstance(former.get("sha256"), str):
        return former
    return find_start(options.init_from)


def _former(options: RunOptions) -> dict[str, Any]:
    """config.json of a run that goes on, or nothing where one is begun."""
    there = options.resume and options.out and (Path(options.out) / "config.json").exists()
    return read_config(Path(str(options.out))) if there else {}


def _with_absolute_paths(options: RunOptions) -> dict[str, Any]:
    """The options as they are recorded, so that `ganbench resume` works from any folder."""
    family = options.family
    kept = {name: value for name, value in asdict(options).items() if name not in options.OF_ONE_CALL}
    return kept | {"family": _absolute(family) if family.endswith(".py") else family,
                   "dataset": absolute_spec(options.dataset), "root": _absolute(options.root),
                   "results": _absolute(options.results), "init_from": _absolute(options.init_from)}


def _absolute(path: str | None) -> str | None:
    return os.path.abspath(Path(path).expanduser()) if path else path


def _lost_checkpoints(folder: Path, training: Any) -> str:
    """What in a folder without a checkpoint says that there was one; "" where a run was stopped before its first.

    training: of its config.json, how often checkpoints were due.
    """
    if checkpoint.list_checkpoints(folder / "checkpoints"):
        return ""
    # what is scored is in a checkpoint
    table, log = folder / "results.csv", folder / "metrics.jsonl"
    if table.is_file() and any(row["status"] == "ok" for row in records.read(table)):
        return f"{table.name} holds scores of it"
    # a line of a step behind the one that wrote it: the last line may be that step's own
    every = [training.get(name) for name in ("checkpoint_every", "score_every")] if isinstance(training, dict) else []
    due = min((round(kimg * 1000) for kimg in every if isinstance(kimg, int | float)), default=0)
    try:
        line = json.loads(log.read_bytes().splitlines()[-2])
        late = line["images"] >= due or line["seconds"] > MAX_UNSAVED
    except (OSError, LookupError, TypeError, ValueError):
        return ""  # too short a log, or none
    return f"{log.name} goes on behind it" if late else ""


def _folder(resolved: Resolved) -> Path:
    """The folder to train in. Raises UserError if it holds something that is not this run."""
    options, document, decided = resolved.options, resolved.document, resolved.decided
    if options.out is None:
        if options.resume:
            raise UserError("--resume needs the run's folder: give it with --out, or use `ganbench resume RUN`")
        return new_run_folder(document["family"], options.dataset, options.seed)

    # a run that is there already must be the same one
    folder = Path(options.out)
    if (folder / "config.json").exists():
        if not options.resume:
            raise UserError(f"{folder} holds a run already: add --resume to go on with it, or choose another --out")
        former = resolved.former = read_config(folder, {"config_hash": str, "seed": int})
        # changed code has a refusal of its own below, which --force lifts
        of_its_code = {"source": former.get("source_hash")} if "source" in decided else {}
        asked = {"config_hash": configuration_hash(decided | of_its_code), "seed": document["seed"]}
        # earlier versions left the code out of the hash
        without_code = configuration_hash({key: value for key, value in decided.items() if key != "source"})
        if former["config_hash"] == without_code:
            asked["config_hash"] = without_code
        for key, name in (("config_hash", "settings or images"), ("seed", "a seed")):
            if former[key] != asked[key]:
                raise UserError(f"{folder} was begun with other {name} than asked for now ({key} {former[key]}, now "
                                f"{asked[key]}): leave out what you changed, or choose another folder")
        changed = changed_code(former, find_family(document["family_source"]).__module__)
        if changed and not options.force:
            raise UserError(f"{folder}: {changed}: add --force to go on with the code as it is now, "
                            "or choose another folder")
        if not changed:
            document["config_hash"] = former["config_hash"]  # its rows stay those of one run
    elif folder.exists() and not options.resume and (
            not folder.is_dir() or any(entry.name != ".lock" for entry in folder.iterdir())):
        raise UserError(f"{folder} is not empty: choose another --out")

    if lost := _lost_checkpoints(folder, resolved.former.get("training")):
        raise UserError(f"{folder} has no checkpoint to go on from, and had one ({lost}): put its checkpoints/ back, "
                        "or give this folder another name to begin anew")

    # it is ours: make it, with room for a checkpoint
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}; choose another --out") from None
    if shutil.disk_usage(folder).free < 50_000_000:
        other = "" if options.resume else ", or choose another --out"  # a run goes on where it is
        raise UserError(f"the disk of {folder} is full (less than 50 MB free): make room{other}")
    return folder
