"""Any folder of images, or a zip or tar of one."""

from pathlib import Path

from ganbench.data.images import EXTENSIONS
from ganbench.data.layout import read_layout
from ganbench.data.places import ARCHIVES, PlaceSource, open_place
from ganbench.errors import UserError
from ganbench.files import is_run_folder


class Folder(PlaceSource):
    """Any folder of images, or a zip or tar of one. If every image lies in a subfolder, those are the classes.

    Splits: where there are folders `train` and `test` (or `val`, `training_set` ...), these; also `train2017`, `eval`,
    `dev`, or such folders in each class, where no other folder would be left out; else a fixed tenth of the images,
    chosen by a hash of their names, is the test split and the others are the train split. `--split all` takes all of
    both. Labels also from StyleGAN2-ADA's dataset.json.
    """

    title = "any folder, zip or tar of images; subfolders are classes"
    unnamed = True
    suffixes = ARCHIVES

    @classmethod
    def claims(cls, path: Path) -> bool:
        """Whether this source reads what lies at that path."""
        return path.is_file() and super().claims(path)

    def open(self) -> None:
        """Find the files and set what can be known without reading them. Raises MissingData, or UserError."""
        if not self.location and not self.root:
            raise UserError("folder needs a path: --dataset folder:PATH, or simply --dataset PATH")
        home = Path(self.location or self.root or "").expanduser()
        if self.location and self.root and not home.is_absolute() and not home.exists():
            home = self.root / home
        if is_run_folder(home):
            raise UserError(f"{home} is the folder of a run, not of images: a run is scored with --run {home}")
        self.place = open_place(home)
        found = self.place.names
        if not found:
            shards = ""
            if home.is_dir() and list(home.glob("*.tar*")):
                shards = f"; it has .tar files: if they are WebDataset shards, webdataset:{home}"
            raise UserError(f"{home} holds no images (looked for {', '.join(sorted(EXTENSIONS))}, in all subfolders)"
                            f"{''.join(f'; {line}' for line in self.place.remarks())}{shards}")
        layout = read_layout(self.place, self.split, self.whole)
        self.names = [found[i] for i in layout.chosen]
        self.labels, self.classes, self.own_splits = layout.labels, layout.classes, layout.own_splits
        self.remarks += layout.remarks + self.place.remarks()
