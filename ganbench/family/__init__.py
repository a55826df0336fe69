"""The trainer interface: what a GAN family must say. One family, one file, read beside its paper.

    class MyGAN(Family):
        paper = "Author et al. 2020, arXiv 2001.00001"
        class Config(FamilyConfig): width: int = setting(64, "maps at the finest layer", "table 2")
        presets = {"paper": Preset("as the paper"), "smoke": Preset("seconds", width=8)}

The trainer (ganbench.training) knows families through this class alone.
"""

import hashlib
import json
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from ganbench.errors import Diverged, UserError, nearest, unknown
from ganbench.family.interface import Batch, Clock, Engine, ImageSpec, Stage
from ganbench.family.interface import PartLoss as PartLoss
from ganbench.plugins import load_plugin, same_source, source_hash
from ganbench.random import Random


def setting(default: Any, about: str, source: str = "", *, later: bool = False, **limits: Any) -> Any:
    """One configuration field: its default, what it is (with its unit), the value's source, limits (ge, le, ...).

    `later`: added when the family had been measured already. At its default it changes nothing, and is left out of a
    configuration's hash, so that the rows from before keep theirs.
    """
    return Field(default, description=about, json_schema_extra={"source": source, "later": later}, **limits)


class FamilyConfig(BaseModel):
    """Base of every family's configuration. Unknown keys are refused; values are checked and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    accumulate: int = setting(1, "parts in which a batch goes through the networks, one after the other, to save "
                                 "memory; the gradient is that of the whole batch", "ours", later=True, ge=1)
    augment: str = setting("", "augment all that the critic sees: diffaugment, ada, scheduled, or with settings "
                               "ada,kimg=100; empty for not at all",
                           "arXiv 2006.10738, 2006.06676, 2501.05441", later=True)
    train_images: int = setting(0, "train on so many of the images only, the same for every seed; scores are against "
                                   "all of them; 0 = all", "ours", later=True, ge=0)
    ema_width: float = setting(0.0, "relative width of a power-function average of the generator, in place of the "
                                    "family's own average; 0 = the family's own", "arXiv 2312.02696", later=True, ge=0)
    ema_snapshots: str = setting("", "relative widths of averages to keep at every checkpoint, such as 0.05,0.1, from "
                                     "which --ema makes any other; empty for none", "arXiv 2312.02696", later=True)


def hashed_settings(config: FamilyConfig) -> dict[str, Any]:
    """The settings that a configuration's hash is made of, as JSON: all but later ones that have their default."""
    def untouched(name: str) -> bool:
        field = type(config).model_fields[name]
        extra = field.json_schema_extra
        return isinstance(extra, dict) and bool(extra.get("later")) and getattr(config, name) == field.default
    return {name: value for name, value in config.model_dump(mode="json").items() if not untouched(name)}


def deciding(family: "type[Family]", config: FamilyConfig, data_hash: str, side: int, mirror: bool, precision: str,
             ) -> dict[str, Any]:
    """What decides what is trained, of which a configuration's hash is made: budget, seed, metrics and places are not
    part of it. data_hash: of the images' content. side: theirs, or their height."""
    decided = {"family": short_name(family), "config": hashed_settings(config), "data": data_hash, "side": side,
               "mirror": mirror, "precision": precision}
    # the code, too, where it is not ganbench's own: other code by the same name is another entry of a table
    own = family.__module__.partition(".")[0] == "ganbench"
    return decided if own else decided | {"source": source_hash(family.__module__)}


def configuration_hash(decided: Mapping[str, Any]) -> str:
    """The `config_hash` of what `deciding` gave, and of what a training begins with, if anything."""
    return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]


class Preset:
    """A named set of configuration values. `about` says what it should reach and about how long it takes."""

    def __init__(self, about: str, *, side: int | None = None, kimg: float | None = None, split: str = "train",
                 mirror: bool | None = None, **values: Any):
        self.about = about  # what to expect, and how long
        self.side = side  # the side the preset was made for, or None for any
        self.kimg = kimg  # length of training in thousands of real images, or None for the family's default
        self.split = split  # the images to train on where nothing else is asked: "all" where the publication took all
        self.mirror = mirror  # whether reals are mirrored where nothing else is asked; None: as the data set says
        self.values = values


