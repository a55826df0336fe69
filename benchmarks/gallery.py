"""Samples of several runs on one labelled sheet, as in the README.

    python benchmarks/gallery.py docs/pictures/zoo-fashion-short.png runs/zoo-fashion-short/*-s0-*

One block a run: 24 images of seed 0, not chosen.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import ganbench
from ganbench.pictures.grids import save_png, tile

BLOCKS, COLUMNS, IMAGES, HEAD, GAP = 3, 8, 24, 20, 10  # blocks in a row, images in a block's row, images; pixels


def main() -> None:
    """Draw the sheet."""
    place, folders = sys.argv[1], sorted(Path(folder) for folder in sys.argv[2:])
    blocks = [block(folder) for folder in folders if (folder / "checkpoints").is_dir()]
    height, width = blocks[0].shape[:2]
    rows = -(-len(blocks) // BLOCKS)
    sheet = np.full((rows * (height + GAP), BLOCKS * (width + GAP), 3), 255, np.uint8)
    for index, one in enumerate(blocks):
        top, left = index // BLOCKS * (height + GAP), index % BLOCKS * (width + GAP)
        sheet[top:top + height, left:left + width] = one
    print(save_png(sheet, place))


def block(folder: Path) -> np.ndarray:
    """A run's samples under its name, uint8 (H,W,3)."""
    run = ganbench.load_run(folder)
    picture = tile(run.sample(IMAGES), columns=COLUMNS)
    if picture.ndim == 2 or picture.shape[-1] == 1:
        picture = np.repeat(picture.reshape(*picture.shape[:2], 1), 3, axis=-1)
    head = Image.new("RGB", (picture.shape[1], HEAD), "white")
    ImageDraw.Draw(head).text((2, 2), f"{run.config['family']} ({run.config['preset']})", "black",
                              font=ImageFont.load_default(13))
    return np.concatenate([np.asarray(head), picture])


if __name__ == "__main__":
    main()
