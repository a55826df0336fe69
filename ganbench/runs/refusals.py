"""Options of an evaluation that do not go together with what is scored: refused by name."""

from typing import Any

from ganbench.errors import UserError
from ganbench.metrics.images.sets import ImageSet
from ganbench.metrics.networks.compat import find_compat
from ganbench.plugins import plugin_label
from ganbench.runs.eval_request import EvalRequest


def refuse_other_rounding(names: list[str], settings: dict[str, Any]) -> None:
    """Raise UserError where single metrics would want a generator's floats rounded in other ways than the rest."""
    common = find_compat(settings.get("compat") or "ganbench")
    for name in names:
        own = settings.get(plugin_label(name))
        # a metric's own choice, or that of all
        wanted = find_compat((own.get("compat") if isinstance(own, dict) else None) or common)
        if wanted.rounding != common.rounding:
            raise UserError(f"--set {name}.compat={wanted.name}: it rounds generated images otherwise than "
                            f"{common.name}, and all metrics see the same ones: give it to all with --compat "
                            f"{wanted.name}")


def refuse_unused(asked: EvalRequest) -> None:
    """Raise UserError for options that a run's own images and data cannot use."""
    # its own generator and data are opened as config.json says
    settings: dict[str, Any] = {"--latent": asked.latent, "--range": asked.value_range}
    if asked.real is None and asked.held_out is None:
        settings |= {"--crop": asked.crop, "--root": asked.root, "--skip-bad": asked.skip_bad or None}
    for option, value in settings.items():
        if value is not None:
            raise UserError(f"{option} cannot be used for a run{' and its own data' if asked.real is None else ''}: "
                            "leave it out, or name other images with --fake or --real")


def refuse_choices_of_loading(asked: EvalRequest) -> None:
    """Raise UserError for options that say how a run's folder is loaded, where none is."""
    choices = {"--which": asked.which != "last", "--ema": asked.ema is not None, "--trust": asked.trust}
    for option, given in choices.items():
        if given:
            raise UserError(f"{option} says how to load a run, and none is loaded here: leave it out, or name a run's "
                            "folder with --run")


def refuse_skip_bad(asked: EvalRequest, *opened: ImageSet) -> None:
    """Raise UserError for --skip-bad where nothing that is opened can hold unreadable pictures."""
    if asked.skip_bad and asked.held_out is None and not any("skip_bad" in images.takes for images in opened):
        raise UserError(f"--skip-bad cannot be used for {' and '.join(images.kind for images in opened)}: leave it out")
