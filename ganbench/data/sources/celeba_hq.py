"""CelebA-HQ (Karras, Aila, Laine, Lehtinen 2018, arXiv 1710.10196): 30,000 faces at 1024x1024."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from ganbench.data import tfrecord
from ganbench.data.celeba import PAGE
from ganbench.data.celeba_hq import cut_out
from ganbench.data.images import Unreadable, decode
from ganbench.data.places import Place, open_place
from ganbench.data.source import Source, by_hash
from ganbench.data.sources.celeba_wild import CelebAWild
from ganbench.data.sources.npz import as_images
from ganbench.errors import UserError

FOLDERS = ("", "CelebA-HQ-img", "CelebAMask-HQ/CelebA-HQ-img", "celeba-hq", "celeba_hq", "celebahq", "celeba-1024",
           "celeba_hq_256", "data1024x1024", "images")
ENDINGS = (".png", ".jpg", ".jpeg", ".npy", ".webp")


class CelebAHQ(Source):
    """30,000 faces, whichever way people have them:

    a folder (or zip, tar) of PNG, JPEG or single .npy images; one .npy of all; PGGAN's .tfrecords (celebahq-r10.tfrecords;
    of several levels the largest) or TFDS's celeb_a_hq records; or **made** from CelebA in the wild: a folder with
    img_celeba, list_landmarks_celeba.txt and, to take the 30,000 that were chosen, image_list.txt; the restoration's
    differences (deltaNNNNN.npy, uint8, in a folder deltas) are added where they are. Without them the faces are the same
    but softer. Splits: a fixed tenth of the images, by a hash of their names, is the test split.
    """

    title = "CelebA-HQ, 30,000 faces of 1024x1024 (Karras et al. 2018); also made from CelebA in the wild"
    channels = 3
    mirror = True
    default_side = 256

    def open(self) -> None:
        for home in self.homes():
            for find in (self._records, self._one_array, self._wild, self._pictures):
                if home.exists() and find(home):
                    self.names = [self.every[i] for i in by_hash(self.every, self.split)]
                    return
        raise self.missing("the 30,000 images (a folder such as CelebA-HQ-img, a zip, one .npy, or celebahq-r10.tfrecords)",
                           "https://github.com/switchablenorms/CelebAMask-HQ (CelebAMask-HQ.zip has CelebA-HQ-img) or "
                           "https://github.com/tkarras/progressive_growing_of_gans (how the tfrecords are made); or, to make them "
                           "here, the folder img_celeba (unpacked from img_celeba.7z), list_landmarks_celeba.txt and, for the "
                           f"30,000 that were chosen, image_list.txt, from {PAGE} and that second page")

    def read(self, index: int) -> Image.Image | np.ndarray:
        return self.reader(self.names[index])

    def fresh(self) -> None:
        if self.place is not None:
            self.place.fresh()

    def fingerprint(self) -> str:
        return f"{self.place.fingerprint() if self.place else ''}-{super().fingerprint()}"

    place: Place | None = None

    # --- one file with all of them

    def _records(self, home: Path) -> bool:
        files = [home] if home.is_file() else sorted(home.glob("*.tfrecords")) + sorted(home.glob("*.tfrecord*-of-*"))
        files = [f for f in files if ".tfrecord" in f.name]
        if not files:
            return False
        levels = [int(m[1]) for f in files if (m := re.search(r"-r(\d\d)\.tfrecords$", f.name))]
        if levels:
            files = [f for f in files if f.name.endswith(f"-r{max(levels):02d}.tfrecords")]
        spots = [(file, *spot) for file in files for spot in tfrecord.positions(file)]
        self.spots = {f"{file.name}-{i:05d}": (file, offset, length) for i, (file, offset, length) in enumerate(spots)}
        self.files, self.every, self.reader = files, list(self.spots), self._read_record
        return True

    def _read_record(self, name: str) -> Image.Image | np.ndarray:
        try:
            features = tfrecord.parse_example(tfrecord.read_at(*self.spots[name]))
            if "image" in features:  # TFDS keeps the encoded file
                return decode(bytes(features["image"][0]))
            shape = tuple(features["shape"])
            return np.frombuffer(features["data"][0], np.uint8).reshape(shape).transpose(1, 2, 0)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise Unreadable(f"not an image record ({error})") from None

    def _one_array(self, home: Path) -> bool:
        files = [home] if home.is_file() else sorted(home.glob("*.npy"))
        if len(files) != 1 or files[0].suffix != ".npy":
            return False
        try:
            self.array = np.load(files[0], mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{files[0]} is damaged or not a .npy file ({error}): get it again") from None
        if self.array.ndim != 4 or len(self.array) == 1:
            return False
        self.array = as_images(self.array, str(files[0]))
        self.every = [f"image-{i:05d}" for i in range(len(self.array))]
        self.files, self.reader = files, lambda name: np.asarray(self.array[int(name[6:])])
        return True

    # --- one file each

    def _pictures(self, home: Path) -> bool:
        for folder in (home / f for f in FOLDERS):
            if not folder.exists() or (folder.is_file() and folder.suffix not in (".zip", ".tar")):
                continue
            place = open_place(folder, ENDINGS)
            if place.names and (folder != home or len({str(Path(n).parent) for n in place.names}) == 1):
                self.place, self.every, self.reader = place, place.names, self._read_picture
                return True
        return False

    def _read_picture(self, name: str) -> Image.Image | np.ndarray:
        assert self.place is not None
        data = self.place.read(name)
        return decode(data) if not name.endswith(".npy") else _array(data)

    # --- made from the photographs

    def _wild(self, home: Path) -> bool:
        if not any((home / sub / "img_celeba").exists() for sub in ("", "celeba", "Img")):
            return False
        wild = CelebAWild(str(home), split="all")
        table = wild.table("list_landmarks_celeba")
        if table is None:
            raise self.missing(f"list_landmarks_celeba.txt beside img_celeba in {home}", PAGE)
        self.wild, self.place = wild, wild.place
        self.landmarks = table[1]
        listed = wild.table("image_list")  # idx orig_idx orig_file ...
        numbers = {Path(n).stem: n for n in wild.names}
        if listed is None:
            self.chosen = {n: i for i, n in enumerate(wild.names)}
        else:
            where = {n: i for i, n in enumerate(wild.names)}
            rows = sorted((int(k), row) for k, row in listed[1].items() if k.isdigit())
            lost = [row[1] for _, row in rows if Path(row[1]).stem not in numbers]
            if lost:
                raise UserError(f"image_list.txt names {len(lost)} images that are not in {wild.place.path}, e.g. {lost[0]}")
            self.chosen = {f"{k:05d}": where[numbers[Path(row[1]).stem]] for k, row in rows}
        self.deltas = next((d for d in (home / "deltas", home / "celeba" / "deltas") if d.is_dir()), None)
        if self.deltas is not None and listed is None:
            raise UserError(f"{self.deltas} needs image_list.txt beside it, which says whose differences they are")
        self.files = [*wild.files, *(sorted(self.deltas.glob("*.npy")) if self.deltas else ())]
        self.every, self.reader = list(self.chosen), self._make
        return True

    def _make(self, name: str) -> Image.Image:
        index = self.chosen[name]
        photograph = self.wild.read(index).convert("RGB")
        number = Path(self.wild.names[index]).stem
        row = self.landmarks.get(number)
        if row is None or len(row) != 10:
            raise Unreadable("has no line of ten numbers in list_landmarks_celeba")
        try:
            face = cut_out(photograph, np.array(row, dtype=np.float64).reshape(5, 2))
        except ValueError as error:
            raise Unreadable(str(error)) from None
        if self.deltas is None:
            return face
        delta = _array(self.deltas / f"delta{int(name):05d}.npy")
        return Image.fromarray(np.asarray(face) + delta)  # uint8: wraps modulo 256, as it was made


def _array(data: bytes | Path) -> np.ndarray:
    """One image from a .npy of (H,W,3), (3,H,W) or (1,3,H,W)."""
    import io
    try:
        array = np.load(data if isinstance(data, Path) else io.BytesIO(data), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise Unreadable(f"not a .npy file ({error})") from None
    try:
        return as_images(array if array.ndim == 4 else array[None], "")[0]
    except UserError as error:
        raise Unreadable(str(error).removeprefix(": ")) from None
