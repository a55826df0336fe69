"""Checkpoints are whole or absent, and say clearly what is wrong with a damaged one."""

import ast
import contextlib
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from model_support import same

from ganbench.errors import UserError
from ganbench.runs import checkpoint, run_folder


def tensors():
    shared = torch.arange(6.0)
    return {"a/weight": torch.randn(3, 4), "b": torch.tensor(7), "c": shared, "d": shared.view(2, 3)[:, ::2],
            "rng": torch.get_rng_state()}


def test_what_is_saved_comes_back_to_the_bit(tmp_path):
    before, document = tensors(), {"steps": 5, "lr": 0.1 + 0.2, "betas": [0.0, 0.99]}
    path = checkpoint.save_checkpoint(tmp_path, 1000, document, before)
    loaded, after = checkpoint.load_checkpoint(path)
    assert same(before, after)
    assert {k: loaded[k] for k in document} == document
    after["b"] += 1
    assert not same(before, after)


def test_only_the_last_and_the_best_are_kept(tmp_path):
    for images, value in ((10, 5.0), (20, 3.0), (30, 4.0), (40, 6.0), (50, 3.5)):
        path = checkpoint.save_checkpoint(tmp_path, images, {}, tensors(), keep=2)
        checkpoint.mark_if_best(tmp_path, path, "swd", value, higher_is_better=False)
    assert [p.name[-2:] for p in checkpoint.list_checkpoints(tmp_path)] == ["20", "40", "50"]
    assert checkpoint.best_of(tmp_path).name.endswith("20")
    checkpoint.mark_if_best(tmp_path, path, "swd", float("nan"), higher_is_better=False)
    assert checkpoint.best_of(tmp_path).name.endswith("20")
    checkpoint.mark_if_best(tmp_path, path, "is", 9.0, higher_is_better=True)
    assert checkpoint.best_of(tmp_path).name.endswith("50")


def test_nothing_half_written_is_left_by_a_failed_write(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match="No space left"):
        checkpoint.save_checkpoint(tmp_path, 10, {}, tensors())
    assert os.listdir(tmp_path) == []  # not even a scratch folder
    monkeypatch.undo()
    checkpoint.save_checkpoint(tmp_path, 20, {}, tensors())
    assert os.listdir(tmp_path) == ["images-000000000020"]


@pytest.mark.parametrize("damage", ["half", "empty", "no state", "no tensors", "bad json", "other format"])
def test_a_damaged_checkpoint_is_one_clear_line(tmp_path, damage):
    path = checkpoint.save_checkpoint(tmp_path, 10, {}, tensors())
    weights, state = path / "tensors.safetensors", path / "state.json"
    if damage in ("half", "empty"):
        data = weights.read_bytes()
        weights.write_bytes(data[:len(data) // 2] if damage == "half" else b"")
    elif damage == "no tensors":
        weights.unlink()
    elif damage == "no state":
        state.unlink()
    else:
        state.write_text('{"format": 99}' if damage == "other format" else '{"format": 1, ')
    with pytest.raises(UserError, match="images-000000000010") as caught:
        checkpoint.load_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"checkpoint": "images-000000000010"}', '{"checkpoint": 3, "value": 1.0}',
                                  '{"checkpoint": "images-000000000010", "value": "low"}', "\xff"])
