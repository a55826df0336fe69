"""Networks that double their maps from a small base up to the images: which base, and which images fit. Square or not.
"""

from ganbench.errors import UserError
from ganbench.family import Family, ImageSpec, short_name
from ganbench.sides import write_side


def doublings(images: ImageSpec) -> int:
    """How often the shorter side of images can be halved down to 4 (of powers of two), or to between 4 and 7."""
    return images.short_side.bit_length() - 3


def base_maps(images: ImageSpec, times: int | None = None) -> tuple[int, int]:
    """Height and width of the maps that, doubled so often (default: `doublings`), are as large as the images."""
    times = doublings(images) if times is None else times
    return images.shape[1] >> times, images.shape[2] >> times


def check_doublings(family: type[Family], images: ImageSpec, times: int) -> None:
    """Raise UserError for images that are not whole maps doubled so often. Channels may be any number."""
    height, width = images.shape[1:]
    if times < 0 or height % (1 << times) or width % (1 << times):
        unit = 1 << max(times, 0)
        nearest = write_side(*(max(1, round(length / unit)) * unit for length in (height, width)))
        raise UserError(f"{short_name(family)} doubles its smallest maps {max(times, 0)} times to {height}x{width}: "
                        f"height and width must divide by {unit}, as --side {nearest}")
