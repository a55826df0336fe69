"""Batches from a store: shuffled by seed, endless, resumable to the exact batch, scaled and mirrored on the device."""

from concurrent.futures import Future, ThreadPoolExecutor
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
    """

    def __init__(self, store: Store, seed: int, device: torch.device | str = "cpu", mirror: bool | None = None,
                 rank: int = 0, world: int = 1):
        self.store, self.seed, self.device = store, seed, _numbered(torch.device(device))
        self.mirror = store.mirror if mirror is None else mirror
        self.rank, self.world = rank, world
        self.images = 0  # drawn so far, over all processes
        self.coins = Random(derived_seed(seed, "mirror"), self.device, rank, world)
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))  # epoch and its permutation
        self._resident: tuple[int, Tensor] | None = None  # side and the whole level on the device
        self._decided: dict[int, bool] = {}
        # A thread begins on the first GPU: without being told otherwise it would pin memory for that one.
        self._reader = (ThreadPoolExecutor(1, initializer=torch.cuda.set_device, initargs=(self.device,))
                        if self.device.type == "cuda" else None)
        self._ahead: tuple[tuple[int, int, int], Future[Tensor]] | None = None

    def next(self, side: int, batch: int) -> Batch:
        """This process's share of the next batch, at this side: float32 (B,C,side,side) in [-1,1], labels int64 (B,)."""
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
        return Batch(pixels.to(torch.float32).div_(127.5).sub_(1), labels)

    def state(self) -> dict[str, dict[str, Any]]:
        """The position, as JSON and tensors."""
        return {"json": {"images": self.images, "seed": self.seed, "content_hash": self.store.content_hash},
                "tensors": {"mirror": self.coins.state()}}

    def restore(self, state: dict[str, dict[str, Any]]) -> None:
        """Go on exactly where `state` was taken."""
        position = state["json"]
        if position["content_hash"] != self.store.content_hash:
            raise UserError(f"the images in {self.store.path} are not those that the checkpoint was made with (their content "
                            "hash differs): bring back the old ones, or start anew")
        self.images, self.seed = position["images"], position["seed"]
        self.coins.restore(state["tensors"]["mirror"])
        self._order, self._ahead = (-1, np.empty(0, np.int64)), None

    def _share(self, start: int, batch: int) -> np.ndarray:
        """Indices of this process's part of the batch that begins at image number `start`."""
        size = batch // self.world
        first = start + self.rank * size
        picked, position = [], first
        while position < first + size:
            epoch, offset = divmod(position, self.store.n)
            take = min(first + size - position, self.store.n - offset)
            picked.append(self._permutation(epoch)[offset:offset + take])
            position += take
        return np.concatenate(picked)

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._order[0] != epoch:
            chooser = torch.Generator().manual_seed(derived_seed(self.seed, "order", epoch))
            self._order = (epoch, torch.randperm(self.store.n, generator=chooser).numpy())
        return self._order[1]

    def _pixels(self, side: int, batch: int, mine: np.ndarray) -> Tensor:
        """uint8 pixels on the device: from the level kept there, or read ahead, or read now."""
        if self._keeps(side):
            if self._resident is None or self._resident[0] != side:
                self._resident = None  # free the former level first
                self._resident = (side, _uploaded(self.store.level(side), self.device))
            return self._resident[1][torch.from_numpy(mine).to(self.device)]
        if self._reader is None:
            return self._read(side, mine).to(self.device)
        wanted = (self.images, side, batch)
        pixels = self._ahead[1].result() if self._ahead and self._ahead[0] == wanted else self._read(side, mine)
        following = self._share(self.images + batch, batch)
        self._ahead = ((self.images + batch, side, batch), self._reader.submit(self._read, side, following))
        return pixels.to(self.device, non_blocking=True)

    def _keeps(self, side: int) -> bool:
        if self.device.type != "cuda":
            return False  # the page cache does it
        if side not in self._decided:
            size = self.store.n * self.store.channels * side * side
            self._decided[side] = size <= RESIDENT_SHARE * torch.cuda.mem_get_info(self.device)[0]
        return self._decided[side]

    def _read(self, side: int, indices: np.ndarray) -> Tensor:
        # sorted reading is kinder to the disk; the order is put back afterwards
        order = np.argsort(indices, kind="stable")
        pixels = torch.empty((len(indices), self.store.channels, side, side), dtype=torch.uint8,
                             pin_memory=self.device.type == "cuda")
        pixels.numpy()[order] = self.store.level(side)[indices[order]]
        return pixels


def _numbered(device: torch.device) -> torch.device:
    """A GPU with its number, which other threads need to find the same one."""
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _mirrored(pixels: Tensor, flip: Tensor) -> Tensor:
    """Images (B,C,S,S) with those that `flip` (B,) marks turned left-right. On the CPU in place."""
    if pixels.device.type != "cpu":
        return torch.where(flip.view(-1, 1, 1, 1), pixels.flip(3), pixels)
    # NumPy moves whole images, torch turns rows: the quick way for each (torch.where on bytes takes 20 times as long).
    images, marked = pixels.numpy(), np.flatnonzero(flip.numpy())
    images[marked] = torch.from_numpy(images[marked]).flip(3).numpy()
    return pixels


def _uploaded(level: np.ndarray, device: torch.device) -> Tensor:
    """A whole level on the device, without a second copy of it in main memory."""
    pixels = torch.empty(level.shape, dtype=torch.uint8, device=device)
    part = max(1, UPLOAD_BYTES // max(1, level[:1].nbytes))
    for start in range(0, len(level), part):
        pixels[start:start + part] = torch.from_numpy(np.array(level[start:start + part]))
    return pixels
