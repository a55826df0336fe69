"""What a metric must say. One metric, one file in ganbench/metrics/measures (or in anybody's package).

There are two kinds. An `ImageMetric` compares sets of uint8 images; it follows torchmetrics (update, compute, reset)
and can be used by people who use nothing else of ganbench. A `ModelMetric` needs the trained model itself (M_global,
path length). What the bench wants to know of a metric is an attribute here, with a default.
"""

import inspect  # for `settings`, which reads a metric's own constructor
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, TypeVar, get_type_hints

import numpy as np
import torch
from pydantic import ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError
from torch import Tensor, nn
from torchmetrics import Metric as TorchMetric

from ganbench.errors import UserError, unknown
from ganbench.family import Family
from ganbench.metrics.maths.uncertainty import of_share
from ganbench.metrics.networks.compat import compatible
from ganbench.plugins import load_plugin, plugin_label
from ganbench.records import setting_text

Kind = TypeVar("Kind", bound="MetricBase")
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # of a metric's own draws, by whatever library
Seed32 = Annotated[int, Field(ge=0, lt=2**32)]  # of numpy.random.RandomState


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

    @classmethod
    def of_answers(cls, right: np.ndarray, level: str, method: str, n_real: int, n_fake: int,
                   note: str = "") -> "Score":
        """The share of right answers, bool (N,), with its Wilson interval; more is better."""
        share, low, high = of_share(int(right.sum()), len(right))
        return cls(share, level, low, high, method, n_real, n_fake, True, note)


class MetricBase:
    """What both kinds share; subclasses live one to a file.

    A metric's settings are the parameters of its constructor: their names, types and defaults are written there alone.
    """

    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    higher_is_better: ClassVar[bool | None] = False  # type: ignore[misc]
    levels_are_sides: ClassVar[bool] = False  # its levels are sides of one image, so a line may join them in a chart
    rectangles: ClassVar[bool] = False  # images of one size need not be square
    any_channels: ClassVar[bool] = False  # images may have other numbers of channels than 1 and 3
    needs_held_out: ClassVar[bool] = False  # it also looks at real images that were not trained on
    with_floor: ClassVar[bool] = False  # its value for real images against other real ones is shown beside it

    def protocol(self) -> str:
        """All that must agree for two values to be compared, e.g. "swd;patches=128;size=7;repeats=4;directions=128".

        It can be asked before anything was measured; then it states the settings.
        """
        raise NotImplementedError

    @classmethod
    def settings_with_defaults(cls) -> dict[str, tuple[Any, Any]]:
        """Type and default of each setting, by name; those of base classes first."""
        found: dict[str, tuple[Any, Any]] = {}
        # the constructor is where settings are written; asking its signature keeps them from being written again
        for base in cls.__mro__:
            if "__init__" not in vars(base) or not issubclass(base, MetricBase):
                continue
            hints = get_type_hints(base.__init__, include_extras=True)
            taken = list(inspect.signature(base.__init__).parameters.values())[1:]  # also in other packages' metrics
            found = {p.name: (hints.get(p.name, Any), p.default) for p in taken
                     if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)} | found
            # what a constructor takes without naming it goes on to the class above
            if all(p.kind is not p.VAR_KEYWORD for p in taken):
                break
        return found

    @classmethod
    def settings_in(cls, protocol: str) -> dict[str, str]:
        """The settings that a protocol states, by name, as they are typed: the parts that are called as a setting is.

        A metric whose protocol says a setting in other words adds it. Counts of images (`n`) are not among them.
        """
        known = cls.settings()
        return {name: text for name, text in parts_of(protocol).items() if name in known and name != "n"}

    @classmethod
    def settings_for(cls, protocol: str, seed: int = 0) -> dict[str, str]:
        """What has to be set, as it is typed, so that a metric states this protocol; {} where the defaults do.

        Args:
            seed: of the evaluation, which is every metric's own seed where none is set.
        Raises:
            UserError: no settings do.

        Examples:
            >>> find_metric("kid").settings_for("kid;network=vgg16;layer=fc2_relu;subsets=50x1000;dtype=bf16")
            {'network': 'vgg16', 'subsets': '50', 'dtype': 'bf16'}
        """
        defaults, stated, candidates = cls.settings_with_defaults(), cls.settings_in(protocol), []

        def states(found: Mapping[str, str]) -> dict[str, str]:
            own = {key: value for key, value in found.items() if key in defaults}
            return cls.settings_in(build_metric(cls, "own", {"seed": seed, "own": own}).protocol())

        for mode in compatible(parts_of(protocol)):
            found: dict[str, str] = {} if mode == "ganbench" else {"compat": mode}
            with suppress(UserError):  # of this mode, which then does not make it
                for name, text in stated.items():
                    # beside what was found so far: a layer's default is another for another network
                    if text != states(found).get(name, setting_text(defaults[name][1])):
                        found[name] = text
                made = states(found)
                if all(made.get(name, text) == text for name, text in stated.items()):
                    candidates.append(found)
        if not candidates:
            raise UserError(f"no settings make '{protocol}' of {cls.title or cls.__name__}")
        return min(candidates, key=len)  # the first of equal ones is ganbench's own

    @classmethod
    def refusal(cls, name: str, shape: tuple[int, int, int]) -> str:
        """Why images (C,H,W) cannot be measured by this, in one line; "" where they can."""
        channels, height, width = shape
        if height != width and not cls.rectangles:
            return f"{name} takes square images, not {height}x{width}: leave it out (ms_ssim and fid take such images)"
        if channels not in (1, 3) and not cls.any_channels:
            return f"{name} takes images of 1 or 3 channels, not {channels}: leave it out (ms_ssim takes such images)"
        return ""

    @classmethod
    def settings(cls) -> dict[str, Any]:
        """Names and types of the settings."""
        return {name: kind for name, (kind, _) in cls.settings_with_defaults().items()}


