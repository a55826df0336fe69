"""Where picture files lie: a folder, a zip or a tar. Each gives the same: sorted names, and the bytes of one.

Names are written one way for all of them: forward slashes, no `./` before them. What could do harm is refused by name:
members that climb out of the archive, links, members that blow up when they are unpacked, folders that contain
themselves. Files that are no pictures are counted by their endings, so that none is left out without a word.
"""

import gzip
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ganbench.data.images import EXTENSIONS, HEIF, MAX_FILE, Unreadable, file_bytes
from ganbench.data.source import Source, digest, shown, states
from ganbench.errors import UserError
from ganbench.files import size_text

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
NOT_OURS = {"__MACOSX", "@eaDir", "lost+found"}  # folders that systems make beside people's files
BLOCK = 512  # of a tar
MAX_UNASKED = 4 << 30  # bytes; a packed tar of more must not unpack to a hundred times its size
# how archives begin: those that are read, and others
PACKINGS = {b"PK\3\4": ".zip", b"PK\5\6": ".zip", b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\0": ".xz"}
UNREAD = {b"Rar!": "RAR", b"7z\xbc\xaf\x27\x1c": "7-Zip", b"\x28\xb5\x2f\xfd": "Zstandard"}
LABELS = "dataset.json"  # StyleGAN2-ADA's labels; see ganbench.data.layout


class Place:
    """Files under one roof.

    Attributes:
        path: the folder or archive. names: sorted, relative, with forward slashes.
        ignored: other files there, by ending. doubles: members that a later one of the same name replaces.
        label_files: the files called dataset.json that nobody has read; who reads one takes it out.
    """

    path: Path
    names: list[str]

    def __init__(self) -> None:
        self.ignored: Counter[str] = Counter()
        self.doubles = 0
        self.label_files: list[str] = []

    def read(self, name: str) -> bytes | Path:
        """The file's bytes, or its path. Raises Unreadable if it is damaged."""
        raise NotImplementedError

    def other(self, name: str) -> bytes:
        """The bytes of one of the `label_files`. Raises Unreadable if it is damaged."""
        raise NotImplementedError

    def fresh(self) -> None:
        """Open again what cannot be shared with a forked process."""

    def fingerprint(self) -> str:
        """Changes whenever the files may have changed."""
        return digest(states([self.path]))

    def remarks(self) -> list[str]:
        """What was left out, a line each."""
        found = []
        if others := self.ignored + Counter({".json": len(self.label_files)}):
            most = sorted(others.items(), key=lambda item: (-item[1], item[0]))[:12]
            counts = ", ".join(f"{ending} {count:,}" for ending, count in most)
            heif = " (pip install 'ganbench[heif]' reads .heic)" if HEIF & set(self.ignored) else ""
            found.append(f"ignored: {counts}{heif}")
        if self.doubles:
            found.append(f"ignored: {self.doubles:,} members whose name a later one has too")
        return found

    def _takes(self, name: str, endings: tuple[str, ...]) -> bool:
        """Whether a file is one of ours; others are counted, hidden ones are not."""
        *folders, file = name.split("/")
        if any(part in NOT_OURS or (part.startswith(".") and part != "..") for part in (*folders, file)):
            return False
        if file.lower().endswith(endings):
            return True
        if file == LABELS:
            self.label_files.append(name)
            return False
        ending = os.path.splitext(file)[1].lower()
        self.ignored[shown(ending) if 1 < len(ending) <= 12 else "no ending"] += 1
        return False


def open_place(path: Path, endings: Sequence[str] | set[str] = EXTENSIONS) -> Place:
    """The files with these endings in a folder or an archive. Raises UserError for what is neither, or not safe."""
    wanted = tuple(endings)
    if path.is_dir():
        return FolderPlace(path, wanted)
    if not path.exists():
        raise UserError(f"no such file or folder: {path}")
    if not str(path).lower().endswith(ARCHIVES):
        raise UserError(f"{path} is neither a folder nor an archive ({', '.join(ARCHIVES)})")
    packing = _packing(path)
    return Zip(path, wanted) if packing == ".zip" else Tar(path, wanted, packing)


def _packing(path: Path) -> str:
    """How an archive is packed: by its first bytes, since endings are often wrong; where these say nothing, by its
    ending.
    """
    with open(path, "rb") as file:
        head = file.read(BLOCK)
    if head[257:262] == b"ustar":
        return ".tar"
    for begins, name in UNREAD.items():
        if head.startswith(begins):
            raise UserError(f"{path} is really a {name} archive: unpack it and name the folder")
    return next((packing for begins, packing in PACKINGS.items() if head.startswith(begins)), path.suffix.lower())


class FolderPlace(Place):
    """Links to folders are followed; one that leads to a folder it lies in is refused."""

    def __init__(self, path: Path, endings: tuple[str, ...]):
        super().__init__()
        self.path, self.names = path, []
        self._state: list[list[object]] = []
        # folders still to be looked at: where, what their names begin with, and the folders that they lie in
        waiting: list[tuple[str, str, tuple[tuple[int, int], ...]]] = [(str(path), "", ())]
        while waiting:
            folder, prefix, above = waiting.pop()
            try:
                here = os.stat(folder)
                if (here.st_dev, here.st_ino) in above:
                    raise UserError(f"{str(folder)!r} is a link to a folder that it lies in: leave it out")
                entries = list(os.scandir(folder))
            except OSError as error:
                raise UserError(f"cannot read the folder {shown(folder)[:200]}: {error.strerror}") from None
            for entry in entries:
                name = prefix + entry.name
                if entry.name.startswith(".") or entry.name in NOT_OURS:
                    continue
                if entry.name == LABELS:  # may tell the labels, so it counts as the pictures do
                    self._state.append([name, *_state(entry)])
                if _is_folder(entry):
                    waiting.append((entry.path, f"{name}/", (*above, (here.st_dev, here.st_ino))))
                elif self._takes(name, endings):
                    self.names.append(name)
                    self._state.append([name, *_state(entry)])
        self.names.sort()

    def read(self, name: str) -> Path:
        """The path of a file in the folder."""
        return self.path / name

    def other(self, name: str) -> bytes:
        """The bytes of one of the `label_files`. Raises Unreadable."""
        return file_bytes(self.path / name)

    def fingerprint(self) -> str:
        """What changes when the files do, as text."""
        return digest(sorted(self._state))  # type: ignore[type-var]


class Zip(Place):
    """A zip file; every member's size is checked before it is unpacked."""

    def __init__(self, path: Path, endings: tuple[str, ...]):
        super().__init__()
        self.path = path
        self.fresh()
        self._members: dict[str, str] = {}  # our name -> the archive's own
        self._others: dict[str, zipfile.ZipInfo] = {}
        for member in self._file.infolist():
            name = one_spelling(member.filename)
            if member.is_dir() or name.endswith("/"):
                continue
            if not self._takes(name, endings):
                self._others[name] = member
                continue
            _refuse_climbing(path, member.filename)
            refuse_bomb(f"{path}: member {member.filename!r}", member.compress_size, member.file_size)
            self.doubles += name in self._members
            self._members[name] = member.filename
        self.names = sorted(self._members)

    def fresh(self) -> None:
        """Forget what a check of the files has kept: they are about to be read again."""
        try:
            self._file = zipfile.ZipFile(self.path)
        except Exception as error:  # names that are not UTF-8, later versions, damage: zipfile raises many things
            raise UserError(f"{self.path} is damaged or not a zip file ({error}): get it again") from None

    def read(self, name: str) -> bytes:
        """The bytes of a member. Raises Unreadable."""
        return self._read(self._members[name])

    def other(self, name: str) -> bytes:
        """The bytes of one of the `label_files`. Raises Unreadable."""
        member = self._others[name]
        refuse_bomb(f"{self.path}: member {member.filename!r}", member.compress_size, member.file_size)
        return self._read(member.filename)

    def _read(self, member: str) -> bytes:
        try:
            return self._file.read(member)
        except Exception as error:  # encrypted, a method of a later version, damage: each packing raises its own
            raise Unreadable(f"{' '.join(str(error).split()) or type(error).__name__} (in {self.path})") from None


class Tar(Place):
    """A packed tar is unpacked once into an unnamed temporary file, because only that can be read out of order."""

    def __init__(self, path: Path, endings: tuple[str, ...], packing: str):
        super().__init__()
        self.path = path
        try:
            self._bytes = open(path, "rb") if packing == ".tar" else _unpacked(path, packing, endings)
            with tarfile.open(fileobj=self._bytes, mode="r:") as tar:
                every = list(tar)
                end = tar.offset
        except UserError:
            raise
        except Exception as error:  # each packing raises its own, and damaged heads nearly anything
            raise UserError(f"{path} is damaged or not a tar file ({error}): get it again") from None
        self._check_end(end)
        self._where: dict[str, tuple[int, int]] = {}
        self._others: dict[str, tuple[int, int]] = {}
        for member in every:
            name = one_spelling(member.name)
            if member.isdir():
                continue
            if not self._takes(name, endings):
                self._others[name] = (member.offset_data, member.size)
                continue
            _refuse_climbing(path, member.name)
            if not member.isfile() or member.issparse():
                raise UserError(f"{path}: member {member.name!r} is a link, a device or has holes: refused")
            self.doubles += name in self._where
            self._where[name] = (member.offset_data, member.size)
        self.names = sorted(self._where)

    def _check_end(self, end: int) -> None:
        """tarfile takes a damaged head for the end of the archive, and so do all who only iterate."""
        size = os.fstat(self._bytes.fileno()).st_size
        block = os.pread(self._bytes.fileno(), BLOCK, end)
        if len(block) < BLOCK or block.strip(b"\0"):
            raise UserError(f"{self.path} is cut short or damaged at byte {end:,} of {size:,}, the files after it are "
                            "lost: get it again")
        at = end
        while tail := os.pread(self._bytes.fileno(), 1 << 20, at):
            if tail.strip(b"\0"):
                raise UserError(f"{self.path} goes on behind its end (byte {end:,} of {size:,}), as tars do that were "
                                "joined: unpack it (tar --ignore-zeros -xf) and name the folder")
            at += len(tail)

    def read(self, name: str) -> bytes:
        """The bytes of a member. Raises Unreadable."""
        return self._read(*self._where[name])

    def other(self, name: str) -> bytes:
        """The bytes of one of the `label_files`. Raises Unreadable."""
        return self._read(*self._others[name])

    def _read(self, offset: int, size: int) -> bytes:
        if size > MAX_FILE:
            raise Unreadable(f"a file of {size / 1e9:.1f} GB")
        # leaves no position behind, so processes can share the file
        found = os.pread(self._bytes.fileno(), size, offset)
        if len(found) != size:
            raise Unreadable(f"{self.path} ends in the middle of it")
        return found


class PlaceSource(Source):
    """A source whose images are picture files in one place."""

    place: Place

    def fresh(self) -> None:
        """Forget what a check of the files has kept: they are about to be read again."""
        self.place.fresh()

    def encoded(self, index: int) -> bytes | Path:
        """The file of one image: its path, or its bytes."""
        return self.place.read(self.names[index])

    def fingerprint(self) -> str:
        """What changes when the files do, as text."""
        return self.place.fingerprint()

    def note_left_out(self, taken: int) -> None:
        """Have it reported what of the place is not among the images: pictures whose names are no numbers, others."""
        if others := len(self.place.names) - taken:
            self.remarks.append(f"left out: {others:,} pictures whose names are no numbers")
        self.remarks += self.place.remarks()


class _Copying:
    """A file that is read once, from its beginning: what was read is in `copy`."""

    def __init__(self, path: Path, packed: Any, copy: IO[bytes]):
        self.path, self._packed, self._copy = path, packed, copy
        self._size, self._free = path.stat().st_size, shutil.disk_usage(tempfile.gettempdir()).free

    def read(self, size: int) -> bytes:
        block: bytes = self._packed.read(size)
        whole = self._copy.tell() + len(block)
        if whole > MAX_UNASKED:
            refuse_bomb(str(self.path), self._size, whole, most=1 << 62)
        if whole > self._free - (1 << 28):
            raise UserError(f"{self.path} unpacks to more than the {size_text(self._free)} that are free in "
                            f"{tempfile.gettempdir()}: unpack it yourself, or set TMPDIR")
        self._copy.write(block)
        return block


def _unpacked(path: Path, packing: str, endings: tuple[str, ...]) -> "tempfile._TemporaryFileWrapper[bytes]":
    import bz2
    import lzma
    openers: dict[str, Any] = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    room = tempfile.NamedTemporaryFile()
    try:
        with openers[packing](path, "rb") as packed:
            copying: Any = _Copying(path, packed, room)
            # a member's size is known before it is unpacked; what is wrong with the tar itself is said later
            with suppress(tarfile.TarError), tarfile.open(fileobj=copying, mode="r|", bufsize=1 << 16) as members:
                for member in members:
                    if member.name.lower().endswith(endings):
                        refuse_bomb(f"{path}: member {member.name!r}", path.stat().st_size, member.size)
            while copying.read(1 << 24):
                pass
    except (lzma.LZMAError, zlib.error, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}): get it again") from None
    room.flush()
    room.seek(0)
    return room


