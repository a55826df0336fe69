"""A plain NumPy SWD to the letter, slow and clear, and the synthetic sets of the golden numbers."""

import numpy as np
from scipy import ndimage

KERNEL = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]).astype(np.float32) / 256


def down(x):
    return ndimage.convolve(x, KERNEL[None, None], mode="mirror")[:, :, ::2, ::2]


def up(x):
    stuffed = np.zeros((*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]), np.float32)
    stuffed[:, :, ::2, ::2] = x
    return ndimage.convolve(stuffed, 4 * KERNEL[None, None], mode="mirror")


def pyramid(images, min_side=16):
    levels = [images.astype(np.float32)]
    while levels[-1].shape[-1] >= 2 * min_side:
        levels.append(down(levels[-1]))
        levels[-2] -= up(levels[-1])
    return levels


def patches(level, columns, rows, size=7):
    """(images * k, channels, columns, rows): patch j comes from image j // k; columns and rows are centres."""
    image = np.arange(len(columns)) // (len(columns) // len(level))
    offset = np.arange(size) - size // 2
    return level[image[:, None, None, None], np.arange(level.shape[1])[None, :, None, None],
                 rows[:, None, None, None] + offset[None, None, None, :],
                 columns[:, None, None, None] + offset[None, None, :, None]]


def normalised(descriptors):
    mean = descriptors.mean(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    deviation = descriptors.std(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    return ((descriptors - mean) / deviation).astype(np.float32).reshape(len(descriptors), -1)


def distance(a, b, directions):
    """a, b: (n, d); directions: (d, k)."""
    return np.abs(np.sort(a @ directions, axis=0) - np.sort(b @ directions, axis=0)).mean()


def swd(real, fake, draws, repeats=4, block=8):
    """x 1e3 by side, on the given draws (see ganbench.metrics.maths.sliced_wasserstein.Draws)."""
    levels = []
    for which, images in enumerate((real, fake)):
        if images.shape[1] == 1:
            images = np.repeat(images, 3, axis=1)
        found = []
        for level in pyramid(images):
            centres = np.concatenate([draws.positions(which, level.shape[-1], start // block,
                                                      len(level[start:start + block]))
                                      for start in range(0, len(level), block)]).reshape(-1, 2)
            found.append((level.shape[-1], normalised(patches(level, centres[:, 0], centres[:, 1]))))
        levels.append(found)
    return {side: 1000 * np.mean([distance(a, b, draws.directions(side, r).T) for r in range(repeats)])
            for (side, a), (_, b) in zip(*levels)}


class LegacyDraws:
    """The exact stream of the golden numbers: everything from one RandomState, consumed set by set, batch by batch."""

    def __init__(self, seed, n, batch, sides, block=8, count=128):
        state = np.random.RandomState(seed)
        self.block, self.centres, self.drawn = block, {}, {}
        for which in (0, 1):
            found = {side: [] for side in sides}
            for start in range(0, n, batch):
                size = min(batch, n - start)
                for side in sides:
                    columns = state.randint(3, side - 3, size=(128 * size, 1, 1, 1))
                    rows = state.randint(3, side - 3, size=(128 * size, 1, 1, 1))
                    found[side].append(np.stack([columns.reshape(size, 128), rows.reshape(size, 128)], -1))
            for side in sides:
                self.centres[which, side] = np.concatenate(found[side])
        for side in sides:
            for repeat in range(4):
                d = state.randn(147, count)
                self.drawn[side, repeat] = (d / np.sqrt((d * d).sum(0, keepdims=True))).astype(np.float32).T.copy()

    def positions(self, which, side, block, images):
        return self.centres[which, side][block * self.block:block * self.block + images]

    def directions(self, side, repeat):
        return self.drawn[side, repeat]


# --- the synthetic sets ---------------------------------------------------------------------------------------------

def octave_noise(seed, n, size, amplitudes, mix):
    rs = np.random.RandomState(seed)
    low, mid = rs.randn(n, 3, size // 8, size // 8), rs.randn(n, 3, size // 4, size // 4)
    high = rs.randn(n, 3, size, size)

    def smooth(x, factor):
        x = x.repeat(factor, -2).repeat(factor, -1)
        for axis in (-2, -1):
            x = 0.25 * np.roll(x, 1, axis) + 0.5 * x + 0.25 * np.roll(x, -1, axis)
        return x

    a, b, c = amplitudes
    x = a * smooth(low, 8) + b * smooth(mid, 4) + c * high
    x[:, 1] = mix * x[:, 0] + (1 - mix) * x[:, 1]
    return np.clip(np.rint(127.5 + x), 0, 255).astype(np.uint8)


def affine_bytes(images, gains, offsets):
    shape = (1, 3, 1, 1)
    return np.clip(np.rint(images * np.reshape(gains, shape) + np.reshape(offsets, shape)), 0, 255).astype(np.uint8)


def formula_image(size, p, q, r):
    c, y, x = np.meshgrid(np.arange(3), np.arange(size), np.arange(size), indexing="ij")
    return ((c * 37 + y * p + x * q + ((x * y * 3 + r) % 17) * 5) % 256).astype(np.uint8)


def formula_matrix(rows, columns, p, q):
    i, j = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    return (((i * p + j * q + i * j) % 101) / 50 - 1).astype(np.float32)
