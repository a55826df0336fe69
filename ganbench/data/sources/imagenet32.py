"""Downsampled ImageNet (Chrabaszcz, Loshchilov, Hutter 2017, arXiv 1707.08819), 32x32."""

import re
import zipfile
from pathlib import Path

import numpy as np

from ganbench.data.source import Source
from ganbench.data.sources.npz import refuse_bombs
from ganbench.errors import UserError

BATCHES = 10  # files of the training images


class ImageNet32(Source):
    """1,281,167 training and 50,000 validation images, from the .npz files train_data_batch_1 to 10 and val_data.

    Labels 1 to 1000 of the files become 0 to 999. Test: the validation images.
    """

    title = "ImageNet 32x32, 1,281,167 colour images, 1,000 classes (Chrabaszcz et al. 2017)"
    default_side = 32
    channels = 3
    classes = [str(i) for i in range(1000)]

    def open(self) -> None:
        """Find the files and set what can be known without reading them. Raises MissingData, or UserError."""
        for home in self.homes():
            for folder in (home, home / "Imagenet32_train_npz", home / "Imagenet32_val_npz", home / "imagenet32"):
                if self._find(folder):
                    return
        raise self.missing("train_data_batch_1.npz to train_data_batch_10.npz and val_data.npz",
                           "https://image-net.org/download-images (downsampled, 32x32, npz format)")

    def _find(self, folder: Path) -> bool:
        train = sorted(folder.glob("train_data_batch_*.npz"), key=lambda p: int(re.sub(r"\D", "", p.stem) or 0))
        val = [p for p in (folder / "val_data.npz", folder.parent / "Imagenet32_val_npz" / "val_data.npz")
               if p.is_file()][:1]
        self.files = {"train": train, "test": val, "all": train + val if val else []}[self.split]
        if not self.files:
            return False
        self.own_splits = True
        lost = sorted({*range(1, BATCHES + 1)} - {int(re.sub(r"\D", "", file.stem) or 0) for file in train})
        if lost and self.split != "test":
            raise UserError(f"{folder} lacks {', '.join(f'train_data_batch_{number}.npz' for number in lost)}: get the "
                            "rest of the training images")
        for file in self.files:
            if zipfile.is_zipfile(file):  # what is none is refused by name as it is read
                refuse_bombs(file)
        counts = [_count(file) for file in self.files]
        self.names = [f"{file.stem}-{i:06d}" for file, count in zip(self.files, counts) for i in range(count)]
        return True

    def load(self) -> None:
        """Read what is read whole, once, before the first image."""
        blocks = [_read(file) for file in self.files]
        self.images = np.concatenate([images for images, _ in blocks])
        self.labels = np.concatenate([labels for _, labels in blocks])

    def read(self, index: int) -> np.ndarray:
        """One image, uint8 (32,32,3)."""
        return self.images[index].transpose(1, 2, 0)


def _count(path: Path) -> int:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return len(arrays["labels"])
    except Exception as error:  # a damaged file makes NumPy and zipfile raise nearly anything
        raise UserError(f"{path} is damaged or not of downsampled ImageNet ({error}): get it again") from None


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["data"], arrays["labels"].astype(np.int64) - 1
    except Exception as error:  # a damaged file makes NumPy and zipfile raise nearly anything
        raise UserError(f"{path} is damaged or not of downsampled ImageNet ({error}): get it again") from None
    fits = images.dtype == np.uint8 and labels.size and images.shape == (*labels.shape, 3072)
    if not fits or labels.min() < 0 or labels.max() > 999:
        raise UserError(f"{path}: {images.dtype} {images.shape} with labels {labels.shape} "
                        f"from {labels.min(initial=0) + 1} to {labels.max(initial=0) + 1}; "
                        "it must be uint8 (N,3072), labels 1 to 1000")
    return images.reshape(-1, 3, 32, 32), labels
