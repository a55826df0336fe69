"""Reading an lmdb in a process of its own.

lmdb maps its file into memory and trusts what is in it: a damaged one does not raise, it ends the process (SIGBUS,
SIGSEGV) or goes round in circles. So the file's size is held against its first page, and a worker process reads; if the
worker dies or does not answer, that is one line.
"""

import os
import sys
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import Any

from ganbench.data.images import MAX_FILE, Unreadable
from ganbench.errors import UserError

PATIENCE = 60.0  # seconds for one answer


class LmdbReader:
    """The keys of an lmdb folder and the values by key. May be used by several threads; after a fork call `fresh`."""

    def __init__(self, path: Path):
        self.path = path
        self._process: Any = None
        self._pipe: Connection | None = None
        self._lock = Lock()
        try:
            import lmdb  # noqa: F401 - whether it is installed is reported here, not by the worker
        except ImportError:
            raise UserError("reading LSUN's lmdb needs the package lmdb: pip install 'ganbench[lmdb]'") from None

    def all_keys(self) -> list[bytes]:
        """All keys, in the lmdb's order. Raises UserError for a damaged file."""
        keys: list[bytes] = []
        while part := self._ask(("keys", keys[-1] if keys else None)):
            keys += part
        return keys

    def get(self, key: bytes) -> bytes:
        """A key's value. Raises Unreadable where there is none, UserError where the worker died of it."""
        value = self._ask(("get", key))
        if value is None:
            raise Unreadable("no longer in the lmdb")
        return value

    def fresh(self) -> None:
        """Forget the worker of the process that this one was forked from."""
        self._process, self._pipe, self._lock = None, None, Lock()

    def _ask(self, question: tuple[str, bytes | None]) -> Any:
        with self._lock:
            if self._pipe is None:
                self._start()
            assert self._pipe is not None
            try:
                self._pipe.send(question)
                answer = self._pipe.recv() if self._pipe.poll(PATIENCE) else "its reader does not answer"
            except (EOFError, OSError):
                answer = "its reader died of it"
            if isinstance(answer, str):  # an error: values are bytes, keys a list
                self._stop()
                raise UserError(f"{self.path} is damaged or no lmdb ({answer}): get it again")
            return answer

    def _start(self) -> None:
        context: Any = get_context("fork" if sys.platform == "linux" else "spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(str(self.path), theirs, self._pipe), daemon=True)
        self._process.start()
        theirs.close()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process, self._pipe = None, None


def _serve(path: str, pipe: Connection, parents: Connection) -> None:
    """The worker: answers until its parent is gone, which it learns by the end of the pipe."""
    import faulthandler
    import signal

    import lmdb
    parents.close()
    faulthandler.disable()  # that it may die is expected; the parent says so in one line
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        table = lmdb.open(path, readonly=True, lock=False, readahead=False, meminit=False)
        size, page = os.path.getsize(os.path.join(path, "data.mdb")), table.stat()["psize"]
        needed = (table.info()["last_pgno"] + 1) * page
        if size < needed:
            raise ValueError(f"it has {size:,} bytes where its first page says {needed:,}")
        entries = table.stat()["entries"]
        if entries > size // 8:
            raise ValueError(f"it claims {entries:,} entries in {size:,} bytes")
    except Exception as error:
        pipe.send(" ".join(str(error).split()) or type(error).__name__)
        return
    while True:
        try:
            what, key = pipe.recv()
        except EOFError:
            return
        try:
            with table.begin() as reading:
                pipe.send(_keys(reading.cursor(), key) if what == "keys" else _value(reading, key))
        except Exception as error:
            pipe.send(" ".join(str(error).split()) or type(error).__name__)
            return


def _keys(cursor: Any, after: bytes | None, at_most: int = 100_000) -> list[bytes]:
    """The next keys after one, ascending, as an lmdb keeps them: others would be a tree that goes round in circles."""
    found: list[bytes] = []
    there = cursor.first() if after is None else cursor.set_range(after) and (cursor.key() != after or cursor.next())
    last = after
    while there and len(found) < at_most:
        key = bytes(cursor.key())
        if last is not None and key <= last:
            raise ValueError("its keys are not in order")
        found.append(key)
        last, there = key, cursor.next()
    return found


def _value(reading: Any, key: bytes) -> bytes | None:
    value = reading.get(key)
    if value is not None and len(value) > MAX_FILE:
        raise ValueError(f"a value of {len(value):,} bytes")
    return None if value is None else bytes(value)
