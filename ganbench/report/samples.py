"""Pictures made from a run's sample grids: the same latents through training, and samples beside their nearest
reals."""

import json

import numpy as np
import torch

from ganbench.files import cache_dir
from ganbench.pictures.grids import evenly, tile
from ganbench.report.folders import RunFolder, kimg_of, opened

COLUMNS, GAP = 8, 2  # how training lays out its grids
MOMENTS, ROWS = 8, 4  # pictures through training, and rows of latents in each
QUERIES, NEAREST = 8, 3  # columns and rows of reals of a picture of neighbours
SEARCH_SIDE = 32  # distances are taken at this side at most
CHUNK = 4096


def tiles(picture: np.ndarray, side: int, width: int = 0) -> np.ndarray | None:
    """A grid's images, uint8 (n,side,width,3), from the picture (H,W,3), which may be enlarged by whole pixels.

    None for a picture that is no grid of that size. width: 0 = the side.
    """
    width = width or side
    down, right = side + GAP, width + GAP
    factor, rest = divmod(picture.shape[1], COLUMNS * right - GAP)
    if factor < 1 or rest or (picture.shape[0] // factor + GAP) % down:
        return None
    small = picture[::factor, ::factor]
    rows = (small.shape[0] + GAP) // down
    return np.stack([small[y * down:y * down + side, x * right:x * right + width] for y in range(rows)
                     for x in range(COLUMNS)])


def moments(folder: RunFolder) -> list[tuple[float | None, np.ndarray]]:
    """The same latents through training: thousands of images shown, and a picture of the first grid rows, at evenly
    spread moments from the first to the last. A picture that is no grid is taken whole."""
    found = []
    for path in evenly(folder.grids, MOMENTS):
        picture = opened(path)
        data = folder.config["dataset"]
        images = tiles(picture, data["side"], data.get("width", 0))
        if images is not None:
            picture = _sheet(images[:ROWS * COLUMNS], COLUMNS)
        found.append((kimg_of(path), picture))
    return found


def beside_reals(folder: RunFolder) -> tuple[np.ndarray, str] | None:
    """Samples (top row), each above the training images nearest to it. None where the images are not on this
    machine."""
    data = folder.config["dataset"]
    if data.get("width") or data.get("channels", 3) not in (1, 3):
        return None  # compared by what a grid shows, at one side
    pixels = _training_images(data.get("content_hash", ""))
    samples = tiles(opened(folder.grids[-1]), data["side"]) if folder.grids else None
    if samples is None or pixels is None:
        return None
    coarse, fine = pixels
    samples = samples[:QUERIES]
    found = nearest_real(_shrunk(samples, coarse.shape[-1]), coarse, mirror=bool(data.get("mirror")))
    reals = fine[found.T.flatten()].transpose(0, 2, 3, 1)  # a row of the nearest, a row of the second nearest, ...
    reals = np.broadcast_to(reals, (*reals.shape[:3], 3))
    caption = (f"top: generated; below each the {NEAREST} nearest of {len(coarse):,} training images "
               f"(Euclidean, pixels at {coarse.shape[-1]}×{coarse.shape[-1]})")
    return _sheet(np.concatenate([samples, reals]), len(samples)), caption


def nearest_real(queries: np.ndarray, reals: np.ndarray, *, k: int = NEAREST, mirror: bool = False) -> np.ndarray:
    """Indices (Q,k) of the real images nearest to each query, nearest first.

    Args:
        queries: uint8 or float (Q,s,s,3). reals: uint8 (N,C,s,s), C 1 or 3. mirror: a mirrored image counts as itself.
    """
    channels = reals.shape[1]
    wanted = queries.astype(np.float32)
    wanted = wanted.transpose(0, 3, 1, 2) if channels == 3 else wanted.mean(3)[:, None]
    views = [wanted, wanted[..., ::-1]] if mirror else [wanted]
    flat = np.stack([v.reshape(len(v), -1) for v in views])
    distances = np.empty((len(queries), len(reals)), np.float32)
    for start in range(0, len(reals), CHUNK):
        part = np.asarray(reals[start:start + CHUNK], np.float32).reshape(-1, flat.shape[-1])
        lengths = np.einsum("nd,nd->n", part, part)
        distances[:, start:start + len(part)] = (lengths - 2 * (flat @ part.T)).min(0)
    # float32 sums may swap near ties: the front runners are measured again
    front = np.sort(np.argsort(distances, axis=1)[:, :16 + k], axis=1)
    part = np.stack([reals[row] for row in front]).reshape(*front.shape, -1).astype(np.float64)
    exact = np.square(part - flat.astype(np.float64)[:, :, None]).sum(-1).min(0)
    return np.take_along_axis(front, np.argsort(exact, axis=1, kind="stable")[:, :k], axis=1)


def _training_images(content_hash: str) -> tuple[np.ndarray, np.ndarray] | None:
    """A prepared store's level to search in and its full one (memory-mapped), found by the content of its
    images; nothing is prepared for a page."""
    from ganbench.data.store import FORMAT, Store
    for path in sorted((cache_dir() / "stores").glob("*/manifest.json")):
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            continue  # somebody else's trouble: `ganbench data verify` names it
        if content_hash and manifest.get("content_hash") == content_hash and manifest.get("format") == FORMAT:
            store = Store(path.parent)
            coarse = max((level for level in store.levels if level <= SEARCH_SIDE), default=store.levels[0])
            return store.level(coarse), store.level(store.side)
    return None


def _shrunk(images: np.ndarray, side: int) -> np.ndarray:
    """Box-averaged to `side`, float32."""
    n, factor = len(images), images.shape[1] // side
    return images.reshape(n, side, factor, side, factor, 3).mean((2, 4), dtype=np.float32)


def _sheet(images: np.ndarray, columns: int) -> np.ndarray:
    """Images (N,s,s,3) uint8 in one picture, row by row."""
    return tile(torch.from_numpy(images).permute(0, 3, 1, 2), columns, GAP)
