"""Perceptual path length: how far the picture moves, perceptually, for a small step in latent space."""

import json
from collections.abc import Callable, Iterator

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from ganbench.errors import UserError
from ganbench.family import Family, full_side
from ganbench.metrics.maths.arrays import tf32
from ganbench.metrics.maths.uncertainty import of_trimmed_mean
from ganbench.metrics.metric import ModelMetric, Score, Subject, parts_of
from ganbench.metrics.networks.classifier import averaged
from ganbench.metrics.subjects import draw_labels, sampling, stream
from ganbench.pictures.walks import Path, between, lerp, natural_path
from ganbench.random import derived_seed

Distance = Callable[[Tensor, Tensor], Tensor]  # two batches of images to (B,) squared-difference distances
CROPS = {None: "as-data", True: "face", False: "none"}
LARGEST_SIDE = 256  # images are averaged down to this before they are compared


class Ppl(ModelMetric):
    """Perceptual path length (Karras, Laine, Aila 2019, section 4.1): the mean of LPIPS(G(t), G(t + eps)) / eps^2.

    Pairs of latents are joined in z (great circle, straight line for uniform latents) and, where the generator has a
    mapping network, in w (straight line). Levels: "z_full", "z_end", "w_full", "w_end"; "full" has t ~ U(0,1), "end"
    has t = 0, as the authors' code has it. Distances outside the 1st to 99th percentile are dropped. No truncation, no
    style mixing; both images of a pair get the same noise and the same label.

    Args:
        n: pairs for each level; None = as many as the evaluation may use. Published values use 100,000.
        epsilon: the step.
        crop: compare only the part where a centred face is: rows 3/8 to 7/8, columns 1/4 to 3/4. None = where the data
            set declares aligned faces, as the authors do.
        batch: pairs rendered at once.
        path: "lerp" or "slerp" in z; None = what suits the latents.
        distance, distance_name: another distance than LPIPS-VGG16, on float images nominally in [-1,1].
    """

    title = "Perceptual path length"
    paper = "Karras, Laine, Aila 2019, arXiv 1812.04948"
    summary = ("Perceptual distance of two images whose latents lie a small step apart, divided by the step squared. "
               "Low means that the latent space is smooth.")

    def __init__(self, n: PositiveInt | None = None, epsilon: float = 1e-4, crop: bool | None = None,
                 batch: PositiveInt = 16,
                 path: Path | None = None, distance: Distance | None = None, distance_name: str = "lpips-vgg16-v0.1"):
        if not epsilon > 0:
            raise UserError(f"ppl: epsilon = {epsilon} is not a step: use a small positive number such as 1e-4")
        self.n, self.epsilon, self.crop, self.batch, self.path = n, epsilon, crop, batch, path
        self.distance, self.distance_name = distance, distance_name

    @classmethod
    def settings_in(cls, protocol: str) -> dict[str, str]:
        """As of any metric; the path is called z, and the crop by its name."""
        found, parts = super().settings_in(protocol), parts_of(protocol)
        found.pop("distance", None)  # its name: another one cannot be typed
        crop = next((key for key, name in CROPS.items() if found.get("crop") == name), None)
        found |= {"crop": json.dumps(crop)} if "crop" in found else {}
        return found | ({"path": parts["z"]} if parts.get("z", "natural") != "natural" else {})

    def applies(self, family: Family) -> str:
        """"" if the measure applies to this family; otherwise one line that says why not."""
        if family.pixel_latents:
            return "ppl needs latents that are vectors one can interpolate, and this family has none"
        return ""

    def protocol(self) -> str:
        """All that must agree for two values to be compared."""
        return (f"ppl;distance={self.distance_name};epsilon={self.epsilon:g};crop={CROPS[self.crop]};"
                f"z={self.path or 'natural'};end=t0;trim=1-99;truncation=none;noise=shared")

    def measure(self, subject: Subject) -> list[Score]:
        """The numbers as rows of a table. Raises UserError where this model or its data has none."""
        if self.distance is None:
            from ganbench.metrics.networks.lpips import load_lpips
            self.distance = load_lpips(subject.device)
        if self.crop is None:
            self.crop = subject.reals is not None and subject.reals.aligned_faces
        spaces = ["z", "w"] if subject.family.has_styles else ["z"]
        # TF32's 10 bits would drown an image difference made by a step of 1e-4
        with torch.no_grad(), tf32(False):
            return [self._score(subject, space, end) for space in spaces for end in (False, True)]

    def _score(self, subject: Subject, space: str, end: bool) -> Score:
        level = f"{space}_{'end' if end else 'full'}"
        lengths = np.concatenate(list(self._lengths(subject, space, end, level)))
        mean, low, high = of_trimmed_mean(lengths)
        return Score(mean, level, low, high, "normal, winsorised standard deviation of the trimmed mean",
                     n_fake=len(lengths))

    def _lengths(self, subject: Subject, space: str, end: bool, level: str) -> Iterator[np.ndarray]:
        """Squared speeds of the image along the path at random places, batch by batch."""
        family, random, n = subject.family, stream(subject, f"ppl/{level}"), self.n or subject.n
        path = self.path or natural_path(family)
        assert self.distance is not None
        for start in range(0, n, self.batch):
            size = min(self.batch, n - start)
            z1, z2 = family.latents(size, random), family.latents(size, random)
            labels = draw_labels(subject, size, random)
            t = torch.zeros(size, device=z1.device) if end else random.uniform(size)
            # both images of a pair get the same noise, or its change would count as length
            noise = derived_seed(subject.seed, "ppl/noise", level, start)
            a, b = (self._image(subject, space, path, z1, z2, t, step, labels, noise) for step in (0.0, self.epsilon))
            yield (self.distance(a, b).double() / self.epsilon**2).cpu().numpy()

    def _image(self, subject: Subject, space: str, path: Path, z1: Tensor, z2: Tensor, t: Tensor, step: float,
               labels: Tensor | None, noise: int) -> Tensor:
        """The image at t + step, (B,C,S,S), cropped and averaged down. Draws inside the generator start at `noise`."""
        family, generator = subject.family, subject.generator
        place = t.double() + step  # a step of 1e-4 has only three digits in single precision
        with sampling(subject, noise):
            # along a straight line in w, along the chosen path in z
            if space == "w":
                w1, w2 = (family.to_style(z, labels, generator).double() for z in (z1, z2))
                w = lerp(w1, w2, place)
                images = family.from_style(w.to(z1.dtype), generator)
            else:
                z = between(z1.double(), z2.double(), place, path).to(z1.dtype)
                images = family.generate(z, labels, generator)
        images = full_side(images.float(), family.images.side)
        return averaged(face(images) if self.crop else images, LARGEST_SIDE)


def face(images: Tensor) -> Tensor:
    """The half-side square where a centred face is: with c = side div 8, rows 3c to 7c and columns 2c to 6c."""
    c = images.shape[-1] // 8
    return images[..., 3 * c:7 * c, 2 * c:6 * c]
