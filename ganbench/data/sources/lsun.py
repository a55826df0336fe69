"""LSUN (Yu, Seff, Zhang, Song, Funkhouser, Xiao 2015, arXiv 1506.03365): scenes and objects by the million."""

from pathlib import Path

from ganbench.data.lmdb_reader import LmdbReader
from ganbench.data.places import Place, open_place
from ganbench.data.source import NoSplit, Source, by_hash
from ganbench.errors import UserError


class LSUN(Source):
    """One category: its lmdb (bedroom_train_lmdb; needs the extra ganbench[lmdb]), or a folder or zip of exported
    images.

    `lsun:PATH` or --root names the category's lmdb, or the folder it lies in when that holds no other. Splits: train
    and val lmdb as published; of exported images a fixed tenth is the test split. The centre square, as the PGGAN paper
    takes it. `--mirror` is off, as for the full categories there.
    """

    title = "LSUN, one category: lmdb or exported images (Yu et al. 2015)"
    channels = 3
    default_side = 128

    def open(self) -> None:
        """Find the files and set what can be known without reading them. Raises MissingData, or UserError."""
        for home in self.homes():
            if home.exists() and (self._lmdb(home) or self._exported(home)):
                return
        raise self.missing("one category: the folder bedroom_train_lmdb, unpacked from bedroom_train_lmdb.zip (reading "
                           "it needs pip install 'ganbench[lmdb]'), or a folder of its images",
                           "https://www.yf.io/p/lsun (its https://github.com/fyu/lsun: python3 download.py -c bedroom)")

    def label(self) -> str:
        """What results rows call this data."""
        return f"lsun-{self.category}" if self.category else "lsun"

    category = ""
    tables: dict[Path, LmdbReader] = {}

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
            raise UserError(f"{home} holds several categories ({', '.join(sorted(categories))}): name one, "
                            f"lsun:{fitting[0]}")
        if not fitting:
            raise NoSplit(f"{home} has no lmdb for the split '{self.split}' (it has "
                          f"{', '.join(p.name for p in found)})")
        self.category = categories.pop() if fitting[0].name.endswith("_lmdb") else fitting[0].name
        self.files = [p / "data.mdb" for p in fitting]
        self.own_splits = found != fitting
        self.tables = {p: LmdbReader(p) for p in fitting}
        self.keys = [(p, key) for p in fitting for key in self.tables[p].all_keys()]
        self.names = [f"{p.name}/{key.decode('ascii', 'backslashreplace')}" for p, key in self.keys]
        return True

    place: Place | None = None

    def _exported(self, home: Path) -> bool:
        self.place = open_place(home)
        found = self.place.names
        self.names = [found[i] for i in by_hash(found, self.split)]
        self.category = home.stem if home.stem != "lsun" else ""
        self.remarks += self.place.remarks()
        return bool(found)

    def fresh(self) -> None:
        """Forget what a check of the files has kept: they are about to be read again."""
        for table in self.tables.values():
            table.fresh()
        if self.place is not None:
            self.place.fresh()

    def encoded(self, index: int) -> bytes | Path:
        """The file of one image: its path, or its bytes."""
        if self.place is not None:
            return self.place.read(self.names[index])
        path, key = self.keys[index]
        return self.tables[path].get(key)

    def fingerprint(self) -> str:
        """What changes when the files do, as text."""
        return self.place.fingerprint() if self.place is not None else super().fingerprint()
