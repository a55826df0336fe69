"""CIFAR-10 (Krizhevsky 2009)."""

import numpy as np

from ganbench.data.source import Source, cache_dir
from ganbench.errors import UserError


class CIFAR10(Source):
    """50,000 + 10,000 colour images of 32x32, through torchvision or from cifar10-train.npz and cifar10-test.npz."""

    title = "CIFAR-10, 50,000 colour 32x32, 10 classes (Krizhevsky 2009)"
    default_side = 32
    channels = 3
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

    def open(self) -> None:
        parts = ["train", "test"] if self.split == "all" else [self.split]
        loaded = [self._part(part) for part in parts]
        self.images = np.concatenate([images for images, _ in loaded])
        self.labels = np.concatenate([labels for _, labels in loaded]).astype(np.int64)
        self.names = [f"{self.split}-{i:05d}" for i in range(len(self.images))]

    def read(self, index: int) -> np.ndarray:
        return self.images[index]

    def _part(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        home = cache_dir() / "downloads" / "cifar10"
        folders = [self.root, home] if self.root else [home]
        for folder in folders:
            if (folder / f"cifar10-{part}.npz").is_file():
                with np.load(folder / f"cifar10-{part}.npz", allow_pickle=False) as arrays:
                    return arrays["images"], arrays["labels"]
        import torchvision
        for folder in folders:
            for download in (False, True):
                try:
                    found = torchvision.datasets.CIFAR10(str(folder), train=part == "train",
                                                         download=download and folder == home)
                    return found.data, np.array(found.targets)
                except (RuntimeError, OSError):
                    continue
        raise UserError(f"cifar10 is not here and could not be downloaded: put the folder cifar-10-batches-py (from "
                        f"cifar-10-python.tar.gz, cs.toronto.edu/~kriz/cifar.html) into {folders[0]}, then run the same "
                        "command again")
