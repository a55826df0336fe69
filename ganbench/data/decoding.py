"""Decoding on all cores, into the levels of a store that is being made.

Work is cut into chunks of images. A process that finishes a chunk has written its rows of every level; the parent then
notes it in a journal. After a kill, chunks in the journal whose rows still have the noted checksum are not done again.
"""

import json
import math
import os
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from hashlib import blake2b
from io import FileIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from ganbench.data.crops import Box
from ganbench.data.images import Unreadable, rules_of, sized
from ganbench.data.source import Source
from ganbench.data.store import ContentHash, level_sides, pyramid
from ganbench.errors import UserError

CHUNK_BYTES = 8_000_000  # of the full level, in one chunk of work
FEW = 2_000  # so few images are decoded in this process: starting others takes longer
JOURNAL = "journal.jsonl"
SYNC_EVERY = 100_000_000  # bytes of the full level

Progress = Callable[[int, int], None]  # images done, images in all
Note = dict[str, Any]  # what is known of one finished chunk


class Job:
    """What to decode, into which folder."""

    def __init__(self, source: Source, folder: Path, size: tuple[int, int], channels: int, crop: str, box: Box | None):
        self.source, self.folder = source, folder
        self.size, self.channels, self.crop, self.box = size, channels, crop, box
        self.side, self.width = size
        self.n, self.levels = len(source), level_sides(*size)
        self.chunk = max(1, min(512, CHUNK_BYTES // (channels * self.side * self.width)))
        self.content: ContentHash | None = None  # of all images, once `decode_all` has seen them all readable
        self._rows: dict[int, np.ndarray] = {}
        self._files: dict[int, FileIO] = {}

    def shape_at(self, level: int) -> tuple[int, int, int]:
        """(C,H,W) of a level's images."""
        return self.channels, level, level * self.width // self.side

    def rows(self, level: int) -> np.ndarray:
        """The level's file, open for reading in this process."""
        if level not in self._rows:
            self._rows[level] = np.load(self.folder / f"{level}.npy", mmap_mode="r")
        return self._rows[level]

    def write(self, level: int, start: int, images: np.ndarray) -> None:
        """Put images (uint8, contiguous) into the level's file from number `start` on."""
        if level not in self._files:
            self._files[level] = FileIO(self.folder / f"{level}.npy", "r+")
        header: int = self.rows(level).offset  # type: ignore[attr-defined]
        offset, left = header + start * math.prod(self.shape_at(level)), images.data.cast("B")
        while left:  # not through the memory map: that would stop at every page
            written = os.pwrite(self._files[level].fileno(), left, offset)
            offset, left = offset + written, left[written:]

    def allocate(self) -> None:
        """Make the files of all levels at their full size, on the disk, so that it cannot run full half-way."""
        for level in self.levels:
            path = self.folder / f"{level}.npy"
            shape = (self.n, *self.shape_at(level))
            if not _is_array(path, shape):
                np.lib.format.open_memmap(path, "w+", np.uint8, shape).flush()
                with open(path, "r+b") as file:
                    if hasattr(os, "posix_fallocate"):  # macOS has none
                        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)

    def decode(self, chunk: int) -> Note:
        """Decode one chunk into its rows of every level. Unreadable images leave black rows and a reason."""
        start, stop = chunk * self.chunk, min((chunk + 1) * self.chunk, self.n)
        pixels = np.empty((stop - start, *self.shape_at(self.side)), np.uint8)
        rules: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        bad = []
        # every image of the chunk, cut to size, with what was done to it
        for index in range(start, stop):
            try:
                picture = self.source.picture(index)
                pixels[index - start] = sized(picture, self.size, self.channels, crop=self.crop, box=self.box,
                                              pad=self.source.pad, smooth=self.source.smooth)
            except Unreadable as reason:
                bad.append([index, str(reason)])
                pixels[index - start] = 0
                continue
            rules.update(rules_of(picture, self.size, self.channels))
            width, height = picture.shape[1::-1] if isinstance(picture, np.ndarray) else picture.size
            sizes[f"{width}x{height}"] += 1
        # all levels are written here, in the worker
        levels = pyramid(pixels)
        for level, small in levels.items():
            self.write(level, start, small)
        # equal images have equal small ones; the few that do are compared in full later
        keys = levels[min((level for level in self.levels if level >= 16), default=self.side)]
        return {"chunk": chunk, "bad": bad, "rules": rules, "sizes": sizes, "check": zlib.crc32(pixels.data),
                "images": [blake2b(image.tobytes(), digest_size=8).hexdigest() for image in keys]}

    def still_there(self, note: Note) -> bool:
        """Whether a chunk's rows are what its note says (after a power cut they may not be)."""
        start = note["chunk"] * self.chunk
        pixels = np.ascontiguousarray(self.rows(self.side)[start:start + self.chunk])
        if zlib.crc32(pixels.data) != note["check"]:
            return False
        return all(np.array_equal(self.rows(level)[start:start + self.chunk], small)
                   for level, small in pyramid(pixels).items() if level != self.side)


def decode_all(job: Job, workers: int, progress: Progress | None) -> list[Note]:
    """Decode what the journal does not have yet. Returns the notes of all chunks, in order.

    While other processes decode, this one hashes what they have finished, in order (`job.content`), and has it written
    to the disk.
    """
    job.allocate()
    journal = job.folder / JOURNAL
    notes = {note["chunk"]: note for note in _read_journal(journal) if job.still_there(note)}
    chunks = -(-job.n // job.chunk)
    todo = [chunk for chunk in range(chunks) if chunk not in notes]
    done = job.n - sum(min((chunk + 1) * job.chunk, job.n) - chunk * job.chunk for chunk in todo)
    content, hashed = ContentHash((job.n, *job.shape_at(job.side)), job.source.labels is not None), 0
    with open(journal, "w", encoding="utf-8") as file, _Syncing(job.folder / f"{job.side}.npy") as syncing:
        for note in notes.values():
            file.write(json.dumps(note) + "\n")
        if progress is not None:
            progress(done, job.n)
        for note in _decoded(job, todo, workers):
            notes[note["chunk"]] = note
            file.write(json.dumps(note) + "\n")
            file.flush()
            done += len(note["images"])
            if progress is not None:
                progress(done, job.n)
            while hashed in notes:
                content.add(job.rows(job.side)[hashed * job.chunk:(hashed + 1) * job.chunk])
                hashed += 1
            syncing.written(hashed * job.chunk * math.prod(job.shape_at(job.side)))
    if hashed == chunks and not any(note["bad"] for note in notes.values()):
        job.content = content
    return [notes[chunk] for chunk in sorted(notes)]


class _Syncing:
    """Has a growing file written to the disk now and then, in a thread, so that little is left to do at the end."""

    def __init__(self, path: Path):
        self._file = open(path, "rb")
        self._thread = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None
        self._synced = 0

    def __enter__(self) -> "_Syncing":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._thread.shutdown()
        self._file.close()
        if self._last and kind is None:
            # the system tells of a failure once: a later sync of the same file may know nothing of it
            self._last.result()

    def written(self, size: int) -> None:
        """So many bytes are there. Raises OSError if the disk did not take earlier ones."""
        if size - self._synced < SYNC_EVERY or (self._last and not self._last.done()):
            return
        if self._last:
            self._last.result()
        self._last, self._synced = self._thread.submit(os.fsync, self._file.fileno()), size


def _decoded(job: Job, todo: list[int], workers: int) -> Iterator[Note]:
    """Notes as chunks get finished, in any order."""
    if workers == 1 or len(todo) < 2 or job.n < FEW:
        yield from map(job.decode, todo)
        return
    with _pool(job, min(workers, len(todo))) as pool:
        try:
            waiting = [pool.submit(_decode, chunk) for chunk in todo]
            for future in as_completed(waiting):
                yield future.result()
        except BrokenProcessPool:
            raise UserError("a decoding process was killed, probably for want of memory: run it again with fewer "
                            "(--workers 1); it goes on where it was") from None
        finally:
            pool.shutdown(cancel_futures=True)


# The job reaches the worker processes by being there when they are forked; it is never pickled.
_job: Job | None = None


def _pool(job: Job, workers: int) -> Executor:
    global _job
    _job = job
    if sys.platform != "linux":  # forking is not safe everywhere; Pillow lets other threads run while it decodes
        return ThreadPoolExecutor(workers)
    return ProcessPoolExecutor(workers, get_context("fork"), initializer=_start, initargs=(os.getpid(),))


def _start(parent: int) -> None:
    """A worker does not outlive a parent that was killed: it holds the store's lock."""
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    assert _job is not None
    _job.source.fresh()


def _decode(chunk: int) -> Note:
    assert _job is not None
    return _job.decode(chunk)


def _read_journal(path: Path) -> Iterator[Note]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            note = json.loads(line)
        except json.JSONDecodeError:  # killed in mid-line; whatever follows is not trusted
            return
        yield note


def _is_array(path: Path, shape: tuple[int, ...]) -> bool:
    try:
        return np.load(path, mmap_mode="r").shape == shape
    except (OSError, ValueError, EOFError):
        return False
