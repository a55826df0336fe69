"""FFHQ (Karras, Laine, Aila 2019, arXiv 1812.04948): 70,000 faces at 1024x1024."""

from pathlib import Path

from ganbench.data.places import PlaceSource, open_place
from ganbench.data.source import image_number

TRAIN = 60_000  # faces with numbers below are for training
INSIDE = ("images1024x1024", "thumbnails128x128", "ffhq", "images", "")


class FFHQ(PlaceSource):
    """70,000 faces: images1024x1024 or thumbnails128x128, a folder (with or without its subfolders of 1,000), zip or
    tar.

    Splits: 60,000 for training and 10,000 for testing, as the data set's authors say (numbers below 60,000, and from
    it).
    """

    title = "FFHQ, 70,000 faces of 1024x1024 or 128x128 (Karras et al. 2019)"
    channels = 3
    mirror = True
    aligned_faces = True
    default_side = 256

    def open(self) -> None:
        """Find the files and set what can be known without reading them. Raises MissingData, or UserError."""
        for home in self.homes():
            for path in (home / name for name in INSIDE):
                for candidate in (path, path.with_name(path.name + ".zip"), path.with_name(path.name + ".tar")):
                    if candidate.exists() and self._opens(candidate):
                        return
        raise self.missing("the folder (or zip, or tar) images1024x1024, or thumbnails128x128 for sides up to 128",
                           "https://github.com/NVlabs/ffhq-dataset (python download_ffhq.py --images, or --thumbs)")

    def _opens(self, path: Path) -> bool:
        self.place = open_place(path)
        numbers = {name: number for name in self.place.names if (number := image_number(name)) is not None}
        if not numbers or len(set(numbers.values())) < len(numbers):  # two sizes of the same faces: look deeper
            return False
        found = sorted(numbers, key=numbers.__getitem__)
        part = {"train": range(TRAIN), "test": range(TRAIN, 1 << 62), "all": range(1 << 62)}[self.split]
        self.names = [name for name in found if numbers[name] in part]
        self.own_splits = True
        self.note_left_out(len(found))
        return True
