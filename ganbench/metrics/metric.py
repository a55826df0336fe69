"""What a metric must say. One metric, one file in ganbench/metrics/measures (or in anybody's package).

There are two kinds. An `ImageMetric` compares sets of uint8 images; it follows torchmetrics (update, compute, reset)
and can be used by people who use nothing else of ganbench. A `ModelMetric` needs the trained model itself (M_global,
path length).
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import Metric as TorchMetric

from ganbench.family import Family
from ganbench.plugins import load_plugin


@dataclass(frozen=True)
class Score:
    """One number with its uncertainty. `level` is "" for single numbers, else e.g. "32" or "avg"."""

    value: float
    level: str = ""
    ci_low: float | None = None  # 95% interval, or None where no honest one is known
    ci_high: float | None = None
    ci_method: str = ""  # how the interval was made
    n_real: int = 0
    n_fake: int = 0
    higher_is_better: bool | None = False  # None: neither
    note: str = ""


class MetricBase:
    """What both kinds share; subclasses live one to a file."""

    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    higher_is_better: ClassVar[bool | None] = False  # type: ignore[misc]

    def protocol(self) -> str:
        """All that must agree for two values to be compared, e.g. "swd;patches=128;size=7;repeats=4;directions=128"."""
        raise NotImplementedError


class ImageMetric(MetricBase, TorchMetric):
    """Compares generated with real images.

    `update(images, real=...)` takes uint8 (N,C,H,W). A metric on features names its network in `features`, and gets
    each batch's features through `update_features`, computed once for all metrics that share the network.
    """

    features: ClassVar[str | None] = None  # name of a feature network, or None: works on pixels
    needs_reals: ClassVar[bool] = True
    needs_fakes: ClassVar[bool] = True
    full_state_update: ClassVar[bool] = False  # type: ignore[misc]

    def check_counts(self, n_real: int, n_fake: int) -> None:
        """Raise UserError if so many images will not do; asked before any of them is opened."""

    def update(self, images: Tensor, real: bool = False) -> None:
        raise NotImplementedError

    def compute(self) -> Any:
        raise NotImplementedError

    def scores(self) -> list[Score]:
        """The numbers as rows of a table."""
        raise NotImplementedError


@dataclass
class Subject:
    """A trained model and its data, as a ModelMetric sees them."""

    family: Family
    generator: nn.Module  # the averaged generator, in sampling mode
    reals: Any  # ganbench.data.store.Store of the training images
    held_out: Any = None  # Store of the test split, or None
    seed: int = 0
    n: int = 10_000  # how many images the measure may use
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


class ModelMetric(MetricBase):
    """Measures a trained model itself."""

    def applies(self, family: Family) -> str:
        """Empty if the measure applies to this family; otherwise one line that says why not."""
        return ""

    def measure(self, subject: Subject) -> list[Score]:
        raise NotImplementedError


def find_metric(name: str) -> type[MetricBase]:
    """The metric class called `name`."""
    return load_plugin("metric", name, MetricBase)
