"""CelebA (Liu, Luo, Wang, Tang 2015), the aligned and cropped images of 178x218."""

import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from ganbench.data.crops import CELEBA
from ganbench.data.images import EXTENSIONS, decode
from ganbench.data.source import Source, cache_dir
from ganbench.errors import UserError

FOLDERS = ("img_align_celeba", "img_align_celeba_png", "celeba/img_align_celeba", "celeba/img_align_celeba_png",
           "Img/img_align_celeba", "celeba")


class CelebA(Source):
    """202,599 faces. A folder of images, img_align_celeba.zip, or torchvision's tree. Train: all of them, as the PGGAN
    line of work does, unless list_eval_partition.txt is there and the split is "test" (official partition 2)."""

    title = "CelebA aligned, 202,599 faces of 178x218, 40 attributes (Liu et al. 2015)"
    channels = 3
    mirror = True
    default_side = 128
    crops = CELEBA
    default_crops = {0: "c108", 128: "c128p"}

    def open(self) -> None:
        homes = [Path(p).expanduser() for p in (self.location, self.root) if p]
        homes += [cache_dir() / "downloads" / "celeba", Path("data")]
        self.archive: zipfile.ZipFile | None = None
        for home in homes:
            if self._open_folder(home) or self._open_zip(home):
                break
        else:
            raise UserError(f"CelebA is not in {homes[0]}: get img_align_celeba.zip (and list_attr_celeba.txt, "
                            "list_eval_partition.txt) from mmlab.ie.cuhk.edu.hk/projects/CelebA.html, then run "
                            "`ganbench data prepare celeba --root FOLDER` with the folder they are in")
        self._partition(home)
        self._attributes(home)

    def read(self, index: int) -> Image.Image:
        if self.archive is not None:
            return decode(self.archive.read(self.members[self.names[index]]))
        return decode(self.folder / self.names[index])

    def _open_folder(self, home: Path) -> bool:
        for folder in [home / f for f in FOLDERS] + [home]:
            if folder.is_dir():
                found = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS)
                if found:
                    self.folder, self.names = folder, found
                    return True
        return False

    def _open_zip(self, home: Path) -> bool:
        candidates = [home] if home.suffix == ".zip" else [home / "img_align_celeba.zip", home / "celeba/img_align_celeba.zip"]
        path = next((c for c in candidates if c.is_file()), None)
        if path is None:
            return False
        try:
            self.archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise UserError(f"{path} is damaged ({error}): get it again") from None
        self.members = {Path(m).name: m for m in self.archive.namelist() if Path(m).suffix.lower() in EXTENSIONS}
        self.names = sorted(self.members)
        return bool(self.names)

    def _table(self, home: Path, file: str) -> list[str] | None:
        for folder in (home, home / "celeba", home.parent, home / "Anno", home / "Eval"):
            if (folder / file).is_file():
                return (folder / file).read_text(encoding="utf-8").splitlines()
        return None

    def _partition(self, home: Path) -> None:
        lines = self._table(home, "list_eval_partition.txt")
        if self.split != "test":
            return
        if lines is None:
            raise UserError(f"the test split of CelebA needs list_eval_partition.txt beside the images in {home}")
        held = {Path(line.split()[0]).stem for line in lines if line.split()[1:] == ["2"]}
        self.names = [n for n in self.names if Path(n).stem in held]

    def _attributes(self, home: Path) -> None:
        lines = self._table(home, "list_attr_celeba.txt")
        if lines is None or len(lines) < 3:
            return
        names = lines[1].split()
        marks = {Path(parts[0]).stem: parts[1:] for line in lines[2:] if (parts := line.split())}
        rows = [marks.get(Path(n).stem) for n in self.names]
        if any(row is None or len(row) != len(names) for row in rows):
            raise UserError(f"list_attr_celeba.txt in {home} does not cover all images: get it again, or remove it")
        self.attributes = np.array([[m == "1" for m in row] for row in rows if row], dtype=np.uint8)
        self.attribute_names = names
