"""The same as `ganbench eval` for people who work in Python: `ganbench.evaluate` and `ganbench.features`."""

import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ganbench.environment import choose_device
from ganbench.errors import UserError
from ganbench.family import sampling_batch
from ganbench.files import is_run_folder
from ganbench.metrics.images.opening import open_images
from ganbench.metrics.images.sets import ImageSet
from ganbench.metrics.networks.features import open_network
from ganbench.runs.eval_request import EvalRequest, parse_range
from ganbench.runs.options import checked_value, split_names
from ganbench.runs.run_folder import Run
from ganbench.runs.scoring import EvalResult, run_request
from ganbench.tex import needed_by, tex

if TYPE_CHECKING:
    import pandas as pd

Images = str | Path | np.ndarray | Tensor | Callable[[int, int], Any] | ImageSet
# what `evaluate` takes beside the metrics' own settings; the rest of a request it makes itself
SETTINGS = {f.name for f in fields(EvalRequest)} - {"names", "run", "fake", "real", "options", "results", "latex"}
SHOWN = ("metric", "level", "value", "ci_low", "ci_high", "higher_is_better", "n_fake", "n_real", "protocol", "note")


class Evaluation(EvalResult):
    """What `ganbench.evaluate` found. In a notebook it shows itself as a table.

    Attributes:
        title: what was compared with what.
        rows: the rows of a results table (see `ganbench.records.COLUMNS`), to be kept with `save`.
        floor: rows of the same metrics between two samples of real images, where that was measured.
        warnings: what there is to know about the images and numbers, and which metrics could not be had, one line
            each.
    """

    @property
    def values(self) -> dict[str, float]:
        """Each number by its name: "fid", or "swd 16" for a metric that has levels."""
        return {_name(row): row["value"] for row in self.rows}

    @property
    def intervals(self) -> dict[str, tuple[float, float] | None]:
        """The 95% interval of each number over evaluation noise, or None where no honest one is known."""
        return {_name(row): None if row["ci_low"] is None else (row["ci_low"], row["ci_high"]) for row in self.rows}

    @property
    def frame(self) -> "pd.DataFrame":
        """The numbers with their intervals, counts and protocols, one row each."""
        import pandas as pd
        return pd.DataFrame([{column: row[column] for column in SHOWN} for row in self.rows])

    def save(self, results: str | Path) -> int:
        """Append the rows, and the floor's, to a results CSV that `ganbench report` reads.

        Returns how many were new.
        """
        from ganbench import records
        return records.append(results, self.rows + self.floor)

    def latex(self) -> str:
        """One row of a LaTeX table, under the macros that it needs and a comment that names its columns."""
        arrows = {True: " ↑", False: " ↓", None: ""}
        heads = [tex(_name(row) + arrows[row["higher_is_better"]]) for row in self.rows]
        cells = [f"{row['value']:.4g}" for row in self.rows]
        name = tex(str(self.rows[0]["run"])) if self.rows else ""
        return "\n".join([*needed_by(name), f"% & {' & '.join(heads)} \\\\", f"{name} & {' & '.join(cells)} \\\\"])

    def __getitem__(self, name: str) -> float:
        if name not in self.values:
            raise KeyError(f"no number called {name!r}; there are: {', '.join(self.values)}")
        return self.values[name]

    def __repr__(self) -> str:
        width = max((len(name) for name in self.values), default=0)
        lines = [f"{_name(row):{width}}  {_with_interval(row)}" for row in self.rows]
        return "\n".join([self.title, *lines, *(f"note: {warning}" for warning in self.warnings)])

    def _repr_html_(self) -> str:
        arrows = {True: "higher", False: "lower", None: ""}
        # the scores, then the same metrics of reals against reals
        rows = [(_name(row) + what, _with_interval(row), "" if what else arrows[row["higher_is_better"]],
                 f"{row['n_fake']:,} / {row['n_real']:,}", row["protocol"])
                for part, what in ((self.rows, ""), (self.floor, " of reals against reals")) for row in part]
        return (f"<p><b>{html.escape(self.title)}</b></p>"
                + html_table(("metric", "value [95% interval]", "better", "images (generated / real)", "protocol"),
                             rows)
                + "".join(f"<p>note: {html.escape(warning)}</p>" for warning in self.warnings))


