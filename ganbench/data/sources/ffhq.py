"""FFHQ (Karras, Laine, Aila 2019, arXiv 1812.04948): 70,000 faces at 1024x1024."""

from pathlib import Path

from PIL import Image

from ganbench.data.images import decode
from ganbench.data.places import open_place
from ganbench.data.source import Source

INSIDE = ("images1024x1024", "thumbnails128x128", "ffhq", "images", "")


class FFHQ(Source):
    """70,000 faces: images1024x1024 or thumbnails128x128, a folder (with or without its subfolders of 1,000), zip or tar.

    Splits: 60,000 for training and 10,000 for testing, as the data set's authors say (numbers below 60,000, and from it).
    """

    title = "FFHQ, 70,000 faces of 1024x1024 or 128x128 (Karras et al. 2019)"
    channels = 3
    mirror = True
    default_side = 256

    def open(self) -> None:
        for home in self.homes():
            for path in (home / name for name in INSIDE):
                for candidate in (path, path.with_name(path.name + ".zip"), path.with_name(path.name + ".tar")):
                    if candidate.exists() and self._opens(candidate):
                        return
        raise self.missing("the folder (or zip, or tar) images1024x1024, or thumbnails128x128 for sides up to 128",
                           "https://github.com/NVlabs/ffhq-dataset (python download_ffhq.py --images, or --thumbs)")

    def _opens(self, path: Path) -> bool:
        self.place = open_place(path)
        found = sorted((name for name in self.place.names if Path(name).stem.isdigit()), key=lambda n: int(Path(n).stem))
        if not found or len({Path(name).stem for name in found}) < len(found):  # two sizes of the same faces: look deeper
            return False
        keep = {"train": lambda k: k < 60_000, "test": lambda k: k >= 60_000, "all": lambda k: True}[self.split]
        self.names = [name for name in found if keep(int(Path(name).stem))]
        return True

    def fresh(self) -> None:
        self.place.fresh()

    def read(self, index: int) -> Image.Image:
        return decode(self.place.read(self.names[index]))

    def fingerprint(self) -> str:
        return self.place.fingerprint()
