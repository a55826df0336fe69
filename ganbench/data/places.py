"""Where picture files lie: a folder, a zip or a tar. Each gives the same: sorted names, and the bytes of one.

What could do harm is refused by name: members that climb out of the archive, links, members that blow up when they are
unpacked, folders that contain themselves.
"""

import gzip
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ganbench.data.images import EXTENSIONS, MAX_FILE, Unreadable
from ganbench.data.source import digest, states
from ganbench.errors import UserError

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_RATIO = 1000  # unpacked to packed bytes of a zip member of some size; pictures are packed already


class Place:
    """Files under one roof. `names` are sorted, relative, with forward slashes."""

    path: Path
    names: list[str]

    def read(self, name: str) -> bytes | Path:
        """The file's bytes, or its path. Raises Unreadable if it is damaged."""
        raise NotImplementedError

    def fresh(self) -> None:
        """Open again what cannot be shared with a forked process."""

    def fingerprint(self) -> str:
        return digest(states([self.path]))


def open_place(path: Path, endings: Sequence[str] | set[str] = EXTENSIONS) -> Place:
    """The files with these endings in a folder or an archive. Raises UserError for what is neither, or not safe."""
    wanted = tuple(endings)
    if path.is_dir():
        return FolderPlace(path, wanted)
    if not path.exists():
        raise UserError(f"no such file or folder: {path}")
    if str(path).lower().endswith(".zip"):
        return Zip(path, wanted)
    if str(path).lower().endswith(ARCHIVES):
        return Tar(path, wanted)
    raise UserError(f"{path} is neither a folder nor an archive ({', '.join(ARCHIVES)})")


class FolderPlace(Place):
    """Links to folders are followed; one that leads to a folder it lies in is refused."""

    def __init__(self, path: Path, endings: tuple[str, ...]):
        self.path, self.names = path, []
        self._state: list[list[object]] = []
        self._walk(path, "", endings, [])
        self.names.sort()

    def read(self, name: str) -> Path:
        return self.path / name

    def fingerprint(self) -> str:
        return digest(sorted(self._state))  # type: ignore[type-var]

    def _walk(self, folder: Path, prefix: str, endings: tuple[str, ...], above: list[tuple[int, int]]) -> None:
        try:
            here = folder.stat()
            if (here.st_dev, here.st_ino) in above:
                raise UserError(f"{str(folder)!r} is a link to a folder that it lies in: remove it")
            entries = sorted(os.scandir(folder), key=lambda e: e.name)
        except OSError as error:
            raise UserError(f"cannot read the folder {folder}: {error.strerror}") from None
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            if entry.is_dir():
                self._walk(Path(entry.path), f"{prefix}{entry.name}/", endings, [*above, (here.st_dev, here.st_ino)])
            elif entry.name.lower().endswith(endings):
                self.names.append(prefix + entry.name)
                try:
                    state = entry.stat()
                    self._state.append([prefix + entry.name, state.st_size, state.st_mtime_ns])
                except OSError:  # a link to nothing: reading it will say so, by name
                    self._state.append([prefix + entry.name, -1, -1])


class Zip(Place):
    def __init__(self, path: Path, endings: tuple[str, ...]):
        self.path = path
        self.fresh()
        kept = [m for m in self._file.infolist() if not m.is_dir() and _wanted(m.filename, endings)]
        for member in kept:
            _refuse_climbing(path, member.filename)
            if member.file_size > MAX_FILE or (member.file_size > 1 << 20
                                               and member.file_size > MAX_RATIO * max(1, member.compress_size)):
                raise UserError(f"{path}: member {member.filename!r} would unpack from {member.compress_size:,} to "
                                f"{member.file_size:,} bytes: refused as a decompression bomb")
        self.names = sorted({m.filename for m in kept})

    def fresh(self) -> None:
        try:
            self._file = zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise UserError(f"{self.path} is damaged or not a zip file ({error}): get it again") from None

    def read(self, name: str) -> bytes:
        try:
            return self._file.read(name)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError) as error:
            raise Unreadable(f"{error} (in {self.path})") from None


class Tar(Place):
    """A packed tar is unpacked once into an unnamed temporary file, because only that can be read out of order."""

    def __init__(self, path: Path, endings: tuple[str, ...]):
        self.path = path
        try:
            self._bytes = open(path, "rb") if str(path).lower().endswith(".tar") else _unpacked(path)
            with tarfile.open(fileobj=self._bytes, mode="r:") as tar:
                members = [m for m in tar if _wanted(m.name, endings)]
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} is damaged or not a tar file ({error}): get it again") from None
        for member in members:
            _refuse_climbing(path, member.name)
            if not (member.isfile() or member.isdir()):
                raise UserError(f"{path}: member {member.name!r} is a link or a device, not a file: refused")
        self._where = {m.name: (m.offset_data, m.size) for m in members if m.isfile()}
        self.names = sorted(self._where)

    def read(self, name: str) -> bytes:
        offset, size = self._where[name]
        if size > MAX_FILE:
            raise Unreadable(f"a file of {size / 1e9:.1f} GB")
        found = os.pread(self._bytes.fileno(), size, offset)  # leaves no position behind, so processes can share the file
        if len(found) != size:
            raise Unreadable(f"{self.path} ends in the middle of it")
        return found


def _unpacked(path: Path) -> "tempfile._TemporaryFileWrapper[bytes]":
    import bz2
    import lzma
    openers: dict[str, Any] = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    room = tempfile.NamedTemporaryFile()
    free = shutil.disk_usage(room.name).free
    try:
        with openers[path.suffix.lower()](path, "rb") as packed:
            while block := packed.read(1 << 24):
                if room.tell() + len(block) > free - (1 << 28):
                    raise UserError(f"{path} unpacks to more than the {free / 1e9:.1f} GB that are free in "
                                    f"{tempfile.gettempdir()}: unpack it yourself, or set TMPDIR")
                room.write(block)
    except lzma.LZMAError as error:
        raise UserError(f"{path} is damaged ({error}): get it again") from None
    room.flush()
    room.seek(0)
    return room


def _wanted(name: str, endings: tuple[str, ...]) -> bool:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    hidden = any(p == "__MACOSX" or (p.startswith(".") and p not in (".", "..")) for p in parts)
    return name.lower().endswith(endings) and not hidden


def _refuse_climbing(archive: Path, name: str) -> None:
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or name[1:3] in (":\\", ":/"):
        raise UserError(f"{archive}: member {name!r} climbs out of the archive: refused; do not trust this file")