def evaluate(fake: Images | Run, real: Images | None = None, metrics: str | Sequence[str] = ("swd",),
             **settings: Any) -> Evaluation:
    """Score generated images, or a generator, against real images.

    Args:
        fake: what is scored: a folder or .zip of pictures, a file (.npz, .npy, .pt, .safetensors, TorchScript, .onnx),
            an array or tensor, a function (n, seed) -> n images, a run's folder, or a `Run`. Arrays and tensors are
            uint8 (N,C,S,S) or (N,S,S,C), or (N,S,S) for grey; a function may also give floats, in [-1,1] or in
            the `value_range` that is named.
        real: the images to compare with, likewise, or a data set by name; may be left out for a run, which then is
            compared with the data it was trained on.
        metrics: names from `ganbench list`.
        settings: n (images on each side; default all), seed, device (of a `Run`: where it was loaded to), side, split,
            crop, root, which ("last" or "best" checkpoint), floor, skip_bad, use_cache, as `ganbench eval --help`
            explains them; value_range=(0, 1), black and white of a generator's floats, which is --range there;
            strict=False, so that a metric that cannot be had is a line of `warnings` and no error; and settings of
            metrics: network="random-vgg16" for all that take it, kid={"subsets": 50} for one.
    Raises:
        UserError: whatever the caller can put right: a misspelt metric or setting, images that cannot be scored.

    Examples:
        >>> import numpy as np, ganbench
        >>> real = np.random.default_rng(0).integers(0, 256, (400, 32, 32), dtype=np.uint8)
        >>> found = ganbench.evaluate(real[:200], real[200:], metrics=["swd"], floor=False, device="cpu")
        >>> list(found.values)
        ['swd 32', 'swd 16', 'swd avg']
        >>> low, high = found.intervals["swd avg"]
        >>> low < found["swd avg"] < high
        True
    """
    # apart: the metrics, what a request is asked, and what is left for the metrics themselves
    names = split_names(metrics) if isinstance(metrics, str) else metrics
    names = list(names) if isinstance(names, Iterable) else []
    if not names or not all(isinstance(name, str) for name in names):
        shown = " ".join(repr(metrics).split())
        raise UserError(f"metrics = {shown[:60]} names no metric: write \"swd\" or [\"swd\", \"fid\"], say "
                        "(see `ganbench list`)")
    if "range" in settings:  # as the command line calls it
        raise UserError("there is no setting range: it is value_range=(BLACK, WHITE) in Python")
    asked = {key: settings.pop(key) for key in list(settings) if key in SETTINGS}
    for name, images in (("fake", fake), ("real", real)):
        if isinstance(images, str) and not images.strip():  # as a path it would be the current folder
            raise UserError(f"`{name}` is empty: name images, or leave it out")
    if fake is None:
        raise UserError("nothing is given to be scored: name images, a generator or a run as `fake`")
    # a run comes loaded or as its folder
    run: Any = str(fake) if isinstance(fake, str | Path) and is_run_folder(Path(fake)) else None
    if isinstance(fake, Run):
        run = fake
        # it is scored where it was loaded to, and as it was loaded
        asked.setdefault("device", str(fake.device))
        for key, usual in (("which", "last"), ("ema", None)):
            if asked.get(key, usual) != usual:
                raise UserError(f"{key} = {asked[key]!r} is refused: this run is loaded already; give {key} to "
                                "ganbench.load_run, or the run's folder here")
    # a metric that cannot be had is an error here, not a line in the report
    asked.setdefault("strict", True)
    if run is None and real is None:
        raise UserError("these images need something to be compared with: name a data set, a folder or an array as "
                        "`real`")
    if isinstance(asked.get("device"), torch.device):
        asked["device"] = str(asked["device"])
    asked["value_range"] = parse_range(asked.get("value_range"))
    # from here on the same as the command line
    request = EvalRequest(names=names, run=run, fake=None if run is not None else _plain(fake),
                          real=_plain(real), options=settings, **asked)
    found = run_request(request)
    assert found is not None  # several processes are for the command line
    failures = [f"{name} could not be measured: {reason}" for name, reason in found.report.failures.items()]
    return Evaluation(**{**vars(found), "warnings": [*found.warnings, *failures]})


def features(images: Images, network: str = "inception-v3-compat", *, layer: str | None = None, n: int | None = None,
             device: str = "auto", dtype: str = "float32", seed: int = 0) -> Tensor:
    """What a feature network makes of images, as FID, KID and their kin see them.

    Args:
        images: as `evaluate` takes them, data sets by name included. network: a name, MODULE:CALLABLE or a TorchScript
            file. layer: which of its outputs; default its usual one. n: how many images; default all. dtype: "float32"
            or "float64". seed: of a generator's latents.
    Returns:
        (N,d) on the CPU, in the order of the images.
    Raises:
        UserError: unknown network or layer, weights that are not here, images that cannot be read, an n below 1.

    Examples:
        >>> import numpy as np, ganbench
        >>> pictures = np.zeros((2, 32, 32, 3), dtype=np.uint8)
        >>> ganbench.features(pictures, network="random-vgg16", device="cpu").shape
        torch.Size([2, 512])
    """
    n, seed = checked_value("n", n, int | None, minimum=1), checked_value("seed", seed, int, minimum=0)
    place = choose_device(device)
    opened = open_images(_plain(images), n=n, seed=seed, device=place)
    model = open_network(network, [layer] if layer else [], device=place, dtype=dtype)
    # batch by batch, of which only the features are kept
    parts = [model(batch)[model.layers[0]].cpu() for batch in opened.batches(sampling_batch(opened.side))]
    return torch.cat(parts)


def html_table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A plain table for a notebook; everything is escaped."""
    def line(cells: Sequence[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line(heads, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def _plain(images: Any) -> Any:
    return str(images) if isinstance(images, Path) else images


def _name(row: dict[str, Any]) -> str:
    return f"{row['metric']} {row['level']}".strip()


def _with_interval(row: dict[str, Any]) -> str:
    interval = "" if row["ci_low"] is None else f" [{row['ci_low']:.4g}, {row['ci_high']:.4g}]"
    return f"{row['value']:.4g}{interval}"
