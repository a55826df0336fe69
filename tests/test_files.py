"""Files: written whole or not at all, read back with one line for whatever is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ganbench import files
from ganbench.errors import UserError


def test_an_interrupted_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "deep" / "table.csv"
    files.atomic_write(path, "old")
    with pytest.raises(KeyboardInterrupt), files.atomic_file(path) as scratch:
        scratch.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and [p.name for p in path.parent.iterdir()] == ["table.csv"]
    files.atomic_write(path, b"new", sync=True)
    assert path.read_bytes() == b"new"


def test_an_interrupted_folder_never_appears(tmp_path):
    with pytest.raises(ValueError), files.atomic_folder(tmp_path / "store") as scratch:
        (scratch / "level.npy").write_bytes(b"half")
        raise ValueError
    assert list(tmp_path.iterdir()) == []
    with files.atomic_folder(tmp_path / "store", sync=True) as scratch:
        (scratch / "level.npy").write_bytes(b"whole")
    assert [p.name for p in tmp_path.iterdir()] == ["store"] and (tmp_path / "store/level.npy").read_bytes() == b"whole"


def test_files_have_the_rights_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        files.atomic_write(tmp_path / "a", "")
        with files.atomic_folder(tmp_path / "b"):
            pass
    finally:
        os.umask(before)
    assert [(tmp_path / n).stat().st_mode & 0o777 for n in "ab"] == [0o640, 0o750]


def test_what_cannot_be_written_is_one_line_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError,
                       match=r"cannot write .*file/table.csv \(a file is in the way\): choose another") as caught:
        files.atomic_write(tmp_path / "file" / "table.csv", "", remedy="choose another with --results")
    assert "\n" not in str(caught.value)


def test_links_are_followed_and_devices_are_not_replaced(tmp_path):
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("real.csv")
    files.atomic_write(tmp_path / "link.csv", "new")
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "real.csv").read_text() == "new"
    files.atomic_write(Path("/dev/null"), "gone")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(UserError, match="cannot write /dev/full"):
        files.atomic_write(Path("/dev/full"), "x")


def test_only_what_dead_processes_left_is_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (f".a.png.{dead.pid}.tmp", f".b.png.{os.getpid()}.tmp", "c.tmp", ".d.12x.tmp"):
        (tmp_path / name).write_text("")
    (tmp_path / f".e.{dead.pid}.tmp").mkdir()
    (tmp_path / f".e.{dead.pid}.tmp" / "inside").write_text("")
    files.remove_abandoned(tmp_path)
    files.remove_abandoned(tmp_path / "nowhere")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([f".b.png.{os.getpid()}.tmp", "c.tmp", ".d.12x.tmp"])


@pytest.mark.parametrize(("content", "reason"), [
    (None, "no such file"), (b"", "damaged"), (b"{", "damaged"), (b"\xff\xfe{}", "damaged"),
    (b"[1]", "a list, not an obj"),
    (b"[" * 100_000, "damaged"), (b"{}", '"images" is missing'), (b'{"images": "2"}', '"images" is text'),
    (b'{"images": true}', '"images" is true or false'), (b'{"images": 1.5}', '"images" is a number'),
    (b'{"images": null}', '"images" is null'), (b"7", "a whole number, not an object")])
def test_json_of_any_other_shape_is_refused_in_one_line(tmp_path, content, reason):
    path = tmp_path / "state.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"{reason}.*name another run") as caught:
        files.read_json(path, keys={"images": int}, remedy="name another run")
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_sound_json_is_read_with_and_without_a_byte_order_mark(tmp_path):
    path = tmp_path / "x.json"
    for mark in (b"", b"\xef\xbb\xbf"):
        path.write_bytes(mark + '{"seconds": 3, "name": "ü", "due": {}}'.encode())
        found = files.read_json(path, keys={"seconds": float, "name": str, "due": (dict, list)}, remedy="")
        assert found == {"seconds": 3, "name": "ü", "due": {}}


def test_the_cache_needs_a_home_or_the_variable(monkeypatch):
    monkeypatch.setenv("GANBENCH_CACHE", "/somewhere")
    assert files.cache_dir() == Path("/somewhere")
    monkeypatch.delenv("GANBENCH_CACHE")

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(UserError, match="set GANBENCH_CACHE"):
        files.cache_dir()


@pytest.mark.parametrize("text, says", [
    ('{"kimg": 1}\n[2]\n', r"line 2 is damaged \(it holds a list"),
    ('{"kimg": 1}\n{"kimg": "x"}\n', r'line 2 .*"kimg" is text'),
    ('{"kimg": 1}\n{"ki\n{"kimg": 3}\n', "line 2 is damaged"), ("\xff\n", "is damaged"),
    ('{"step": 1}\n', '"kimg" is missing'),
])
def test_lines_of_json_that_are_not_what_they_should_be_are_named(tmp_path, text, says):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=says) as caught:
        files.read_json_lines(path, keys={"kimg": float}, remedy="correct the line")
    assert "\n" not in str(caught.value)


def test_half_a_line_at_the_end_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kimg": 1}\n{"kimg": 2')
    assert files.read_json_lines(path, remedy="") == [{"kimg": 1}]
    path.write_text('{"kimg": 1}\n{"kimg": 2}')
    assert files.read_json_lines(path, remedy="") == [{"kimg": 1}, {"kimg": 2}]


def test_sizes_as_one_says_them():
    assert [files.size_text(n) for n in (1.25e9, 3.4e8, 12_345, 0)] == ["1.25 GB", "340 MB", "12.3 kB", "0 kB"]