class ImageMetric(MetricBase, TorchMetric):
    """Compares generated with real images.

    `update(images, real=...)` takes uint8 (N,C,H,W). A metric on features is a `FeatureMetric`, and gets each batch's
    features through `update_features`, computed once for all metrics that share the network.
    """

    needs_reals: ClassVar[bool] = True
    needs_fakes: ClassVar[bool] = True
    equal_counts: ClassVar[bool] = False  # needs as many real as generated images
    takes_statistics: ClassVar[bool] = False  # `load_reference` takes a mean and a covariance in place of real images
    any_shape: ClassVar[bool] = False  # images need be neither square nor of one size
    full_state_update: ClassVar[bool] = False  # type: ignore[misc]

    kept_states: ClassVar[dict[str, str | None]] = {}  # lists of tensors that `update` fills; how processes merge them

    mirrored: bool = False  # the real images it is given are mirrored at random; its protocol says so

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        for name, merging in self.kept_states.items():
            self.add_state(name, default=[], dist_reduce_fx=merging)

    def check_counts(self, n_real: int, n_fake: int) -> None:
        """Raise UserError if so many images will not do; asked before any of them is opened."""

    def update(self, images: Tensor, real: bool = False) -> None:
        """Add images, uint8 (N,C,H,W)."""
        raise NotImplementedError

    def compute(self) -> Any:
        """The value(s) of all images so far, as plain numbers."""
        raise NotImplementedError

    def scores(self) -> list[Score]:
        """The numbers as rows of a table."""
        raise NotImplementedError

    def forward(self, images: Tensor, real: bool = False) -> Any:
        """Add images, and return the value of these alone; None where they have none.

        A distance between two sets has none, as one call holds one set: torchmetrics' own FID and KID raise there, and
        have then lost the images of the calls before; here they are kept, and `compute` gives the value of all.
        """
        if self.needs_reals and self.needs_fakes:
            self.update(images, real=real)
            return None
        # the value of the batch, in fresh states; then what was there before is put in front of them again
        before, count, syncs = self._copy_state_dict(), self._update_count, self._to_sync
        self.reset()
        self._to_sync = self.dist_sync_on_step
        try:
            self.update(images, real=real)
            value = self.compute()
        except UserError:  # too few images
            value = None
        self._to_sync = syncs
        self._reduce_states(before)
        self._update_count, self._computed = count + 1, None
        return value

    # --- what the cache keeps of the real images (ganbench.metrics.cache) ------------------------------------------

    def real_key(self) -> str:
        """All that `real_state` depends on, apart from the images. "": nothing of them is kept."""
        return ""

    def real_state(self) -> dict[str, Tensor]:
        """What represents the reals: put back by `load_real_state`, it gives the same scores."""
        raise NotImplementedError

    def load_real_state(self, state: dict[str, Tensor]) -> None:
        """Replace the reals by what `real_state` gave."""
        raise NotImplementedError

    def load_reference(self, mean: Any, covariance: Any, n: int | None = None) -> None:
        """Let a mean (d,) and a covariance (d,d) of features stand for the reals; n: images behind them, if known."""
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
    """Measures a trained model itself.

    Args:
        n: images; None = as many as the evaluation may use.
    """

    needs_labels: ClassVar[bool] = False  # it is for families that are told which class to make

    def __init__(self, n: PositiveInt | None = None):
        self.n = n

    def applies(self, family: Family) -> str:
        """Empty if the measure applies to this family; otherwise one line that says why not."""
        if not self.needs_labels or family.needs_labels:
            return ""
        return f"{type(self).__module__.split('.')[-1]} needs a conditional family, and this one takes no labels"

    def measure(self, subject: Subject) -> list[Score]:
        """The numbers as rows of a table."""
        raise NotImplementedError


