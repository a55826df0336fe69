"""What `ganbench eval` can be asked to do. Written once: command line, Python call and record."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from ganbench.errors import UserError
from ganbench.runs.options import DEFAULT_RESULTS, option, parse_metric_settings, path_or_none, split_names
from ganbench.sides import side_or_none


def parse_range(given: Any) -> tuple[float, float] | None:
    """ "0,1", or two numbers, -> (0.0, 1.0); "" or None -> None. Raises UserError for what is no range.

    Examples:
        >>> parse_range("-1,1")
        (-1.0, 1.0)
    """
    if given is None or (isinstance(given, str) and not given):
        return None
    try:
        low, high = map(float, given.split(",") if isinstance(given, str) else given)
    except (TypeError, ValueError):  # NaN is refused below, like a range that is upside down
        low = high = float("nan")
    if not low < high or math.isinf(high - low):
        raise UserError(f"--range {given}: write BLACK,WHITE as two numbers, e.g. --range 0,1")
    return low, high


@dataclass
class EvalRequest:
    """What is to be scored. None means: as the run, the images or the metric say.

    From Python `run` may also be a Run, and `fake` and `real` whatever open_images takes.
    """

    OBJECTS: ClassVar[tuple[str, ...]] = ("run", "fake", "real", "held_out", "network", "compat")  # if from Python

    names: list[str] = option("swd", "Metrics, a,b,c; see `ganbench list`", flag="--metric", parse=split_names)

    # --- what is compared
    run: str | None = option(None, "A run's folder; default: the newest in runs/")
    fake: str | None = option(None, "Score these instead: run, folder, .zip, .npz, .npy, .pt, .safetensors, "
                                    "TorchScript, .onnx, MODULE:CALLABLE")
    real: str | None = option(None, "Against these: data set, folder, file of images or of statistics; default: the "
                                    "run's own data")
    held_out: str | None = option(None, "Real images that were not trained on, for metrics that need them; default: "
                                        "the test split of the real data")
    n: int | None = option(None, "Images on each side; default: all, of a run as when it trained", flag="--n",
                           minimum=1)
    seed: int = option(0, "Seed of latents and of the metrics' own draws", minimum=0)
    side: int | str | None = option(None, "Bring pictures to this side, or height x width (64x96)", parse=side_or_none)
    split: str | None = option(None, "Split of the real data set; default: the one trained on")
    crop: str | None = option(None, "Crop of the real data set")
    root: str | None = option(None, "Where the real data set's files are")
    latent: int | None = option(None, "Latents of a generator that does not say", minimum=1)
    value_range: tuple[float, float] | None = option(
        "", "Black and white of a generator's floats, e.g. 0,1; default: -1,1", flag="--range", parse=parse_range)
    which: str = option("last", "Checkpoint of the run: last or best")
    ema: float | None = option(None, "Relative width of the run's average, made of what ema_snapshots kept")
    trust: bool = option(False, "Run code that lies in the run's folder, or is not what it was")
    skip_bad: bool = option(False, "Leave out unreadable pictures, listed by name")

    # --- how it is measured
    compat: str | None = option(None, "Make every choice as torch-fidelity, pytorch-fid, clean-fid, stylegan3, "
                                      "guided-diffusion, dgm-eval or edm2 does")
    network: str | None = option(None, "Another feature network, or MODULE:CALLABLE")
    layer: str | None = option(None, "Layer of the feature network")
    feature_precision: str | None = option(None, "Arithmetic of feature networks: float32 (default), tf32, bf16 or "
                                                 "float64")
    dtype: str | None = option(None, "The same, by its former name")
    options: dict[str, Any] = option([], "A metric's setting, e.g. kid.subsets=50; repeatable", flag="--set",
                                     parse=parse_metric_settings)

    # --- what else is measured, and what ends it
    floor: bool = option(True, "Also measure the noise floor of metrics that have one", flag="--floor/--no-floor")
    strict: bool = option(False, "Stop where one metric cannot be had, or the newest checkpoint is damaged")
    keep_going: bool = option(False, "Pass over misspelt metrics, too")
    use_cache: bool = option(True, "Use kept statistics of reals", flag="--cache/--no-cache")

    # --- where it runs, and where the numbers go
    nearest: str | None = option(None, "Also write this PNG: generated images beside the real ones nearest to them")
    latex: bool = option(False, "Also print the numbers as a row of a LaTeX table")
    device: str = option("auto", "auto, cpu, cuda, cuda:1")
    results: str | None = option(DEFAULT_RESULTS, "Results CSV to append to; '' for none", parse=path_or_none)

    def settings(self) -> dict[str, Any]:
        """Settings of metrics, as ganbench.metrics.evaluate takes them. Raises UserError for two that contradict."""
        if self.dtype and self.feature_precision and self.dtype != self.feature_precision:
            # which of the two is meant cannot be known
            raise UserError(f"--dtype {self.dtype} and --feature-precision {self.feature_precision} are two names of "
                            "one option: give one of them")
        # a setting that has an option of its own: the option wins over --set
        named = {"compat": self.compat, "network": self.network, "layer": self.layer,
                 "dtype": self.feature_precision or self.dtype}
        return {**self.options, **{key: value for key, value in named.items() if value is not None}}
