"""scikit-learn's handwritten digits: 1,797 grey images of 8x8, inside the package."""

import numpy as np

from ganbench.data.source import Source, by_hash


class Digits(Source):
    """The embedded default. Enlarged from 8x8 by bicubic interpolation. Test: a fixed tenth, by a hash of the names."""

    title = "handwritten digits of scikit-learn, 1,797 grey 8x8, enlarged"
    default_side = 32
    channels = 1
    rooted = False
    classes = [str(i) for i in range(10)]

    def open(self) -> None:
        """Find the files and set what can be known without reading them. Raises MissingData, or UserError."""
        every = [f"digit-{i:04d}" for i in range(1797)]
        self.chosen = by_hash(every, self.split)
        self.names = [every[i] for i in self.chosen]

    def load(self) -> None:
        """Read what is read whole, once, before the first image."""
        from sklearn.datasets import load_digits
        found = load_digits()
        self.images = np.rint(found.images[self.chosen] * (255 / 16)).astype(np.uint8)  # 0..16 -> 0..255
        self.labels = found.target[self.chosen].astype(np.int64)

    def read(self, index: int) -> np.ndarray:
        """One image, uint8 (H,W)."""
        return self.images[index]
