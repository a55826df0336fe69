"""Arrays in a .npz file."""

from pathlib import Path

import numpy as np

from ganbench.data.source import Source, by_hash, digest
from ganbench.errors import UserError


class Npz(Source):
    """uint8 images in a .npz: an array `images`, `arr_0` or `x`, (N,H,W), (N,H,W,C) or (N,C,H,W); `labels` or `y` if any.

    Train: all images. Test: a fixed tenth.
    """

    title = "a .npz file with images (N,H,W[,C]) uint8 and, if any, labels"
    suffixes = (".npz",)

    def open(self) -> None:
        path = Path(self.location or "").expanduser()
        if not path.is_file():
            raise UserError(f"no such file: {path}")
        self.path = path
        try:
            with np.load(path, allow_pickle=False) as arrays:
                key = next((k for k in ("images", "arr_0", "x", "data") if k in arrays), None)
                if key is None:
                    raise UserError(f"{path} has no array 'images' (it has {', '.join(arrays.files) or 'none'})")
                images = arrays[key]
                mark = next((k for k in ("labels", "y", "targets") if k in arrays), None)
                labels = arrays[mark] if mark else None
        except (OSError, ValueError, EOFError, KeyError) as error:
            raise UserError(f"{path} cannot be read as .npz: {str(error).splitlines()[0]}") from None
        except Exception as error:
            if type(error).__name__ != "BadZipFile":
                raise
            raise UserError(f"{path} is damaged or not a .npz: {error}") from None
        if images.dtype != np.uint8 or images.ndim not in (3, 4):
            raise UserError(f"{path}: '{key}' is {images.dtype} {images.shape}; images must be uint8 (N,H,W) or (N,H,W,C)")
        if images.ndim == 4 and images.shape[-1] not in (1, 3):
            if images.shape[1] not in (1, 3):
                raise UserError(f"{path}: '{key}' is {images.shape}; the channels must be 1 or 3")
            images = images.transpose(0, 2, 3, 1)
        if images.ndim == 4 and images.shape[-1] == 1:
            images = images[..., 0]
        every = [f"image-{i:07d}" for i in range(len(images))]
        chosen = by_hash(every, "test" if self.split == "test" else "all")
        self.names, self.images = [every[i] for i in chosen], images[chosen]
        if labels is not None:
            if len(labels) != len(images):
                raise UserError(f"{path}: {len(images)} images but {len(labels)} labels")
            self.labels = labels.reshape(-1).astype(np.int64)[chosen]
            self.classes = [str(i) for i in range(int(labels.max()) + 1)]

    def read(self, index: int) -> np.ndarray:
        return self.images[index]

    def fingerprint(self) -> str:
        state = self.path.stat()
        return digest([str(self.path.resolve()), state.st_size, state.st_mtime_ns])
