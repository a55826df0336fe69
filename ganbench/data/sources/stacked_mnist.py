"""Stacked MNIST (Che et al. 2017, arXiv 1612.02136; Srivastava et al. 2017): three digits as colours, 1,000 modes."""

import numpy as np

from ganbench.data.sources.mnist import MNIST
from ganbench.errors import UserError


class StackedMNIST(MNIST):
    """Each image stacks three MNIST digits, drawn at random, as its red, green and blue; 1,000 classes.

    `stacked-mnist:N` makes N images; default 128,000, as VEEGAN's authors; the PGGAN paper took 1,000,000. The digits
    are drawn with NumPy's legacy generator, seed 123, from MNIST's training images (test: from its test images). The
    class is 100 red + 10 green + blue. `--root` is where MNIST lies.
    """

    title = "Stacked MNIST, 128,000 colour 32x32 of three digits, 1,000 classes (Che et al. 2017)"
    channels = 3
    splits = ("train", "test")
    classes = [f"{i:03d}" for i in range(1000)]
    count = 128_000

    def open(self) -> None:
        """Find the files and set what can be known without reading them. Raises MissingData, or UserError."""
        if self.location is not None:
            if not self.location.isdigit() or not 1 <= int(self.location) <= 10_000_000:
                raise UserError(f"stacked-mnist:{self.location}: after the colon comes the number of images, 1 to "
                                "10000000; --root is where MNIST lies")
            self.count = int(self.location)
        self.mnist = MNIST(split=self.split, root=self.root)
        self.files = self.mnist.files
        self.names = [f"{i:07d}" for i in range(self.count)]

    def load(self) -> None:
        """Read what is read whole, once, before the first image."""
        self.mnist.load()
        self.picked = np.random.RandomState(123).randint(len(self.mnist.images), size=(self.count, 3))
        assert self.mnist.labels is not None
        self.labels = self.mnist.labels[self.picked] @ np.array([100, 10, 1])

    def read(self, index: int) -> np.ndarray:
        """One image, uint8 (28,28,3): a digit in each channel."""
        return self.mnist.images[self.picked[index]].transpose(1, 2, 0)