class Family(nn.Module):
    """A model family: networks, losses, hyper-parameters and one training step.

    Subclasses set `self.generator` (and `self.critic`, if there is one) in `__init__`. State beyond parameters and
    optimizers (k_t, a running w) lives in buffers, so that a checkpoint has it for free.
    """

    title: ClassVar[str] = ""  # e.g. "DCGAN"
    paper: ClassVar[str] = ""  # authors, year, arXiv number
    summary: ClassVar[str] = ""  # the idea in three sentences
    Config: ClassVar[type[FamilyConfig]] = FamilyConfig
    presets: ClassVar[dict[str, Preset]] = {}
    default_preset: ClassVar[str] = "paper"
    kimg: ClassVar[float] = 100.0  # default length of training
    quantities: ClassVar[dict[str, str]] = {}  # every logged scalar explained
    convergence: ClassVar[str | None] = None  # the logged scalar to watch, or None where no loss is valid
    convergence_smoothing: ClassVar[str] = "ema0.99"  # "median101", "ema0.999", ...
    healthy: ClassVar[str] = ""  # what healthy training looks like
    sick: ClassVar[str] = ""  # what sick training looks like
    sampling: ClassVar[str] = ""  # how samples are drawn, where it is more than the generator in eval mode
    misprints: ClassVar[str] = ""  # known misprints in descriptions of the paper
    adversarial: ClassVar[bool] = True
    trains_on_labels: ClassVar[bool] = False  # training needs labelled data, even where the generator takes no labels
    needs_labels: bool = False  # the generator takes labels, and training needs labelled data; __init__ may set it
    autoencoder_critic: ClassVar[bool] = False  # critic(x) has the shape of x (BEGAN, EBGAN): M_global applies
    # the critic's method that every image it judges goes through, and once; __init__ may set it
    critic_entry: str = "forward"
    score_middle: float | None = 0.0  # scores above it mean "real"; None: their sign means nothing; __init__ may set it
    pixel_latents: ClassVar[bool] = False  # latents are not a vector one can interpolate (PixelCNN)
    watches_held_out: ClassVar[bool] = False  # `held_out` says something of images kept from training
    has_likelihood: ClassVar[bool] = False  # `bits_per_dim` is there
    # its losses are means over samples that do not see each other, and its step takes them by `update_in_parts`, so
    # that `accumulate` may divide a batch; __init__ may set it
    divisible_batch: bool = False
    # fakes a generator update, over all processes; 0 = as many as the stage's batch; __init__ may set it
    generator_batch: int = 0
    latent_distribution: Literal["normal", "uniform"] = "normal"  # __init__ may set it
    # the generator maps z to w and draws from w: `to_style`, `from_style`; __init__ may set it
    has_styles: bool = False
    lipschitz_critic: bool = False  # the critic estimates a Wasserstein distance; __init__ may set it
    energy_ratio: float = 1.0  # L(G(z)) / L(x) that an autoencoder critic's training aims at; __init__ may set it

    generator: nn.Module
    critic: nn.Module | None  # None where there is none; set in __init__, as a class attribute would hide the module

    def __init__(self, config: FamilyConfig, images: ImageSpec):
        super().__init__()
        self.config, self.images = config, images
        self.critic = None

    # --- what a subclass must say -------------------------------------------------------------------------------

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by name, made once after the networks are on their device."""
        raise NotImplementedError

    def stage(self, clock: Clock) -> Stage:
        """What holds for the next step; a pure function of the clock and the configuration."""
        raise NotImplementedError

    def step(self, reals: Iterator[Batch], engine: Engine) -> dict[str, Tensor | float]:
        """ONE generator update and the critic updates that belong to it. Returns the logged scalars.

        Must not read values back from the device (`.item()`, `float(tensor)`, `if tensor:`): a GPU would wait for each,
        and a step that was recorded could not follow. Numbers among the scalars that are not tensors may depend on the
        configuration and on `recording_key` alone."""
        raise NotImplementedError

    def latents(self, n: int, random: Random) -> Tensor:
        """n latents, (n, ...)."""
        raise NotImplementedError

    def generate(self, z: Tensor, labels: Tensor | None, generator: nn.Module) -> Tensor:
        """Images (n,C,S,S) nominally in [-1,1] from latents, by the given copy of the generator, which is in eval mode.

        Gradients flow (evaluators differentiate through it)."""
        return generator(z) if not self.needs_labels else generator(z, labels)

    # --- what a subclass may change -----------------------------------------------------------------------------

    @classmethod
    def check(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for a combination this family cannot train. Called before anything is built."""
        cls.check_shape(config, images)
        if (cls.needs_labels or cls.trains_on_labels) and images.classes < 2:
            raise UserError(f"{cls.__module__.split('.')[-1]} needs labels, and this data has none: "
                            "use a labelled data set or a folder with one subfolder a class")

    @classmethod
    def check_shape(cls, config: FamilyConfig, images: ImageSpec) -> None:
        """Raise UserError for images of a size or of channels that these networks are not made for.

        Default: squares with a side that is a power of two, of 1 or 3 channels.
        """
        name, side = cls.__module__.split(".")[-1], images.side
        if images.width not in (0, side):
            raise UserError(f"{name} takes square images, not {side}x{images.width}: choose --side 32, 64 or 128")
        if side < 4 or side & (side - 1):
            raise UserError(f"side {side} is not a power of two, which {name} needs: choose --side 32, 64 or 128")
        if images.channels not in (1, 3):
            raise UserError(f"{name} takes images of 1 or 3 channels, not {images.channels}")

    @classmethod
    def summarise(cls) -> str:
        """The summary, or the first line of the class's docstring."""
        return cls.summary or (cls.__doc__ or "").strip().partition("\n")[0]

    def ema_decay(self, stage: Stage) -> float:
        """Decay per generator step of the averaged generator; 0 = no averaging."""
        return 0.0

    def recording_key(self, clock: Clock) -> Hashable:
        """What in the next step depends on the clock beside the stage, such as a number of critic updates or a penalty
        that is due every 16th step: steps are recorded apart for each value. None: this step is not to be recorded."""
        return ()

    def tick_kimg(self, stage: Stage) -> float | None:
        """Most kimg between two sample grids at this stage, where the published code has a rule for it."""
        return None

    def enter(self, stage: Stage) -> None:
        """Called before each step. Default: tells the networks that grow where they are."""
        for network in (self.generator, self.critic):
            if network is not None:
                self.place(network, stage)

    def place(self, network: nn.Module, stage: Stage) -> None:
        """Tell a network that grows its side and fade; called for the generator, the critic and the averaged generator.

        A step must not read them from the device: keep the side, and whether it fades, as Python values beside the
        buffers that a checkpoint needs."""

    def before_training(self, images: Tensor) -> None:
        """Called once before the first step with a sample of the training images, float (n,C,S,S) in [-1,1]."""

    def held_out(self, images: Tensor, engine: Engine) -> Mapping[str, Tensor | float]:
        """Scalars to log of images kept from training, float (B,C,S,S) in [-1,1]; asked for every 100 steps of families
        with `watches_held_out`."""
        return {}
    # --- what measures and pictures ask -------------------------------------------------------------------------

    def critic_scores(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """What the critic says of float images (B,C,S,S) in [-1,1]: (B,), or a reconstruction by an autoencoder critic.

        labels: int64 (B,) or None; only a critic that judges image and label together looks at them.
        """
        assert self.critic is not None
        return self.critic(images)

    def energy(self, images: Tensor) -> Tensor:
        """Reconstruction energy of each image under an autoencoder critic, (B,): the mean over pixels of |v - D(v)|."""
        return (images - self.critic_scores(images, None)).abs().flatten(1).mean(1)

    def bits_per_dim(self, images: Tensor, random: Random) -> Tensor:
        """Code length of float images (B,C,S,S) in [-1,1], bits per pixel and channel (B,); with `has_likelihood`."""
        raise NotImplementedError

    def to_style(self, z: Tensor, labels: Tensor | None, generator: nn.Module) -> Tensor:
        """w of latents, (n,d) or (n,layers,d); with `has_styles`."""
        raise NotImplementedError

    def from_style(self, w: Tensor, generator: nn.Module) -> Tensor:
        """Images (n,C,S,S) of w as `to_style` gives it, nominally in [-1,1]; with `has_styles`."""
        raise NotImplementedError

    def average_style(self, generator: nn.Module) -> Tensor:
        """The running mean of w, (d,); with `has_styles`."""
        raise NotImplementedError

    def sample_mode(self, generator: nn.Module) -> None:
        """Put a generator into the mode in which it samples. Default: eval()."""
        generator.eval()

    @torch.no_grad()
    def sample(self, z: Tensor, labels: Tensor | None = None, generator: nn.Module | None = None) -> Tensor:
        """Images (n,C,S,S) nominally in [-1,1], no gradients; `generator` may be the averaged copy."""
        network = self.generator if generator is None else generator
        with frozen_modes(network):
            self.sample_mode(network)
            return self.generate(z, labels, network)


@contextmanager
def frozen_modes(network: nn.Module) -> Iterator[None]:
    """Restore every submodule's train/eval flag on the way out."""
    modes = [(m, m.training) for m in network.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def sampling_batch(side: int) -> int:
    """Images of this side that are generated or described at once: 4 to 256, and at most 8192 rows of pixels."""
    return max(4, min(256, 8192 // side))


def to_uint8(images: Tensor, side: int | None = None) -> Tensor:
    """The one way images leave a generator: float [-1,1] -> uint8, round half to even, saturate.

    A growing generator below its full side (its height) is replicated pixel by pixel to `side`. Raises Diverged for
    NaN or infinity.
    """
    if not torch.isfinite(images).all():
        raise Diverged("the generator produced values that are not finite")
    return full_side((images.float() * 127.5 + 127.5).round_().clamp_(0, 255).to(torch.uint8), side)


def full_side(images: Tensor, side: int | None) -> Tensor:
    """Replicate pixels up to `side`; images already there are returned as they are, and where it is None."""
    factor = side // images.shape[-2] if side else 1
    return images if factor <= 1 else images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def find_family(name: str) -> type[Family]:
    """The family class called `name` (a name from `ganbench list`, or the path of a Python file)."""
    return load_plugin("family", name, Family)


@cache
def family_hash(name: str) -> str:
    """Hash of the code of the family called `name`, to tell whether two trainings were made by the same."""
    return source_hash(find_family(name).__module__)


def made_by_this_code(recorded: str, name: str) -> bool:
    """Whether a recorded `family_hash`, also one of an earlier version, is that of the family as it is now."""
    return recorded == family_hash(name) or same_source(recorded, find_family(name).__module__)


def configure(family: type[Family], preset: str | None = None, overrides: Mapping[str, Any] | None = None,
              ) -> tuple[FamilyConfig, Preset, dict[str, str]]:
    """Resolve a configuration: defaults, then the preset, then overrides (strings are parsed by the field's type).

    Returns the configuration, the preset, and for each key where its value came from ("default", "preset", "flag").
    """
    name = preset or family.default_preset
    if name not in family.presets:
        raise UserError(f"unknown preset '{name}' of {short_name(family)}.{nearest(name, family.presets)} "
                        f"Known: {', '.join(family.presets)}")
    chosen, overrides = family.presets[name], dict(overrides or {})
    for key in overrides:
        if key not in family.Config.model_fields:
            raise unknown(f"{short_name(family)} has no setting", key, family.Config.model_fields)
    values = {**chosen.values, **overrides}
    try:
        config = family.Config.model_validate(values, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        given = values.get(str(first["loc"][0])) if first["loc"] else None
        raise UserError(f"{short_name(family)}: {where} = {given!r} is refused: {first['msg']}") from None
    origin = dict.fromkeys(family.Config.model_fields, "default")
    origin |= dict.fromkeys(chosen.values, "preset") | dict.fromkeys(overrides, "flag")
    return config, chosen, origin


def count_parameters(network: nn.Module | None) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad) if network is not None else 0


def short_name(family: type[Family]) -> str:
    """The name people type: the family's file name."""
    return family.__module__.split(".")[-1].removeprefix("ganbench_file_")


def create(family: str, *, side: int | str, channels: int = 3, classes: int = 0, preset: str | None = None,
           **overrides: Any) -> Family:
    """Build a family's networks with fresh weights.

    Args:
        family: a name from `ganbench list`, or a path to a Python file.
        side: image side in pixels, or "64x96" (height x width). channels: 1 or 3, of some families 1 to 8.
        classes: number of labels, 0 = unlabelled.
        preset: a preset's name; default is the family's default. overrides: single configuration values.
    Raises:
        UserError: unknown family, preset or key, or a combination the family cannot train.

    Examples:
        >>> import ganbench, torch
        >>> dcgan = ganbench.create("dcgan", side=32, channels=1, preset="laptop")
        >>> dcgan.generator(torch.randn(4, 100)).shape
        torch.Size([4, 1, 32, 32])
    """
    cls = find_family(family)
    config, _, _ = configure(cls, preset, overrides)
    images = ImageSpec.of(side, channels, classes)
    cls.check(config, images)
    return cls(config, images)
