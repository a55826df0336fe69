"""An image's side as people write it: 64 of squares, "64x96" (height x width) of others. Knows nothing of torch."""

from collections.abc import Mapping
from typing import Any

from ganbench.errors import UserError


def parse_side(side: int | str) -> tuple[int, int]:
    """Height and width of a side as it is written: 64, "64" or "64x96". Raises UserError for anything else.

    Examples:
        >>> parse_side("64x96")
        (64, 96)
    """
    parts = str(side).lower().replace("\N{MULTIPLICATION SIGN}", "x").split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and int(part) for part in map(str.strip, parts)):
        raise UserError(f"side {side} is no size: write --side 64 for squares, --side 64x96 for height x width")
    return int(parts[0]), int(parts[-1])


def write_side(height: int, width: int) -> int | str:
    """A side as it is recorded: 64 of squares, "64x96" of others."""
    return height if height == width else f"{height}x{width}"


def side_of(images: Mapping[str, Any]) -> Any:
    """The side of a results row's or a config.json's images, as --side takes it; None where the row has none."""
    return write_side(images["side"], images.get("width") or images["side"])


def side_or_none(side: int | str | None) -> int | str | None:
    """What was given as --side, checked, as it is recorded."""
    return None if side in (None, "") else write_side(*parse_side(side))  # type: ignore[arg-type]
