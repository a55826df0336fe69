"""What a suite's file holds, key by key. What becomes of it: ganbench.bench.suite."""

import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ganbench.runs.options import LONGEST

Seed = Annotated[int, Field(ge=-2**63, lt=2**63)]  # as torch takes them


class _Table(BaseModel):
    """Any table of a suite: unknown keys are refused, and so are values of another type, and numbers not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Budget(_Table):
    """How long a cell trains: exactly one of the three, or `budget = "preset"` for each preset's own length."""

    kimg: float | None = Field(None, gt=0, le=LONGEST, description="thousands of real images shown")
    steps: int | None = Field(None, gt=0, le=LONGEST, description="generator updates")
    seconds: float | None = Field(None, gt=0, le=LONGEST,
                                  description="training seconds (results then depend on the machine)")

    preset: bool = Field(False, description="as long as each preset says")

    @model_validator(mode="before")
    @classmethod
    def _word(cls, given: Any) -> Any:
        return {"preset": True} if given == "preset" else given

    @model_validator(mode="after")
    def _exactly_one(self) -> "Budget":
        if sum(v is not None for v in self._lengths().values()) + self.preset != 1:
            raise ValueError('a budget is exactly one of kimg, steps and seconds, or the word "preset"')
        return self

    def _lengths(self) -> dict[str, float | None]:
        return {"kimg": self.kimg, "steps": self.steps, "seconds": self.seconds}

    @property
    def unit(self) -> str:
        """kimg, steps or seconds; kimg for a budget that is left to the presets."""
        return next((unit for unit, amount in self._lengths().items() if amount is not None), "kimg")

    @property
    def amount(self) -> float:
        """How many of its unit; 0 for a budget that is left to the presets."""
        return self._lengths()[self.unit] or 0.0

    def __str__(self) -> str:
        return "each preset's own length" if self.preset else f"{self.amount:g} {self.unit}"


class Evaluation(_Table):
    """What is measured, and when."""

    metrics: list[str] = Field(min_length=1, description="metrics by name")
    n: int = Field(10_000, ge=2, description="generated images an evaluation uses")
    every: float | None = Field(None, gt=0, le=LONGEST,
                                description="kimg between evaluations; without it only the end is scored")
    references: bool = Field(True, description="add rows for reals against reals and for noise images")
    n_of: dict[str, int] = Field({}, description="n of single metrics, by name")
    set: dict[str, dict[str, Any]] = Field({}, description="settings of metrics: { kid = { subsets = 50 } }")
    targets: dict[str, float] = Field({}, description="values whose reaching the report times, by metric")

    @model_validator(mode="after")
    def _known(self) -> "Evaluation":
        for name, given in (("n_of", self.n_of), ("set", self.set), ("targets", self.targets)):
            for metric in given:
                if metric not in self.metrics:
                    raise ValueError(f"'{metric}' is in {name}, and not in metrics")
        if counted := next((metric for metric, given in self.set.items() if "n" in given), None):
            raise ValueError(f"set.{counted}.n is refused: the images of a single metric are said in n_of")
        if few := next((metric for metric, n in self.n_of.items() if n < 2), None):
            raise ValueError(f"n_of.{few} = {self.n_of[few]} is refused: at least 2 images")
        return self

    @property
    def metric_settings(self) -> dict[str, dict[str, Any]]:
        """What single metrics are given, by name: their settings, and `n` where it is not that of the others."""
        return {name: {**self.set.get(name, {}), **({"n": self.n_of[name]} if name in self.n_of else {})}
                for name in self.metrics if name in self.set or name in self.n_of}


class Data(_Table):
    """One data set. What is not given, the data set itself says."""

    name: str
    side: int | str | None = Field(None, description='of squares, or "64x96" (height x width)')
    channels: int | None = None
    crop: str | None = None
    split: str | None = Field(None, description="train (the default), test or all")
    classes: int | None = Field(None, ge=0, description="what a dry run expects where the images are not at hand")


class SuiteEntry(_Table):
    """One family with the presets and settings to compare."""

    name: str
    preset: str | None = None
    presets: list[str] = []
    set: dict[str, Any] = Field({}, description="settings for all of this family's cells")
    sweep: dict[str, list[Any]] = Field({}, description="settings to take through every combination of these values")
    datasets: list[str] | None = Field(None, description="only on these data sets")
    budget: Budget | None = Field(None, description="instead of the suite's")

    @model_validator(mode="after")
    def _one_way(self) -> "SuiteEntry":
        if self.preset and self.presets:
            raise ValueError("give either preset or presets")
        if both := set(self.set) & set(self.sweep):
            raise ValueError(f"'{min(both)}' is given in both set and sweep")
        if any(not values for values in self.sweep.values()):
            raise ValueError("a sweep without values")
        for key, value in [*self.set.items(), *((k, v) for k, values in self.sweep.items() for v in values)]:
            if isinstance(value, float) and math.isnan(value):
                raise ValueError(f"{key} = nan is refused: it is no value")
        return self


class Suite(_Table):
    """A comparison, as its file says it."""

    title: str
    about: str = ""
    seeds: list[Seed] = Field([0], min_length=1)
    budget: Budget
    evaluation: Evaluation
    precision: str = "auto"
    dataset: list[Data] = Field(min_length=1)
    family: list[SuiteEntry] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> "Suite":
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("a seed is listed twice in seeds")
        return self
