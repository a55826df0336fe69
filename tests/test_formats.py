"""What version 0.1 wrote is still read: a run's folder, a store, a results file. Made by it once, kept as files."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import ganbench
from ganbench.data import open_dataset
from ganbench.records import append, read

GOLDEN = Path(__file__).parent / "golden" / "format-1"


@pytest.fixture
def old_run(tmp_path) -> Path:
    return Path(shutil.copytree(GOLDEN / "run", tmp_path / "run"))


def test_a_run_is_loaded_with_the_weights_it_had(old_run):
    run = ganbench.load_run(old_run)
    assert (run.images, run.step, run.config["config_hash"]) == (64, 4, "db8cf1e9a5eb6e17")
    saved = load_file(old_run / "checkpoints/images-000000000064/tensors.safetensors")
    for name, value in run.family.state_dict().items():
        assert torch.equal(value, saved[f"family/{name}"]), name
    assert run.sample(3, seed=1).shape == (3, 1, 16, 16)


def test_a_run_is_resumed_and_ends_where_that_version_ended(old_run):
    from ganbench.training.session import resume
    outcome = resume(old_run, steps=8)
    after = load_file(outcome.path / "checkpoints/images-000000000128/tensors.safetensors")
    expected = load_file(GOLDEN / "after-8-steps.safetensors")  # that version's own resume to 8 steps
    assert set(expected) == {name for name in after if name.startswith("family/")}
    for name, value in expected.items():
        torch.testing.assert_close(after[name], value, rtol=1e-4, atol=1e-6)
    rows = pd.read_csv(old_run / "results.csv")
    assert sorted(rows["step"].unique()) == [4, 8] and rows["config_hash"].nunique() == 1


def test_a_store_is_read():
    store = open_dataset(str(GOLDEN / "store"))
    assert (store.n, store.side, store.channels, len(store.classes)) == (1610, 16, 1, 10)
    assert store.content_hash.startswith("d47b32468f0d") and store.level(8).shape == (1610, 1, 8, 8)


def test_a_results_file_is_read_and_takes_new_rows(tmp_path):
    path = Path(shutil.copy(GOLDEN / "results.csv", tmp_path / "results.csv"))
    old = read(path)
    frame = ganbench.load_results(path)
    assert len(old) == len(frame) == 2
    assert frame["value"].tolist() == pd.read_csv(GOLDEN / "results.csv")["value"].tolist()
    assert append(path, [{**old[0], "metric": "another"}]) == 1
    assert [row["metric"] for row in read(path)] == ["swd", "swd", "another"]
