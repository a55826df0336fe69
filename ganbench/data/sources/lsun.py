"""LSUN (Yu, Seff, Zhang, Song, Funkhouser, Xiao 2015, arXiv 1506.03365): scenes and objects by the million."""

from pathlib import Path
from typing import Any

from PIL import Image

from ganbench.data.images import Unreadable, decode
from ganbench.data.places import Place, open_place
from ganbench.data.source import NoSplit, Source, by_hash
from ganbench.errors import UserError


class LSUN(Source):
    """One category: its lmdb (bedroom_train_lmdb; needs the extra ganbench[lmdb]), or a folder or zip of exported images.

    `lsun:PATH` or --root names the category's lmdb, or the folder it lies in when that holds no other. Splits: train and
    val lmdb as published; of exported images a fixed tenth is the test split. The centre square, as the PGGAN paper takes
    it. `--mirror` is off, as for the full categories there.
    """

    title = "LSUN, one category: lmdb or exported images (Yu et al. 2015)"
    channels = 3
    default_side = 128

    def open(self) -> None:
        for home in self.homes():
            if home.exists() and (self._lmdb(home) or self._exported(home)):
                return
        raise self.missing("one category: the folder bedroom_train_lmdb, unpacked from bedroom_train_lmdb.zip (reading it needs "
                           "pip install 'ganbench[lmdb]'), or a folder of its images",
                           "https://www.yf.io/p/lsun (its https://github.com/fyu/lsun: python3 download.py -c bedroom)")

    def label(self) -> str:
        return f"lsun-{self.category}" if self.category else "lsun"

    category = ""

    def _lmdb(self, home: Path) -> bool:
        found = [home] if (home / "data.mdb").is_file() else sorted(p.parent for p in home.glob("*/data.mdb"))
        if not found:
            return False
        endings = {"train": ("_train_lmdb",), "test": ("_val_lmdb",), "all": ("_train_lmdb", "_val_lmdb")}[self.split]
        if found == [home] and not home.name.endswith(("_train_lmdb", "_val_lmdb")):
            fitting = found if self.split != "test" else []
        else:
            if found == [home]:
                found = sorted(p.parent for p in home.parent.glob(home.name.rsplit("_", 2)[0] + "_*_lmdb/data.mdb"))
            fitting = [p for p in found if p.name.endswith(endings)]
        categories = {p.name.rsplit("_", 2)[0] for p in fitting}
        if len(categories) > 1:
            raise UserError(f"{home} holds several categories ({', '.join(sorted(categories))}): name one, lsun:{fitting[0]}")
        if not fitting:
            raise NoSplit(f"{home} has no lmdb for the split '{self.split}' (it has {', '.join(p.name for p in found)})")
        self.category = categories.pop() if fitting[0].name.endswith("_lmdb") else fitting[0].name
        self.tables = fitting
        self.files = [p / "data.mdb" for p in fitting]
        self.opened: dict[Path, Any] = {}
        self.keys = [(p, key) for p in fitting for key in self._keys(p)]
        self.names = [f"{p.name}/{key.decode('ascii', 'backslashreplace')}" for p, key in self.keys]
        return True

    def _keys(self, path: Path) -> list[bytes]:
        with self._table(path).begin() as reading:
            return [bytes(key) for key in reading.cursor().iternext(keys=True, values=False)]

    def _table(self, path: Path) -> Any:
        try:
            import lmdb
        except ImportError:
            raise UserError("reading LSUN's lmdb needs the package lmdb: pip install 'ganbench[lmdb]'") from None
        if path not in self.opened:
            try:
                self.opened[path] = lmdb.open(str(path), readonly=True, lock=False, readahead=False, meminit=False)
            except lmdb.Error as error:
                raise UserError(f"{path} is damaged or no lmdb ({error}): get it again") from None
        return self.opened[path]

    place: Place | None = None

    def _exported(self, home: Path) -> bool:
        self.place = open_place(home)
        found = self.place.names
        self.names = [found[i] for i in by_hash(found, self.split)]
        self.category = home.stem if home.stem != "lsun" else ""
        return bool(found)

    def fresh(self) -> None:
        self.opened = {}  # an lmdb must not be used across a fork
        if self.place is not None:
            self.place.fresh()

    def read(self, index: int) -> Image.Image:
        if self.place is not None:
            return decode(self.place.read(self.names[index]))
        path, key = self.keys[index]
        with self._table(path).begin() as reading:
            data = reading.get(key)
        if data is None:
            raise Unreadable("no longer in the lmdb")
        return decode(bytes(data))

    def fingerprint(self) -> str:
        return self.place.fingerprint() if self.place is not None else super().fingerprint()
