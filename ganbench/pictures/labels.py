"""Enlarged pictures with a margin that says what rows and columns are, and films of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ganbench.errors import UserError
from ganbench.files import atomic_file

LEAST = 640  # pixels that the longer side of an enlarged picture has at least
TEXT = 14  # height of letters, pixels
PAD = 6


@dataclass(frozen=True)
class Labels:
    """What a picture's rows and columns are, one text each or none at all, and a line above all."""

    caption: str = ""
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()


def enlarged(picture: np.ndarray, least: int = LEAST) -> np.ndarray:
    """Enlarge a picture (H,W,3) by the whole factor that makes its longer side at least so many pixels."""
    factor = max(1, -(-least // max(picture.shape[:2])))
    return picture.repeat(factor, 0).repeat(factor, 1)


def labelled(picture: np.ndarray, labels: Labels) -> np.ndarray:
    """A picture (H,W,3) uint8 of equally large rows and columns, on white, with its labels in the margins."""
    font = ImageFont.load_default(TEXT)
    line = TEXT + 2 * PAD
    left = max((int(font.getlength(text)) + 2 * PAD for text in labels.rows), default=0)
    top = line * (bool(labels.caption) + bool(labels.columns))
    height, width = picture.shape[:2]
    page = Image.new("RGB", (max(left + width, int(font.getlength(labels.caption)) + 2 * PAD), top + height), "white")
    page.paste(Image.fromarray(picture), (left, top))
    draw = ImageDraw.Draw(page)
    if labels.caption:
        draw.text((PAD, line / 2), labels.caption, "black", font, anchor="lm")
    for i, text in enumerate(labels.columns):
        draw.text((left + (i + 0.5) * width / len(labels.columns), top - line / 2), text, "black", font, anchor="mm")
    for i, text in enumerate(labels.rows):
        draw.text((left - PAD, top + (i + 0.5) * height / len(labels.rows)), text, "black", font, anchor="rm")
    return np.asarray(page)


def write_video(frames: Iterable[np.ndarray], path: str | Path, *, rate: int) -> Path:
    """Write frames (H,W,3) uint8, all of one size, as an H.264 film of `rate` frames a second, whole or not at all.

    Raises UserError if the optional imageio-ffmpeg is not installed or the file cannot be written.
    """
    try:
        import imageio_ffmpeg
    except ImportError:
        raise UserError("films need imageio-ffmpeg: pip install 'ganbench[video]'") from None
    path, writer = Path(path), None
    with atomic_file(path, remedy="choose another with --out") as scratch:
        film = scratch.with_name(f"{scratch.name}.mp4")  # its ending tells the encoder what to write
        try:
            for frame in frames:
                # the usual players want even sizes
                frame = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
                if writer is None:
                    size = (frame.shape[1], frame.shape[0])
                    writer = imageio_ffmpeg.write_frames(str(film), size, fps=rate, macro_block_size=2, quality=8)
                    writer.send(None)
                writer.send(np.ascontiguousarray(frame))
            if writer is not None:
                writer.close()
            film.rename(scratch)
        finally:
            film.unlink(missing_ok=True)
    return path
