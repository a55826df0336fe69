"""What differs between systems stays in one place each, and is imported nowhere at a module's top."""

import ast
import multiprocessing
import sys
from pathlib import Path

import pytest

from ganbench.files import lock_file

POSIX_ONLY = {"fcntl", "resource", "pwd", "grp", "termios", "msvcrt"}
PACKAGE = Path(__file__).parent.parent / "ganbench"


def test_no_module_needs_one_system_to_be_imported():
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else \
                    [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{path.name}: {name}" for name in names if name in POSIX_ONLY]
    assert not found


def _try(path, queue):
    with open(path, "a") as file:
        try:
            lock_file(file, wait=False)
            queue.put("had it")
        except OSError:
            queue.put("kept out")


def _asked_elsewhere(path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_try, args=(path, queue))
    process.start()
    answer = queue.get(timeout=60)
    process.join()
    return answer


def test_a_lock_keeps_another_process_out_until_the_file_is_closed(tmp_path):
    path = tmp_path / ".lock"
    with open(path, "a") as file:
        lock_file(file)
        assert _asked_elsewhere(path) == "kept out"
    assert _asked_elsewhere(path) == "had it"


def test_a_windows_lock_waits_or_gives_up_and_leaves_the_position(tmp_path, monkeypatch):
    """With a stand-in for msvcrt: busy twice, then free."""
    class System:
        LK_NBLCK = 2
        calls = 0

        @classmethod
        def locking(cls, handle, mode, count):
            cls.calls += 1
            if cls.calls < 3:
                raise OSError("busy")

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", System)
    path = tmp_path / "table.csv"
    path.write_text("a,b\n")
    with open(path, "a+b") as file:
        file.seek(0)
        with pytest.raises(OSError, match="busy"):
            lock_file(file, wait=False)
        lock_file(file)
        assert System.calls == 3 and file.read() == b"a,b\n"
