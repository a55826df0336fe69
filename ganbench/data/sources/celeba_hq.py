"""CelebA-HQ (Karras, Aila, Laine, Lehtinen 2018, arXiv 1710.10196): 30,000 faces at 1024x1024."""

import base64
import hashlib
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from ganbench.data import tfrecord
from ganbench.data.images import EXTENSIONS, Unreadable, decode, note_rule
from ganbench.data.places import Place, open_place, refuse_bomb
from ganbench.data.source import Source, by_hash, image_number, refuse_gaps
from ganbench.data.sources._face_crop import SIDE, cut_out
from ganbench.data.sources.celeba import PAGE, read_table
from ganbench.data.sources.celeba_wild import CelebAWild
from ganbench.data.sources.npz import as_images
from ganbench.errors import UserError

FOLDERS = ("", "CelebA-HQ-img", "CelebAMask-HQ/CelebA-HQ-img", "celeba-hq", "celeba_hq", "celebahq", "celeba-1024",
           "celeba_hq_256", "data1024x1024", "images")
ENDINGS = (*EXTENSIONS, ".npy")


class CelebAHQ(Source):
    """30,000 faces, whichever way people have them:

    a folder (or zip, tar) of PNG, JPEG or single .npy images; one .npy of all; PGGAN's .tfrecords
    (celebahq-r10.tfrecords; of several levels the largest) or TFDS's celeb_a_hq records; or **made** from CelebA in the
    wild: a folder with img_celeba, list_landmarks_celeba.txt and, to take the 30,000 that were chosen, image_list.txt;
    the restoration's differences, as they were published (deltas00000.zip ... in a folder deltas, needs the extra
    ganbench[celeba-hq]), are added where they are, and every image's MD5 is held against the published one. Without
    them the faces are the same but softer; without the list they are all faces, and are called celeba-wild-faces.
    Splits: a fixed tenth of the images, by a hash of their names, is the test split.
    """

    title = "CelebA-HQ, 30,000 faces of 1024x1024 (Karras et al. 2018); also made from CelebA in the wild"
    channels = 3
    mirror = True
    aligned_faces = True
    default_side = 256

    def open(self) -> None:
        """Find the files and set what can be known without reading them. Raises MissingData, or UserError."""
        for home in self.homes():
            for find in (self._records, self._one_array, self._wild, self._pictures):
                if home.exists() and find(home):
                    self.names = [self.every[i] for i in by_hash(self.every, self.split)]
                    return
        raise self.missing("the 30,000 images (a folder such as CelebA-HQ-img, a zip, one .npy, or "
                           "celebahq-r10.tfrecords)",
                           "https://github.com/switchablenorms/CelebAMask-HQ (CelebAMask-HQ.zip has CelebA-HQ-img) or "
                           "https://github.com/tkarras/progressive_growing_of_gans (how the tfrecords are made); or, "
                           "to make them here, the folder img_celeba (unpacked from img_celeba.7z), "
                           "list_landmarks_celeba.txt and, for the 30,000 that were chosen, image_list.txt, from "
                           f"{PAGE} and that second page")

    def read(self, index: int) -> Image.Image | np.ndarray:
        """One image as it was published, or made from CelebA by its rules: RGB, 1024x1024."""
        return self.reader(self.names[index])

    def fresh(self) -> None:
        """Forget what a check of the files has kept: they are about to be read again."""
        if self.place is not None:
            self.place.fresh()

    def fingerprint(self) -> str:
        """What changes when the files do, as text."""
        return f"{self.place.fingerprint() if self.place else ''}-{super().fingerprint()}"

    def label(self) -> str:
        """What results rows call this data."""
        return self.made_of or super().label()

    place: Place | None = None
    made_of = ""  # another name, where these are not the 30,000
    sums: dict[str, list[str]] = {}  # published MD5 of each image, without and with its restoration

    # --- one file with all of them

    def _records(self, home: Path) -> bool:
        files = [home] if home.is_file() else sorted(home.glob("*.tfrecords")) + sorted(home.glob("*.tfrecord*-of-*"))
        files = [f for f in files if ".tfrecord" in f.name]
        if not files:
            return False
        if home.is_dir():
            refuse_gaps(files)
        levels = [int(m[1]) for f in files if (m := re.search(r"-r(\d\d)\.tfrecords$", f.name))]
        if levels:
            files = [f for f in files if f.name.endswith(f"-r{max(levels):02d}.tfrecords")]
        spots = [(file, *spot) for file in files for spot in tfrecord.positions(file)]
        self.spots = {f"{file.name}-{i:05d}": (file, offset, length) for i, (file, offset, length) in enumerate(spots)}
        self.files, self.every, self.reader = files, list(self.spots), self._read_record
        self._note_others(home)
        return True

    def _read_record(self, name: str) -> Image.Image | np.ndarray:
        try:
            features = tfrecord.parse_example(tfrecord.read_at(*self.spots[name]))
            if "image" in features:  # TFDS keeps the encoded file
                if not isinstance(features["image"][0], bytes):
                    raise Unreadable("an image record without a picture")
                return decode(features["image"][0])
            shape, data = tuple(features["shape"]), features["data"][0]
            if len(shape) != 3 or shape[0] not in (1, 3) or 0 in shape or not isinstance(data, bytes) \
                    or math.prod(shape) != len(data):
                raise Unreadable(f"an image record of {shape} with {len(data) if isinstance(data, bytes) else 0:,} "
                                 "bytes")
            pixels = np.frombuffer(data, np.uint8).reshape(shape).transpose(1, 2, 0)
            return pixels[..., 0] if shape[0] == 1 else pixels
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise Unreadable(f"not an image record ({error})") from None

    def _one_array(self, home: Path) -> bool:
        files = [home] if home.is_file() else sorted(home.glob("*.npy"))
        if len(files) != 1 or files[0].suffix != ".npy":
            return False
        try:
            self.array = np.load(files[0], mmap_mode="r", allow_pickle=False)
        except Exception as error:  # a damaged head makes NumPy raise nearly anything
            raise UserError(f"{files[0]} is damaged or not a .npy file ({error}): get it again") from None
        if self.array.ndim != 4 or len(self.array) == 1:
            return False
        self.array = as_images(self.array, str(files[0]))
        self.every = [f"image-{i:05d}" for i in range(len(self.array))]
        self.files, self.reader = files, lambda name: np.asarray(self.array[int(name[6:])])
        self._note_others(home)
        return True

    def _note_others(self, home: Path) -> None:
        """Have it reported what else could have been read in the folder."""
        others = Counter(path.suffix.lower() for path in (home.iterdir() if home.is_dir() else ())
                         if path not in self.files and path.name.lower().endswith((*ENDINGS, ".tfrecords")))
        if others:
            counts = ", ".join(f"{ending} {count:,}" for ending, count in others.most_common())
            self.remarks.append(f"left out: {counts}, beside {self.files[0].name}, which is read instead")

    # --- one file each

    def _pictures(self, home: Path) -> bool:
        for folder in (home / f for f in FOLDERS):
            if not folder.exists() or (folder.is_file() and folder.suffix not in (".zip", ".tar")):
                continue
            place = open_place(folder, ENDINGS)
            if place.names and (folder != home or len({str(Path(n).parent) for n in place.names}) == 1):
                self.place, self.every, self.reader = place, place.names, self._read_picture
                self.remarks += place.remarks()
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
        self.wild, self.place, self.landmarks = wild, wild.place, table[1]
        self.remarks += wild.remarks
        self.deltas = _Deltas.find([home / "deltas", home / "celeba" / "deltas", home / "celeba-hq-deltas", home])
        beside = (self.deltas.folder / "image_list.txt") if self.deltas else None
        listed = wild.table("image_list") or (read_table(beside) if beside and beside.is_file() else None)
        if listed is None:
            self._take_all()
        else:
            self._take_listed(listed[1])
        has = "yes" if self.deltas else "no"
        self.remarks.append(f"CelebA-HQ's steps: JPEG artefacts removed {has}; enlarged by a network "
                            f"{has}{'' if self.deltas else ', by Lanczos instead'}; padded and blurred yes; the 30,000 "
                            f"best chosen {'no' if listed is None else 'yes, by image_list'}")
        self.files = [*wild.files, *(self.deltas.files if self.deltas else ())]
        self.every, self.reader = list(self.chosen), self._make
        return True

    def _take_all(self) -> None:
        """Without the list these are all faces, and not the data set that has CelebA-HQ's name."""
        if self.deltas is not None:
            raise UserError(f"{self.deltas.folder} needs image_list.txt in it or beside it, which says whose "
                            "differences they are")
        self.chosen = {name: i for i, name in enumerate(self.wild.names)}
        self.made_of = "celeba-wild-faces"
        self.title = "all faces of CelebA in the wild, cut out as CelebA-HQ's are"  # type: ignore[misc]

    def _take_listed(self, table: dict[str, list[str]]) -> None:
        """The images that image_list.txt names: idx, orig_idx, orig_file, proc_md5, final_md5."""
        numbers = {Path(name).stem: i for i, name in enumerate(self.wild.names)}
        rows = sorted((int(k), row) for k, row in table.items() if image_number(k) is not None)
        lost = [row for _, row in rows if len(row) < 2 or Path(row[1]).stem not in numbers]
        if lost or not rows:
            example = f", the first is {' '.join(lost[0])!r}" if lost else ""
            raise UserError(f"image_list.txt names {len(lost):,} of {len(rows):,} images that are not in "
                            f"{self.wild.place.path}{example}: get it again, or the rest of img_celeba")
        self.chosen = {f"{k:05d}": numbers[Path(row[1]).stem] for k, row in rows}
        self.sums = {f"{k:05d}": row[2:4] for k, row in rows if len(row) >= 4}

    def _make(self, name: str) -> Image.Image:
        index = self.chosen[name]
        photograph = self.wild.read(index)
        assert isinstance(photograph, Image.Image)
        row = self.landmarks.get(Path(self.wild.names[index]).stem)
        if row is None or len(row) != 10:
            raise Unreadable("has no line of ten numbers in list_landmarks_celeba")
        try:
            face = cut_out(photograph.convert("RGB"), np.array(row, dtype=np.float64).reshape(5, 2))
        except ValueError as error:
            raise Unreadable(str(error)) from None
        pixels = np.asarray(face)
        if self.deltas is not None:
            file = self.wild.names[index].rpartition("/")[2]
            # uint8: wraps, as it was made
            pixels = pixels + self.deltas.read(int(name), file, self.wild.encoded(index))
        made = Image.fromarray(pixels)
        sums = self.sums.get(name)
        if sums is not None and len(sums[0]) == len(sums[1]) == 32:
            published = sums[1 if self.deltas else 0]
            same = hashlib.md5(pixels.transpose(2, 0, 1).tobytes()).hexdigest() == published
            note_rule(made, "equal to the published md5" if same else
                      "not equal to the published md5 (made with Pillow 3.1.1 and libjpeg 8d)")
        return made


