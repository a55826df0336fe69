"""Distance between radial power spectra: whether generated images have the frequencies of real ones. Needs no
weights.
"""

import math

import torch
from torch import Tensor

from ganbench.errors import UserError
from ganbench.metrics.feature_metric import rows, stacked
from ganbench.metrics.maths.arrays import as_bytes
from ganbench.metrics.maths.uncertainty import around
from ganbench.metrics.metric import ImageMetric, Score

DECIBELS = 10 / math.log(10)  # of a natural logarithm of power
FLOOR = 1e-12  # power below which a radius counts as silent, for pixels on [0, 1]


class PowerSpectrum(ImageMetric):
    """Root mean square difference, in decibels, of two sets' mean logarithmic power at each radius of the spectrum.

    Each image is made grey (mean of channels) on [0,1]; |FFT|^2 / pixels is averaged over rings one frequency wide, its
    logarithm over images. Level "all" takes radii 1 to S/2, level "high" those above S/4, where upsampling leaves its
    traces. 0 is best; a factor of two in power at every radius is 3 dB.
    """

    any_channels = True
    title = "Radial power spectrum, dB"
    paper = "the spectrum of Durall, Keuper, Keuper 2020, arXiv 2003.01826, section 3; the distance is ours"
    summary = ("Compares how much of each spatial frequency images contain. It finds upsampling artefacts, blur and "
               "noise in any kind of picture without a pretrained network, and does not see what a picture shows.")
    higher_is_better = False  # type: ignore[misc]

    kept_states = {"real_spectra": "cat", "fake_spectra": "cat"}
    real_spectra: list[Tensor]
    fake_spectra: list[Tensor]

    def protocol(self) -> str:
        """All that must agree for two values to be compared."""
        return "power_spectrum;grey=mean;range=0,1;rings=1;log=per-image;unit=dB"

    def update(self, images: Tensor, real: bool = False) -> None:
        """Add uint8 images (N,C,S,S). Raises UserError for other numbers, and for another side than before."""
        images = as_bytes(images, f"power_spectrum: the {'real' if real else 'generated'} images")
        if not len(images):
            return
        added = log_spectra(images)
        for kept in (*self.real_spectra[:1], *self.fake_spectra[:1]):
            if kept.shape[-1] != added.shape[-1]:
                raise UserError(f"power_spectrum got images of sides {2 * kept.shape[-1]} and {images.shape[-1]}: "
                                "bring them to one")
        (self.real_spectra if real else self.fake_spectra).append(added)

    def compute(self) -> dict[str, float]:
        """{"all", "high"}, decibels, >= 0. Raises UserError without images of both kinds."""
        real, fake = self._sets()
        return {level: _distance(real[:, radii], fake[:, radii])[0] for level, radii in _levels(real.shape[1]).items()}

    def scores(self) -> list[Score]:
        """The numbers as rows of a table, with their intervals where honest ones are known."""
        real, fake = self._sets()
        found = []
        for level, radii in _levels(real.shape[1]).items():
            value, error = _distance(real[:, radii], fake[:, radii])
            found.append(Score(value, level, *around(value, error, "delta method over images", floor=0.0),
                               n_real=len(real), n_fake=len(fake), higher_is_better=False))
        return found

    def _sets(self) -> tuple[Tensor, Tensor]:
        sets = []
        for kind, parts in (("real", self.real_spectra), ("generated", self.fake_spectra)):
            if rows(parts) < 2:
                raise UserError(f"power_spectrum needs at least two {kind} images")
            sets.append(stacked(parts, ""))
        return sets[0], sets[1]


def log_spectra(images: Tensor) -> Tensor:
    """Decibels of power by radius, float64 (N, S/2): column r - 1 is the mean over the ring round(|frequency|) = r.

    Args:
        images: uint8 (N,C,S,S). Raises UserError if they are not square or smaller than 8 pixels.
    """
    side = images.shape[-1]
    if images.shape[-2] != side or side < 8:
        raise UserError(f"power_spectrum needs square images of at least 8 pixels, not "
                        f"{images.shape[-1]}x{images.shape[-2]}")
    # power at each frequency, and the ring that the frequency lies in
    grey = images.double().mean(1) / 255
    power = torch.fft.fft2(grey).abs().square() / side**2
    frequency = torch.fft.fftfreq(side, 1 / side, dtype=torch.float64, device=images.device)
    ring = torch.hypot(frequency[:, None], frequency[None]).round().long().flatten()
    kept = (ring >= 1) & (ring <= side // 2)  # without the mean, and without the corners
    # summed by ring, then divided by how many frequencies a ring has
    sums = power.new_zeros(len(images), side // 2).index_add_(1, ring[kept] - 1, power.flatten(1)[:, kept])
    return DECIBELS * (sums / torch.bincount(ring[kept])[1:]).clamp_min(FLOOR).log()


def _levels(radii: int) -> dict[str, slice]:
    return {"all": slice(None), "high": slice(radii // 2, None)}


def _distance(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """The distance between means (N,K) and (M,K) of decibels, and its standard error by the delta method."""
    step = real.mean(0) - fake.mean(0)
    value = float(step.square().mean().sqrt())
    if value == 0:
        return 0.0, 0.0
    slope = step / (len(step) * value)  # of the distance by each radius's step
    variance = sum(float((spectra @ slope).var()) / len(spectra) for spectra in (real, fake))
    return value, math.sqrt(variance)
