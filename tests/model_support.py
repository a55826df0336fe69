"""What tests of families share: a family on an engine, an endless stream of noise images, counts."""

from collections.abc import Iterator

import torch

from ganbench.family import Batch, Clock, Family, ImageSpec, configure, find_family
from ganbench.random import Random
from ganbench.training.engine import TrainingEngine


def build(name: str, preset: str | None = None, *, side: int = 32, channels: int = 1, classes: int = 10, seed: int = 0,
          **overrides: object) -> Family:
    cls = find_family(name)
    config, _, _ = configure(cls, preset, overrides)
    images = ImageSpec(side, channels, classes)
    cls.check(config, images)
    torch.manual_seed(seed)
    return cls(config, images)


def build_double(name: str, **settings: object) -> Family:
    """A family in double precision without a parameter at 0, where a forgotten one would not show."""
    family = build(name, **settings).double()
    for parameter in family.parameters():  # biases and noise weights start at 0
        if parameter.ndim == 1:
            parameter.data.normal_(0, 0.3)
    return family


def stand(family: Family, side: int, fade: float = 0.0) -> None:
    """Both networks of a growing family at a side."""
    family.generator.place(side, fade)
    family.critic.place(side, fade)


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two checkpoints' tensors agree to the bit (NaN, too, equals itself)."""
    def bits(tensor: torch.Tensor) -> tuple[object, ...]:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        return tensor.shape, tensor.dtype, flat.view(torch.uint8).numpy().tobytes()

    return a.keys() == b.keys() and all(bits(a[k]) == bits(b[k]) for k in a)


class Reals:
    """Endless batches of uniform noise with labels, of the size the engine's stage asks for. `drawn` counts batches."""

    def __init__(self, engine: TrainingEngine, seed: int = 1):
        self.engine, self.random, self.drawn = engine, Random(seed), 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        images, n = self.engine.family.images, self.engine.stage.batch
        self.drawn += 1
        self.engine.clock.images += n
        pixels = self.random.uniform(n, images.channels, self.engine.stage.side, self.engine.stage.side, low=-1.0)
        labels = self.random.integers(n, high=images.classes) if images.classes else None
        return Batch(pixels, labels)


class WatchedEngine(TrainingEngine):
    """The training engine, which also remembers its updates: (optimizer, loss), and calls `after` behind each."""

    def __init__(self, family: Family, **clock: int):
        clock = {"dataset_size": 1000, "total_images": 100_000} | clock
        super().__init__(family, Clock(**clock), device=torch.device("cpu"), seed=0)
        self.updates: list[tuple[str, float]] = []
        self.after = lambda optimizer: None
        self.enter(family.stage(self.clock))

    def update(self, loss, optimizer, clip_norm=None):
        self.updates.append((optimizer, float(loss.detach())))
        super().update(loss, optimizer, clip_norm)
        self.after(optimizer)

    def steps(self, reals: Iterator[Batch], n: int = 1) -> dict[str, float]:
        """n steps of the family, as the training loop takes them; the last one's scalars."""
        for _ in range(n):
            self.enter(self.family.stage(self.clock))
            scalars = self.family.step(reals, self)
            self.clock.steps += 1
        return {name: float(value) for name, value in scalars.items()}


def flat(network: torch.nn.Module) -> torch.Tensor:
    """All parameters in one vector, a copy."""
    return torch.nn.utils.parameters_to_vector(network.parameters()).detach().clone()
