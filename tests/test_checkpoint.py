"""Checkpoints are whole or absent, and say clearly what is wrong with a damaged one."""

import os

import pytest
import torch

from ganbench.errors import UserError
from ganbench.runs import checkpoint


def tensors():
    shared = torch.arange(6.0)
    return {"a/weight": torch.randn(3, 4), "b": torch.tensor(7), "c": shared, "d": shared.view(2, 3)[:, ::2],
            "rng": torch.get_rng_state()}


def test_what_is_saved_comes_back_to_the_bit(tmp_path):
    before, document = tensors(), {"steps": 5, "lr": 0.1 + 0.2, "betas": [0.0, 0.99]}
    path = checkpoint.save_checkpoint(tmp_path, 1000, document, before)
    loaded, after = checkpoint.load_checkpoint(path)
    assert checkpoint.same(before, after)
    assert {k: loaded[k] for k in document} == document
    after["b"] += 1
    assert not checkpoint.same(before, after)


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
    assert checkpoint.list_checkpoints(tmp_path) == []
    monkeypatch.undo()
    checkpoint.save_checkpoint(tmp_path, 20, {}, tensors())
    assert os.listdir(tmp_path) == ["images-000000000020"]  # the scratch folder went as well


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
def test_a_damaged_mark_of_the_best_is_passed_over_with_a_note_and_written_anew(tmp_path, text):
    for images in (10, 20):
        path = checkpoint.save_checkpoint(tmp_path, images, {}, tensors())
    (tmp_path / "best.json").write_bytes(text.encode("latin-1"))
    with pytest.warns(UserWarning, match=r"best\.json is damaged"):
        assert checkpoint.best_of(tmp_path) is None
    with pytest.raises(UserError, match=r"best\.json is damaged .*--which last") as caught:
        checkpoint.check_mark(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.warns(UserWarning, match="passed over"):
        checkpoint.mark_if_best(tmp_path, path, "swd", 3.0, higher_is_better=False)
    assert checkpoint.best_of(tmp_path) == path
    checkpoint.check_mark(tmp_path)


def test_no_mark_is_no_damage(tmp_path):
    checkpoint.check_mark(tmp_path)
    assert checkpoint.best_of(tmp_path) is None