class _Deltas:
    """What the restoration of each face changed, uint8 (1024,1024,3), to be added modulo 256.

    As published: deltas00000.zip to deltas29000.zip, each with 1,000 encrypted deltaNNNNN.dat, whose key is made from
    the original JPEG's bytes and name (the public tool dataset_tool.py, create_celebahq). Or plain deltaNNNNN.npy.
    """

    def __init__(self, folder: Path, files: list[Path]):
        self.folder, self.files = folder, files
        self.published = files[0].suffix == ".zip"

    @classmethod
    def find(cls, folders: list[Path]) -> "_Deltas | None":
        for folder in folders:
            files = sorted(folder.glob("deltas*.zip")) or sorted(folder.glob("delta*.npy"))
            if files:
                return cls(folder, files)
        return None

    def read(self, number: int, file: str, original: bytes | Path) -> np.ndarray:
        """uint8 (1024,1024,3). Raises Unreadable where it is not there, damaged, or of another original."""
        if not self.published:
            return _array(self.folder / f"delta{number:05d}.npy")
        import bz2
        import zipfile
        try:
            from cryptography.fernet import Fernet, InvalidToken
        except ImportError:
            raise UserError(f"{self.folder} is encrypted: pip install 'ganbench[celeba-hq]' reads it") from None
        path = self.folder / f"deltas{number - number % 1000:05d}.zip"
        try:
            with zipfile.ZipFile(path) as archive:
                member = archive.getinfo(f"delta{number:05d}.dat")
                refuse_bomb(member.filename, member.compress_size, member.file_size)
                token = archive.read(member)
        except Exception as error:
            raise Unreadable(f"no delta{number:05d}.dat in {path} ({' '.join(str(error).split())[:80]})") from None
        jpeg = original.read_bytes() if isinstance(original, Path) else original
        key = hashlib.pbkdf2_hmac("sha256", jpeg, file.encode(), 100_000, 32)
        try:
            packed = Fernet(base64.urlsafe_b64encode(key)).decrypt(token)
            planes = bz2.BZ2Decompressor().decompress(packed, max_length=3 * SIDE * SIDE)
        except (InvalidToken, OSError, EOFError):
            raise Unreadable(f"delta{number:05d}.dat in {path} does not open with {file}: that is not the JPEG as it "
                             "was published, or one of the two is damaged") from None
        if len(planes) != 3 * SIDE * SIDE:
            raise Unreadable(f"delta{number:05d}.dat in {path} holds {len(planes):,} bytes")
        return np.frombuffer(planes, np.uint8).reshape(3, SIDE, SIDE).transpose(1, 2, 0)


def _array(data: bytes | Path) -> np.ndarray:
    """One image from a .npy of (H,W,3), (3,H,W) or (1,3,H,W)."""
    import io
    try:
        array = np.load(data if isinstance(data, Path) else io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # a damaged head makes NumPy raise nearly anything
        raise Unreadable(f"not a .npy file ({' '.join(str(error).split())[:80]})") from None
    try:
        return as_images(array if array.ndim == 4 else array[None], "")[0]
    except UserError as error:
        raise Unreadable(str(error).removeprefix(": ")) from None
