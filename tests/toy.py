"""A family small enough to check by hand: one weight each way, plain SGD, dropout for torch's own random state."""

from collections.abc import Hashable, Iterator

import torch
from torch import Tensor, nn

from ganbench.family import Batch, Clock, Engine, Family, FamilyConfig, ImageSpec, Preset, Stage, setting
from ganbench.random import Random


class Toy(Family):
    """A linear generator against a linear critic."""

    title = "Toy"
    paper = "none"

    class Config(FamilyConfig):
        rate: float = setting(0.05, "learning rate", gt=0)
        batch: int = setting(8, "images a step", ge=2)
        decay: float = setting(0.5, "of the averaged generator", ge=0, lt=1)
        fail_at: int = setting(-1, "generator step whose loss is not a number")
        fail_every: int = setting(0, "of so many steps one has a loss that is not a number; 0 = none", later=True)
        phase_every: int = setting(1000, "steps between optimizer resets")

    presets = {"paper": Preset("two seconds", kimg=0.4), "fast": Preset("one second", kimg=0.2, rate=0.1)}
    quantities = {"loss": "mean fake score minus mean real score", "k": "a controller's state"}
    convergence = "loss"
    convergence_smoothing = "median101"

    def __init__(self, config: FamilyConfig, images: ImageSpec):
        super().__init__(config, images)
        pixels = images.channels * images.side ** 2
        shape = (images.channels, images.side, images.side)
        self.generator = nn.Sequential(nn.Linear(4, pixels), nn.Tanh(), nn.Unflatten(1, shape))
        self.critic = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(pixels, 1), nn.Flatten(0))
        self.register_buffer("k", torch.zeros(()))

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"generator": torch.optim.Adam(self.generator.parameters(), self.config.rate),
                "critic": torch.optim.Adam(self.critic.parameters(), self.config.rate)}

    def stage(self, clock: Clock) -> Stage:
        return Stage(self.images.side, self.config.batch, phase=clock.steps // self.config.phase_every)

    def recording_key(self, clock: Clock) -> Hashable:
        return () if self.config.fail_at < 0 and not self.config.fail_every else None  # failures go by the clock

    def ema_decay(self, stage: Stage) -> float:
        return self.config.decay

    def latents(self, n: int, random: Random) -> Tensor:
        return random.normal(n, 4)

    def step(self, reals: Iterator[Batch], engine: Engine) -> dict[str, Tensor | float]:
        real = next(reals).images
        z = self.latents(engine.local_batch, engine.random("latents"))
        loss = self.critic(self.generator(z).detach()).mean() - self.critic(real).mean()
        if engine.clock.steps == self.config.fail_at or (0 <= self.config.fail_at <= engine.clock.steps):
            loss = loss * float("nan")
        if self.config.fail_every and engine.clock.steps % self.config.fail_every == 0:
            loss = loss * float("nan")
        engine.update(loss, "critic")
        engine.update(-self.critic(self.generator(z)).mean(), "generator")
        self.k += 0.001
        return {"loss": loss.detach(), "k": self.k.clone()}