def one_spelling(name: str) -> str:
    """A member's name with forward slashes, and without the `./` that some programs put before it."""
    parts = name.replace("\\", "/").split("/")
    return "/".join([*(part for part in parts[:-1] if part not in ("", ".")), parts[-1]])


def refuse_bomb(what: str, packed: int, unpacked: int, most: int = MAX_FILE) -> None:
    """Raise UserError for what would unpack to very much more than it is, before it is unpacked. Sizes in bytes."""
    ratio = unpacked / max(1, packed)
    if unpacked > most or (unpacked > 1 << 20 and ratio > 1000) or (unpacked > 1 << 27 and ratio > 100):
        raise UserError(f"{what} would unpack from {packed:,} to {unpacked:,} bytes: refused as a decompression bomb; "
                        "unpack it by other means if you trust it")


def _refuse_climbing(archive: Path, name: str) -> None:
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or name[1:3] in (":\\", ":/"):
        raise UserError(f"{archive}: member {name!r} climbs out of the archive: refused; do not trust this file")


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself: taken for a file, and named where it is read
        return False


def _state(entry: "os.DirEntry[str]") -> list[int]:
    try:
        state = entry.stat()
    except OSError:  # a link to nothing: reading it will say so, by name
        return [-1, -1]
    return [state.st_size, state.st_mtime_ns]
