"""Batches from a store: shuffled by seed, endless, resumable to the exact batch, scaled and mirrored on the device."""

import math
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import compress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganbench.data.store import Store
from ganbench.errors import UserError
from ganbench.family import Batch
from ganbench.random import Random, derived_seed

UPLOAD_BYTES = 1 << 28  # of a level that go to the GPU at once
RESIDENT_SHARE = 0.5  # a level is kept on the GPU if it takes at most this share of the free memory


class Stream:
    """Draws batches without end: each epoch a new permutation of all images, a batch may reach over its border.

    Args:
        store: where the images are. seed: of order and mirroring. device: where batches are put.
        mirror: flip each image left-right with probability 1/2; None: as the data set says.
        rank, world: this process's place; all processes draw the same batch and each takes its share.
        limit: draw from so many images only, the same for every seed; 0 = from all.

    Attributes:
        chosen: which images are drawn, int64, in the store's order.
    """

    def __init__(self, store: Store, seed: int, device: torch.device | str = "cpu", mirror: bool | None = None,
                 rank: int = 0, world: int = 1, limit: int = 0):
        self.store, self.seed, self.device = store, seed, _numbered(torch.device(device))
        self.mirror = store.mirror if mirror is None else mirror
        self.rank, self.world = rank, world
        self.chosen = chosen_images(store.n, limit)
        self.images = 0  # drawn so far, over all processes
        self.coins = Random(derived_seed(seed, "mirror"), self.device, rank, world)
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))  # epoch and its permutation
        self._resident: tuple[int, Tensor] | None = None  # side and the whole level on the device
        self._decided: dict[int, bool] = {}
        self._floats = _Recycled()
        self._bytes = torch.empty(0, dtype=torch.uint8)  # where a batch on the CPU is assembled
        # A thread begins on the first GPU: by default it would pin memory for that one.
        self._reader = (ThreadPoolExecutor(1, initializer=torch.cuda.set_device, initargs=(self.device,))
                        if self.device.type == "cuda" else None)
        self._ahead: tuple[tuple[int, int, int], Future[Tensor]] | None = None

    def next(self, side: int, batch: int) -> Batch:
        """This process's share of the next batch, at this side: float32 (B,C,side,side) in [-1,1], labels int64 (B,).
        """
        if batch % self.world:
            raise UserError(f"batch {batch} does not divide by {self.world} processes")
        mine = self._share(self.images, batch)
        pixels = self._pixels(side, batch, mine)
        labels = None
        if self.store.labels is not None:
            labels = torch.from_numpy(self.store.labels[mine]).to(self.device)
        self.images += batch
        if self.mirror:  # as bytes: a quarter of the work
            pixels = _mirrored(pixels, self.coins.uniform(len(mine)) < 0.5)
        if pixels.device.type == "cpu":
            images = self._floats.empty(pixels.shape)
        else:
            images = torch.empty_like(pixels, dtype=torch.float32)
        return Batch(images.copy_(pixels).div_(127.5).sub_(1), labels)

    def first(self, side: int, n: int) -> Tensor:
        """The first n images of the first epoch, or all, as they are stored: float32 (n,C,side,side) in [-1,1], for
        every process the same. Draws nothing. Stores are often sorted by class: their own beginning is no sample.
        """
        pixels = self.store.level(side)[self._permutation(0)[:n]]
        return torch.from_numpy(pixels).to(self.device).float() / 127.5 - 1

    def state(self) -> dict[str, dict[str, Any]]:
        """The position, as JSON and tensors."""
        return {"json": {"images": self.images, "seed": self.seed, "content_hash": self.store.content_hash},
                "tensors": {"mirror": self.coins.state()}}

    def restore(self, state: dict[str, dict[str, Any]]) -> None:
        """Go on exactly where `state` was taken."""
        position = state["json"]
        if position["content_hash"] != self.store.content_hash:
            raise UserError(f"the images in {self.store.path} are not those that the checkpoint was made with (their "
                            "content hash differs): bring back the old ones, or start anew")
        self.images, self.seed = position["images"], position["seed"]
        self.coins.restore(state["tensors"]["mirror"])
        self._order, self._ahead = (-1, np.empty(0, np.int64)), None

    def _share(self, start: int, batch: int) -> np.ndarray:
        """Indices of this process's part of the batch that begins at image number `start`."""
        size = batch // self.world
        first = start + self.rank * size
        picked, position = [], first
        while position < first + size:
            epoch, offset = divmod(position, len(self.chosen))
            take = min(first + size - position, len(self.chosen) - offset)
            picked.append(self._permutation(epoch)[offset:offset + take])
            position += take
        return np.concatenate(picked)

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._order[0] != epoch:
            chooser = torch.Generator().manual_seed(derived_seed(self.seed, "order", epoch))
            self._order = (epoch, self.chosen[torch.randperm(len(self.chosen), generator=chooser).numpy()])
        return self._order[1]

    def _pixels(self, side: int, batch: int, mine: np.ndarray) -> Tensor:
        """uint8 pixels on the device: from the level kept there, or read ahead, or read now."""
        if self._keeps(side):
            if self._resident is None or self._resident[0] != side:
                self._resident = None  # free the former level first
                self._resident = (side, _uploaded(self.store.level(side), self.device))
            return self._resident[1][torch.from_numpy(mine).to(self.device)]
        if self._reader is None:
            shape = (len(mine), *self.store.shape_at(side))
            if self._bytes.shape != shape:
                self._bytes = torch.empty(shape, dtype=torch.uint8)
            return self._read(side, mine, self._bytes).to(self.device)
        wanted = (self.images, side, batch)
        pixels = self._ahead[1].result() if self._ahead and self._ahead[0] == wanted else self._pinned(side, mine)
        following = self._share(self.images + batch, batch)
        self._ahead = ((self.images + batch, side, batch), self._reader.submit(self._pinned, side, following))
        return pixels.to(self.device, non_blocking=True)

    def _keeps(self, side: int) -> bool:
        if self.device.type != "cuda":
            return False  # the page cache does it
        if side not in self._decided:
            size = self.store.n * math.prod(self.store.shape_at(side))
            self._decided[side] = size <= RESIDENT_SHARE * torch.cuda.mem_get_info(self.device)[0]
        return self._decided[side]

    def _pinned(self, side: int, indices: np.ndarray) -> Tensor:
        return self._read(side, indices, torch.empty((len(indices), *self.store.shape_at(side)), dtype=torch.uint8,
                                                     pin_memory=True))

    def _read(self, side: int, indices: np.ndarray, into: Tensor) -> Tensor:
        level, out = self.store.level(side), into.numpy()
        for place in np.argsort(indices, kind="stable"):  # reading in the order of the file is kinder to the disk
            out[place] = level[indices[place]]
        return into


