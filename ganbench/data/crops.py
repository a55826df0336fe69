"""Crops by name, as exact boxes. FIDs across crops are not comparable: the name goes into every row."""

from typing import NamedTuple


class Box(NamedTuple):
    """Pixel box: columns x0..x1-1, rows y0..y1-1 of an image of exactly `width` x `height` (0: any)."""

    x0: int
    y0: int
    x1: int
    y1: int
    width: int = 0
    height: int = 0
    resample: str = "lanczos"  # how it is brought to the side


# For pictures of any size.
GENERIC = {
    "centre": "the largest square in the middle",
    "fit": "the whole picture, squeezed to a square",
    "pad": "the whole picture, in the middle of a black square",
}

# CelebA's aligned images are 178 wide and 218 high.
CELEBA: dict[str, Box] = {
    "c108": Box(35, 55, 143, 163, 178, 218),  # DCGAN practice: centre 108
    "c138": Box(30, 40, 168, 178, 178, 218),  # soumith's DCGAN script, not centred
    "c140": Box(19, 39, 159, 179, 178, 218),  # tensorpack's DCGAN and BEGAN
    "c128b": Box(25, 50, 153, 178, 178, 218, "nearest"),  # carpedm20's BEGAN
    "c128p": Box(25, 57, 153, 185, 178, 218),  # PGGAN: 128 around (89, 121)
    "c160": Box(9, 29, 169, 189, 178, 218, "bilinear"),  # Lucic et al. 2018
    "c178": Box(0, 20, 178, 198, 178, 218),  # full width
}
