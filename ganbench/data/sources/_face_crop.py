"""How CelebA-HQ's images are cut out of CelebA in the wild (Karras et al. 2018, arXiv 1710.10196, appendix C).

The published images also went through two networks that removed JPEG artefacts and enlarged the picture; the authors
gave out their effect as differences, not the networks. Without those differences this is the same face, in the same
place, enlarged by Lanczos instead: softer, with the JPEG's blocks.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE = 1024
OVERSAMPLING = 4  # the face is first drawn at 4096


class Face(NamedTuple):
    """Where the face lies, in pixels of the original image.

    quad: float64 (4,2), the corners upper left, lower left, lower right, upper right. zoom: how much it gets enlarged.
    """

    quad: np.ndarray
    zoom: float


def find_face(landmarks: np.ndarray) -> Face:
    """The oriented square from five landmarks, (5,2) x,y: eyes, nose, corners of the mouth."""
    points = np.asarray(landmarks, dtype=np.float64) + 0.5  # to pixel centres
    eye, mouth = (points[0] + points[1]) / 2, (points[3] + points[4]) / 2
    across, down = points[1] - points[0], mouth - eye
    x = across - _turned(down)
    x *= max(2.0 * np.hypot(*across), 1.8 * np.hypot(*down)) / np.hypot(*x)
    y = _turned(x)
    centre = eye + 0.1 * down
    quad = np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])
    return Face(quad, SIDE / (2 * np.hypot(*x)))


def cut_out(image: Image.Image, landmarks: np.ndarray) -> Image.Image:
    """The face as an RGB image of 1024x1024.

    Args: image: the whole photograph, RGB. landmarks: (5,2) x,y in its pixels.
    Raises: ValueError where the landmarks lie in one point.
    """
    quad, zoom = find_face(landmarks)
    if not np.isfinite(quad).all() or not np.isfinite(zoom):
        raise ValueError("the landmarks do not span a face")
    image, quad, zoom = shrunk(image, quad, zoom)
    image, quad, border = cropped(image, quad, zoom)
    image, quad, zoom = enlarged(image, quad, zoom)
    image, quad = padded(image, quad, zoom, border)
    big = SIDE * OVERSAMPLING
    corners = tuple((quad + 0.5).flatten())
    return image.transform((big, big), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR).resize(
        (SIDE, SIDE), Image.Resampling.LANCZOS)


def shrunk(image: Image.Image, quad: np.ndarray, zoom: float) -> tuple[Image.Image, np.ndarray, float]:
    """A face much larger than 1024 is brought down by a whole factor first."""
    factor = int(np.floor(0.5 / zoom))
    if factor <= 1:
        return image, quad, zoom
    size = (round(image.width / factor), round(image.height / factor))
    return image.resize(size, Image.Resampling.LANCZOS), quad / factor, zoom * factor


def cropped(image: Image.Image, quad: np.ndarray, zoom: float) -> tuple[Image.Image, np.ndarray, int]:
    """What lies far outside the quad is left off. Also returns the border kept around it, in pixels."""
    border = max(round(SIDE * 0.1 / zoom), 3)
    low, high = np.floor(quad.min(0)).astype(int) - border, np.ceil(quad.max(0)).astype(int) + border
    box = (max(int(low[0]), 0), max(int(low[1]), 0), min(int(high[0]), image.width), min(int(high[1]), image.height))
    if box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError("the landmarks lie outside the image")
    if box[2] - box[0] < image.width or box[3] - box[1] < image.height:
        return image.crop(box), quad - np.array(box[:2]), border
    return image, quad, border


def enlarged(image: Image.Image, quad: np.ndarray, zoom: float) -> tuple[Image.Image, np.ndarray, float]:
    """Stands where the super-resolution network stood: Lanczos, by a power of two."""
    factor = int(2 ** np.ceil(np.log2(zoom)))
    if factor <= 1:
        return image, quad, zoom
    size = (image.width * factor, image.height * factor)
    return image.resize(size, Image.Resampling.LANCZOS), quad * factor, zoom / factor


def padded(image: Image.Image, quad: np.ndarray, zoom: float, border: int) -> tuple[Image.Image, np.ndarray]:
    """Where the quad sticks out, the image is mirrored outwards, and that is blurred, then faded to its median."""
    from scipy.ndimage import gaussian_filter
    out = [*(border - np.floor(quad.min(0))), *(np.ceil(quad.max(0)) - image.size + border)]
    pads = np.maximum(np.array(out, dtype=int), 0)  # left, top, right, bottom
    if pads.max() <= border - 4:
        return image, quad
    left, top, right, bottom = (int(p) for p in np.maximum(pads, round(SIDE * 0.3 / zoom)))
    pixels = np.pad(np.asarray(image, dtype=np.float32), ((top, bottom), (left, right), (0, 0)), "reflect")
    mask = fade(pixels.shape[0], pixels.shape[1], left, top, right, bottom)[..., None]
    blur = SIDE * 0.02 / zoom
    pixels += (gaussian_filter(pixels, (blur, blur, 0)) - pixels) * np.clip(3 * mask + 1, 0, 1)
    pixels += (np.median(pixels, axis=(0, 1)) - pixels) * np.clip(mask, 0, 1)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8)), quad + np.array([left, top])


def fade(height: int, width: int, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """float32 (height,width): 1 at the outer edge, 0 where the padding ends, negative inside."""
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    across = np.minimum(x / left, x[::-1] / right)
    down = np.minimum(y / top, y[::-1] / bottom)
    return 1 - np.minimum(across[None, :], down[:, None])


def _turned(v: np.ndarray) -> np.ndarray:
    return np.array([-v[1], v[0]])
