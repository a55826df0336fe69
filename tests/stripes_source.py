"""A data source as an outsider would write it."""

import numpy as np

from ganbench.data.source import Source


class Stripes(Source):
    """Forty striped images."""

    default_side = 32
    channels = 1

    def open(self):
        self.names = [f"stripe-{i}" for i in range(40)]

    def read(self, index):
        return np.tile(np.arange(32) * (index + 1) % 256, (32, 1)).astype(np.uint8)
