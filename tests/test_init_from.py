"""`--init-from`: which weights are taken over, which are left, and that a run says so."""

import json
import shutil

import pytest
import torch
from model_support import same

from ganbench import records
from ganbench.errors import UserError
from ganbench.runs.checkpoint import list_checkpoints, load_checkpoint, mark_if_best
from ganbench.training import session
from ganbench.training.run_options import RunOptions


def options(place, **more):
    common = {"dataset": "digits", "preset": "smoke", "steps": 4, "results": None, "metrics": [], "device": "cpu",
              "quiet": True, "side": 32}
    return RunOptions(more.pop("family", "stylegan2"), out=str(place), **common | more)


def tensors(folder, index=-1):
    return load_checkpoint(list_checkpoints(folder / "checkpoints")[index])[1]


def document(folder):
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return session.run(options(tmp_path_factory.mktemp("init") / "first", checkpoint_every=0.008, keep=9)).path


def begun(monkeypatch, place, **more):
    """The state as a run's first step finds it."""
    seen = {}

    def looking(self, stage):
        if not seen:
            self.engine.average()
            seen.update({name: value.clone() for name, value in self.engine.state()[1].items()})
        return plain(self, stage)

    plain = session.Trainer._step
    monkeypatch.setattr(session.Trainer, "_step", looking)
    session.run(options(place, **more))
    return seen


def test_networks_and_average_begin_where_the_other_run_ended(trained, tmp_path, monkeypatch):
    first, seen = tensors(trained), begun(monkeypatch, tmp_path / "b", init_from=str(trained), seed=7)
    networks = [name for name in first if name.startswith(("family/generator.", "family/critic."))]
    assert len(networks) > 40 and all(torch.equal(first[name], seen[name]) for name in networks)
    # the average has since been moved by one step's share of where the generator is
    name = "generator.constant"
    moved = (seen["averaged/constant"] - first["averaged/constant"]).abs().max()
    apart = (first[f"family/{name}"] - first["averaged/constant"]).abs().max()
    assert 0 < moved < apart / 2
    assert not any(name.startswith("optimizer/") for name in seen), "optimizers begin anew"
    said = document(tmp_path / "b")["init_from"]
    assert said["run"] == document(trained)["run"] and said["left"] == [] and said["taken"] == len(networks)


def test_what_does_not_fit_is_named_and_left_at_its_initialisation(trained, tmp_path, monkeypatch):
    changed = {"channels": 3}
    seen = begun(monkeypatch, tmp_path / "colour", init_from=str(trained), **changed)
    fresh = begun(monkeypatch, tmp_path / "fresh", **changed)
    first, left = tensors(trained), document(tmp_path / "colour")["init_from"]["left"]
    assert "critic.from_image.5.weight" in left and "generator.to_image.2.bias" in left and len(left) == 9
    assert all(torch.equal(seen[f"family/{name}"], fresh[f"family/{name}"]) for name in left)
    assert torch.equal(seen["family/generator.constant"], first["family/generator.constant"])
    assert document(tmp_path / "colour")["config_hash"] != document(tmp_path / "fresh")["config_hash"]


def test_it_goes_on_bit_by_bit_although_the_other_run_is_gone(trained, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    whole = session.run(options(tmp_path / "whole", init_from=str(other), steps=6)).path
    parts = session.run(options(tmp_path / "parts", init_from=str(other), steps=3)).path
    shutil.rmtree(other)
    session.resume(parts, steps=6, quiet=True)
    assert same(tensors(whole), tensors(parts))
    assert document(parts)["init_from"]["sha256"] == document(whole)["init_from"]["sha256"]


def test_the_best_checkpoint_and_the_rows_note(trained, tmp_path):
    checkpoints = list_checkpoints(trained / "checkpoints")
    mark_if_best(trained / "checkpoints", checkpoints[0], "fid", 1.0, higher_is_better=False)
    path = session.run(options(tmp_path / "best", init_from=f"{trained}:best", metrics=["swd"], n_eval=64,
                               results=str(tmp_path / "rows.csv"))).path
    assert document(path)["init_from"]["checkpoint"] == str(checkpoints[0])
    note = records.load_results(tmp_path / "rows.csv").iloc[-1]["note"]
    assert f"begun with weights of {document(trained)['run']} at" in note


def test_what_cannot_be_begun_with_is_one_line(trained, tmp_path):
    for text, more, message in ((str(tmp_path), {}, "not a run"), (str(tmp_path / "no"), {}, "no run"),
                                (str(trained), {"family": "vae"}, "none of its")):
        with pytest.raises(UserError, match=message) as caught:
            session.run(options(tmp_path / "x", init_from=text, resume=True, **more))
        assert "\n" not in str(caught.value)