def chosen_images(n: int, limit: int = 0) -> np.ndarray:
    """Which `limit` of n images are used, sorted int64: drawn without replacement, the same for every seed; 0 = all.

    A smaller choice is part of a larger one. Raises UserError for more than there are.
    """
    if limit > n:
        raise UserError(f"train_images = {limit} of {n} images: choose at most {n}, or 0 for all")
    if not limit:
        return np.arange(n)
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(derived_seed(0, "chosen images")))
    return np.sort(drawn[:limit].numpy())


def _numbered(device: torch.device) -> torch.device:
    """A GPU with its number, which other threads need to find the same one."""
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _mirrored(pixels: Tensor, flip: Tensor) -> Tensor:
    """Images (B,C,S,S) with those that `flip` (B,) marks turned left-right. On the CPU in place."""
    if pixels.device.type != "cpu":
        return torch.where(flip.view(-1, 1, 1, 1), pixels.flip(3), pixels)
    for image in compress(pixels.numpy(), flip.tolist()):
        if image.shape[-1] % 8:
            image[...] = image[..., ::-1].copy()
        else:  # eight bytes at a time; PyTorch would wake its threads for every image
            image[...] = image.view(np.uint64)[..., ::-1].byteswap().view(np.uint8)
    return pixels


class _Recycled:
    """float32 memory that is used again once nobody holds the tensor, or a view of it, that was made of it.

    Memory fresh from the system is touched page by page; that takes about as long as all the rest of a batch.
    """

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []

    def empty(self, shape: tuple[int, ...]) -> Tensor:
        """Uninitialised, on the CPU."""
        size = math.prod(shape)
        memory = self._free.pop() if self._free else np.empty(size, np.float32)
        if memory.size != size:  # of another side or batch
            self._free.clear()
            memory = np.empty(size, np.float32)
        array = memory.reshape(shape)
        weakref.finalize(array, self._return, memory).atexit = False  # the tensor's storage holds `array`
        return torch.from_numpy(array)

    def _return(self, memory: np.ndarray) -> None:
        if len(self._free) < 2:  # one batch in use while the next is made; more are held by few
            self._free.append(memory)


def _uploaded(level: np.ndarray, device: torch.device) -> Tensor:
    """A whole level on the device, without a second copy of it in main memory."""
    pixels = torch.empty(level.shape, dtype=torch.uint8, device=device)
    part = max(1, UPLOAD_BYTES // max(1, level[:1].nbytes))
    for start in range(0, len(level), part):
        pixels[start:start + part] = torch.from_numpy(np.array(level[start:start + part]))
    return pixels
