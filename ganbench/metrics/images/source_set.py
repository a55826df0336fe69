"""Images that are decoded as they are read: a folder, a zip or a data set as it lies, as a set to score.

Sizes, channels and crops follow the data room's rules (ganbench.data.images), so that pictures that are scored and a
prepared store are treated alike.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ganbench.data.crops import GENERIC
from ganbench.data.images import Header, Unreadable, file_bytes, header, sized
from ganbench.data.source import Source, shown
from ganbench.errors import UserError
from ganbench.metrics.images.sets import ImageSet, array_digest, digest, left_out, note_sample, shuffled
from ganbench.sides import parse_side


class SourceSet(ImageSet):
    """Images of a data source (`ganbench.data.Source`): a folder, an archive, an array file, whatever a source reads.

    Args:
        source: opened, with its split. n: how many; default all (fewer: a fixed random sample).
        side: to bring them to, or "64x96"; default the commonest short side. channels: default 3 if any picture has
            colour, else 1.
        crop: by name; default as the source says. skip_bad: leave out unreadable images by name, instead of refusing.
        native: hand pictures out as they are, in RGB; then `side` is their commonest short side.
    """

    takes = frozenset({"split", "crop", "root", "skip_bad", "side"})
    kind = "images"

    def __init__(self, source: Source, description: str, n: int | None = None, side: int | str | None = None,
                 channels: int | None = None, crop: str | None = None, skip_bad: bool = False, native: bool = False):
        super().__init__(description)
        source.ready()
        self.source, self.split, self.mirror = source, source.split, source.mirror
        self.dataset = source.label()
        self.available = len(source)
        self.remarks = list(source.remarks)
        self.warnings += left_out(description, source.remarks)
        if not len(source):
            raise UserError(f"{description} holds no images in the split '{source.split}'")
        # a sample of fewer is drawn before anything is read
        n = min(n or len(source), len(source))
        self.indices = np.arange(len(source)) if n == len(source) else np.sort(shuffled(len(source))[:n])

        # what each file says of itself: from that come count, side and channels, where they are not given
        looks = self._look(skip_bad)
        self.n = len(self.indices)
        note_sample(self)
        sizes = Counter((look.width + 2 * source.pad, look.height + 2 * source.pad) for look, _ in looks)
        self._size = parse_side(side or Counter(min(size) for size in sizes.elements()).most_common(1)[0][0])
        self.side, self.width = self._size[0], 0 if self._size[0] == self._size[1] else self._size[1]
        seen = 3 if any(look.colour for look, _ in looks) else 1
        self.channels = 3 if native else channels or source.channels or seen
        self.crop, self._box = source.crop_for(self.side, crop)
        if self._box is not None and self.width:
            raise UserError(f"the crop {self.crop} of {description} cuts squares, and --side {side} is none: add "
                            f"--crop {' or '.join(GENERIC)}")
        if skip_bad and not native:
            looks = self._fitting(looks)
        self._looks = [digest for _, digest in looks]
        # arrays cost nothing to read again; picture files are decoded
        self.at_hand = source.encoded(int(self.indices[0])) is None

        # what may spoil a comparison
        others = sum(count for size, count in sizes.items() if size != self._size[::-1])
        self.native = native and others > 0  # of one square size they are as they would be anyway
        if others and not native:
            self.warnings.append(f"{description}: {others} of {self.n} pictures are not "
                                 f"{self._size[1]}x{self._size[0]} and are resized (crop {self.crop}, Pillow Lanczos)")
        lossy = sum(look.lossy for look, _ in looks)
        if lossy:
            self.warnings.append(f"{description}: {lossy} of {self.n} pictures are lossily compressed, "
                                 "which moves scores by itself: compare PNG with PNG")

    def _look(self, skip_bad: bool) -> list[tuple[Header, str]]:
        """Header and digest of each image, in order; unreadable ones are refused, or dropped and named.

        Where they may be skipped every image is decoded once here: a header says little of what follows it.
        """
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            looks = list(pool.map(lambda index: _look_at(self.source, int(index), skip_bad), self.indices))

        # the unreadable: a reason in place of a header
        bad = [(index, look) for index, look in zip(self.indices, looks) if isinstance(look, str)]
        if bad:
            named = "; ".join(f"{shown(self.source.names[index])}: {reason}" for index, reason in bad[:5])
            named += " ..." if len(bad) > 5 else ""
            if not skip_bad:
                raise UserError(f"cannot read {len(bad)} of {len(looks)} images of {self.description} ({named}): "
                                "replace them, or leave them out with --skip-bad")
            # left out, counted and named
            self.left_out["unreadable"] = len(bad)
            self.warnings.append(f"left out {len(bad)} unreadable files of {self.description}: {named}")
        self.indices = np.array([i for i, look in zip(self.indices, looks) if not isinstance(look, str)],
                                dtype=np.int64)
        good = [look for look in looks if not isinstance(look, str)]
        if not good:
            raise UserError(f"none of {len(looks)} images of {self.description} can be read: {named}")
        return good

    def _fitting(self, looks: list[tuple[Header, str]]) -> list[tuple[Header, str]]:
        """Without the images of another size than the crop is made for; these are counted and named."""
        box, pad = self._box, 2 * self.source.pad
        if box is None or not box.width:
            return looks
        fits = [(look.width + pad, look.height + pad) == (box.width, box.height) for look, _ in looks]
        if all(fits):
            return looks
        bad = [shown(self.source.names[index]) for index, fit in zip(self.indices, fits) if not fit]
        named = ", ".join(bad[:5]) + (" ..." if len(bad) > 5 else "")
        what = f"not {box.width}x{box.height}, as the crop {self.crop} needs"
        if not any(fits):
            raise UserError(f"none of {len(bad)} images of {self.description} can be used ({what}): choose another "
                            "--crop")
        self.left_out[what] = len(bad)
        self.warnings.append(f"left out {len(bad)} images of {self.description}, {what}: {named}")
        self.indices = self.indices[fits]
        self.n = len(self.indices)
        return [look for look, fit in zip(looks, fits) if fit]

    @cached_property
    def content_hash(self) -> str:  # type: ignore[override]
        """Of the files' bytes in order (or the pixels of arrays), and of how they are brought to one size."""
        # arrays that are square already are not cropped: the same pixels from elsewhere have the same hash
        crop = "" if self.at_hand and self.crop == "centre" else self.crop
        return digest(*self._looks, *(("native",) if self.native else (self.written_side, self.channels, crop)))

    def _batches(self, size: int) -> Iterator[Tensor]:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # Pillow decodes outside Python's lock
            for start in range(0, self.n, size):
                images = list(pool.map(self._decode, self.indices[start:start + size]))
                for _, alike in groupby(images, key=lambda image: image.shape):
                    yield torch.from_numpy(np.stack(list(alike)))

    def _decode(self, index: int) -> np.ndarray:
        try:
            if self.native:
                picture = self.source.picture(int(index))
                picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
                return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
            return sized(self.source.picture(int(index)), self._size, self.channels, crop=self.crop, box=self._box,
                         pad=self.source.pad, smooth=self.source.smooth)
        except Unreadable as error:
            raise UserError(f"cannot decode {shown(self.source.names[index])} of {self.description} ({error}): replace "
                            "the file, or leave such files out with --skip-bad") from None


def _look_at(source: Source, index: int, whole: bool) -> tuple[Header, str] | str:
    """Header and digest of one image, or why it cannot be read. whole: decode it, too."""
    try:
        data = source.encoded(index)
        # a whole decoding only where it is asked for, or where there is no file to look at
        picture = source.picture(index) if whole or data is None else None
        if data is None:
            assert picture is not None
            pixels = np.asarray(picture)
            return Header(pixels.shape[1], pixels.shape[0], pixels.ndim == 3, False), array_digest(pixels)
        data = file_bytes(data) if isinstance(data, Path) else data
        found = header(data)
        if isinstance(picture, Image.Image):  # turned, as it will be cut
            found = found._replace(width=picture.width, height=picture.height)
        return found, hashlib.sha256(data).hexdigest()
    except (Unreadable, OSError, MemoryError) as error:
        return " ".join(str(error).split())