def parts_of(protocol: str) -> dict[str, str]:
    """The parts of a protocol that are written name=value.

    Examples:
        >>> parts_of("swd;patches=128;mirror=0;x1000")
        {'patches': '128', 'mirror': '0'}
    """
    return {name: value for name, equals, value in (part.partition("=") for part in protocol.split(";")) if equals}


def find_metric(name: str) -> type[MetricBase]:
    """The metric class called `name`. Raises UserError for an unknown one."""
    return load_plugin("metric", name, MetricBase)


def build_metric(cls: type[Kind], name: str, options: Mapping[str, Any]) -> Kind:
    """A metric with those of the options that it has as settings, and those meant for it alone.

    Args:
        cls, name: of the metric. options: {"seed": 1} goes to every metric with that setting, {"kid": {"subsets": 50}}
            to one.
    Raises:
        UserError: a setting that the metric does not have, or of the wrong type.
    """
    known = cls.settings()
    own = options.get(plugin_label(name))
    own = own if isinstance(own, Mapping) else {}
    for key in own:
        if key not in known:
            raise unknown(f"{name} has no setting", key, sorted(known))
    shared = {k: v for k, v in options.items() if k in known and v is not None and not isinstance(v, Mapping)}
    return cls(**{key: _checked(name, key, value, known[key]) for key, value in {**shared, **own}.items()})


def check_settings(names: list[str], options: Mapping[str, Any]) -> None:
    """Raise UserError for settings that none of the metrics asked for has."""
    chosen = {plugin_label(name): find_metric(name).settings() for name in names}
    for key, value in options.items():
        if isinstance(value, Mapping) and key not in chosen:
            setting = next(iter(value), "")
            raise UserError(f"--set {key}.{setting} is for {key}, which is not among the metrics: {', '.join(chosen)}")
        if value is not None and not isinstance(value, Mapping) and not any(key in known for known in chosen.values()):
            known = {setting for found in chosen.values() for setting in found}
            raise unknown(f"{', '.join(chosen)}: no setting", key, sorted(known))


def _checked(name: str, key: str, value: Any, kind: Any) -> Any:
    """A setting's value in its type: 50 for "50". Raises UserError where it is of another."""
    shown = value if isinstance(value, str) else json.dumps(value, default=str)
    try:
        found = TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise UserError(f"--set {name}.{key}={shown} is refused: {reason[0].lower() + reason[1:]}") from None
    if isinstance(value, bool) and not isinstance(found, bool):  # pydantic would count true as 1
        raise UserError(f"--set {name}.{key}={shown} is refused: it is no switch")
    return found
