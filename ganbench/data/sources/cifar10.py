"""CIFAR-10 (Krizhevsky 2009)."""

import tarfile
from pathlib import Path

import numpy as np

from ganbench.data.source import Source
from ganbench.data.sources.npz import read_arrays
from ganbench.errors import UserError
from ganbench.files import ArraysOnly

BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
PACKED = ("cifar-10-binary.tar.gz", "cifar-10-python.tar.gz")


class CIFAR10(Source):
    """50,000 + 10,000 colour images of 32x32. Train and test as published.

    Read from the binary or the Python version, packed or not, or from cifar10-train.npz and cifar10-test.npz (or one
    cifar10.npz with x_train, y_train, x_test, y_test); else downloaded by torchvision.
    """

    title = "CIFAR-10, 50,000 colour 32x32, 10 classes (Krizhevsky 2009)"
    default_side = 32
    channels = 3
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

    def open(self) -> None:
        """Find the files and set what can be known without reading them. Raises MissingData, or UserError."""
        self.own_splits = True
        self.parts = ["train", "test"] if self.split == "all" else [self.split]
        found = self._find()
        why = "" if found else self.downloaded("CIFAR10")
        if not found and not self._find():
            raise self.missing("cifar-10-python.tar.gz or cifar-10-binary.tar.gz, packed or unpacked, or "
                               f"cifar10-train.npz and cifar10-test.npz{why}", "https://www.cs.toronto.edu/~kriz/cifar.html")
        self.names = [f"{part}-{i:05d}" for part, files in self.found.items() for i in range(self._count(part, files))]

    def load(self) -> None:
        """Read what is read whole, once, before the first image."""
        loaded = [self._read_part(part, files) for part, files in self.found.items()]
        self.images = np.concatenate([images for images, _ in loaded])
        self.labels = np.concatenate([labels for _, labels in loaded])
        self.names = [f"{part}-{i:05d}" for (part, _), (images, _) in zip(self.found.items(), loaded)
                      for i in range(len(images))]

    def read(self, index: int) -> np.ndarray:
        """One image, uint8 (32,32,3)."""
        return self.images[index]

    def _find(self) -> bool:
        folders = [home / sub for home in self.homes() for sub in
                   ("", "cifar-10-batches-py", "cifar-10-batches-bin", "cifar10")]
        named = Path(self.location).expanduser() if self.location else None
        for folder in folders:
            choices = [{part: [folder / f"{b}{ending}" for b in BATCHES[part]] for part in self.parts}
                       for ending in (".bin", "")]
            choices += [{part: [folder / f"cifar10-{part}.npz"] for part in self.parts}]
            choices += [{part: [folder / name] for part in self.parts} for name in (*PACKED, "cifar10.npz")]
            if named is not None and named.is_file():
                choices = [{part: [named] for part in self.parts}]
            for choice in choices:
                if all(file.is_file() for files in choice.values() for file in files):
                    self.found = choice
                    self.files = sorted({file for files in choice.values() for file in files})
                    return True
        return False

    def _count(self, part: str, files: list[Path]) -> int:
        """As published, unless it can be known quickly; `load` corrects it for partial copies."""
        if files[0].suffix == ".bin":
            return sum(file.stat().st_size // 3073 for file in files)
        return {"train": 50_000, "test": 10_000}[part]

    def _read_part(self, part: str, files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
        if files[0].suffix == ".npz":
            images, labels, own, _ = read_arrays(files[0], part)
            if labels is None or images.shape[1:] != (32, 32, 3) or (files[0].name == "cifar10.npz" and not own):
                raise UserError(f"{files[0]} has {images.shape} "
                                f"images{'' if labels is not None else ' without labels'}; "
                                "it must have (N,32,32,3) and labels, train and test apart")
            return images, labels
        blocks = [_batch(name, data) for name, data in _contents(part, files)]
        return np.concatenate([i for i, _ in blocks]), np.concatenate([m for _, m in blocks])


def _contents(part: str, files: list[Path]) -> list[tuple[str, bytes]]:
    if not files[0].name.endswith(".gz"):
        return [(str(file), file.read_bytes()) for file in files]
    try:
        with tarfile.open(files[0]) as tar:
            members = {Path(m.name).stem: m for m in tar if m.isfile() and m.size < 1 << 28}
            wanted = [(f"{files[0]}: {b}{Path(members[b].name).suffix}", tar.extractfile(members[b]))
                      for b in BATCHES[part]]
            return [(name, file.read()) for name, file in wanted if file]
    except (tarfile.TarError, OSError, EOFError, KeyError) as error:
        raise UserError(f"{files[0]} is damaged or not CIFAR-10 ({error}): get it again") from None


def _batch(name: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images (N,32,32,3) and labels of one batch file of either version."""
    if name.endswith(".bin"):
        if len(data) % 3073 or not data:
            raise UserError(f"{name} is cut short: get it again")
        rows = np.frombuffer(data, np.uint8).reshape(-1, 3073)
        return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0].astype(np.int64)
    import io
    try:
        found = ArraysOnly(io.BytesIO(data), encoding="latin1").load()
        pixels, labels = np.asarray(found["data"]), np.asarray(found["labels"])
    except Exception as error:  # damaged pickles raise nearly anything
        raise UserError(f"{name} is damaged or not CIFAR-10 ({error}): get it again") from None
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3072 or labels.dtype.kind not in "iu" \
            or labels.shape != pixels.shape[:1]:
        raise UserError(f"{name} holds {pixels.dtype} {pixels.shape} with labels {labels.dtype} {labels.shape}, not "
                        "uint8 (N,3072) with N whole numbers: get it again")
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels.astype(np.int64)