def test_a_damaged_mark_of_the_best_is_skipped_with_a_note_and_written_anew(tmp_path, text):
    for images in (10, 20):
        path = checkpoint.save_checkpoint(tmp_path, images, {}, tensors())
    (tmp_path / "best.json").write_bytes(text.encode("latin-1"))
    with pytest.warns(UserWarning, match=r"best\.json is damaged"):
        assert checkpoint.best_of(tmp_path) is None
    with pytest.raises(UserError, match=r"best\.json is damaged .*--which last") as caught:
        checkpoint.check_mark(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.warns(UserWarning, match="until then it is ignored"):
        checkpoint.mark_if_best(tmp_path, path, "swd", 3.0, higher_is_better=False)
    assert checkpoint.best_of(tmp_path) == path
    checkpoint.check_mark(tmp_path)


def test_no_mark_is_no_damage(tmp_path):
    checkpoint.check_mark(tmp_path)
    assert checkpoint.best_of(tmp_path) is None


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture
def readable_folder():
    """A folder that other accounts may enter; pytest's own are closed to them."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@contextlib.contextmanager
def another_account():
    """Inside, this process may read what others may: root gives up its rights for a moment."""
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_are_readable_for_whom_the_umask_lets_read(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        path = checkpoint.save_checkpoint(tmp_path, 10, {}, tensors())
    finally:
        os.umask(before)
    assert {file.name: file.stat().st_mode & 0o777 for file in path.iterdir()} == {
        "tensors.safetensors": mode, "state.json": mode}


def test_a_closed_file_or_folder_is_not_a_missing_one(readable_folder):
    path = checkpoint.save_checkpoint(readable_folder, 10, {}, tensors())
    (path / "tensors.safetensors").chmod(0o600)
    says = r"cannot read .*tensors\.safetensors .*Permission denied"
    with another_account(), pytest.raises(UserError, match=says) as caught:
        checkpoint.load_newest(readable_folder)
    assert "incomplete" not in str(caught.value) and "\n" not in str(caught.value)
    readable_folder.chmod(0o700)
    with another_account(), pytest.raises(UserError, match=r"cannot read .*Permission denied"):
        checkpoint.list_checkpoints(readable_folder)


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_one_flipped_bit_is_found_and_the_checkpoint_before_is_taken(tmp_path, name):
    first, second = (checkpoint.save_checkpoint(tmp_path, n, {"steps": n, "rate": 0.1, "text": "x" * 4000}, tensors())
                     for n in (10, 20))
    flip_a_bit(second / name)
    with pytest.raises(checkpoint.Damaged, match=rf"images-000000000020 is damaged \({name}.*SHA-256"):
        checkpoint.load_checkpoint(second)
    found = checkpoint.load_newest(tmp_path)
    assert found.path == first and found.document["steps"] == 10
    assert len(found.skipped) == 1 and "images-000000000020" in found.skipped[0]
    with pytest.raises(UserError, match=r"images-000000000020 .*--strict"):
        checkpoint.load_newest(tmp_path, strict=True)
    flip_a_bit(first / name)
    with pytest.raises(UserError, match="no older one can be used"):
        checkpoint.load_newest(tmp_path)


def test_a_checkpoint_of_before_the_hashes_is_read(tmp_path):
    before = tensors()
    path = checkpoint.save_checkpoint(tmp_path, 10, {"steps": 5}, before)
    state = json.loads((path / "state.json").read_text())
    assert set(state.pop("sha256")) == {"tensors", "state"}
    (path / "state.json").write_text(json.dumps(state))
    document, after = checkpoint.load_checkpoint(path)
    assert document == state and same(before, after)


def test_one_that_does_not_fit_is_skipped_and_kept_under_another_name(tmp_path):
    for n in (10, 20, 30):
        checkpoint.save_checkpoint(tmp_path, n, {"steps": n}, tensors(), keep=3)
    found = checkpoint.load_newest(tmp_path, unfit=lambda state: "too late" if state["steps"] > 10 else "")
    assert found.path.name.endswith("10") and [("too late" in reason) for reason in found.skipped] == [True, True]
    renamed = checkpoint.rename_newer(tmp_path, found.path)
    assert [path.name for path in renamed] == ["unused-images-000000000020", "unused-images-000000000030"]
    assert checkpoint.list_checkpoints(tmp_path) == [found.path] and all(path.is_dir() for path in renamed)
    checkpoint.save_checkpoint(tmp_path, 20, {"steps": 20}, tensors())
    assert checkpoint.rename_newer(tmp_path, found.path)[0].name == "unused-images-000000000020-2"


@pytest.mark.parametrize("text, says", [
    ("[]", "not an object"), ('{"format": 1}', '"images" is missing'), ("\xff", "state.json is damaged"),
    ('{"format": 1, "images": "many", "steps": 1, "seconds": 1.0}', '"images" is text'),
])
def test_a_state_of_another_shape_is_one_line(tmp_path, text, says):
    path = checkpoint.save_checkpoint(tmp_path, 10, {}, tensors())
    (path / "state.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=says) as caught:
        checkpoint.load_checkpoint(path, checkpoint.POSITION)
    assert "\n" not in str(caught.value)


def test_nothing_advises_to_delete(tmp_path):
    """Whatever is wrong with a checkpoint, it may be all that somebody has."""
    for path in map(Path, (checkpoint.__file__, run_folder.__file__)):
        strings = [node.value for node in ast.walk(ast.parse(path.read_text()))
                   if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        docs = {ast.get_docstring(node, clean=False) for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)}
        assert not [s for s in strings if s not in docs and re.search(r"\b(remove|delete|erase)\b", s)], path
