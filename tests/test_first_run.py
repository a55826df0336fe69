"""What somebody sees who trains for the first time: how long it will take, a preset that ends, and what to do next."""

from pathlib import Path

import pytest

from ganbench.bench import estimate
from ganbench.commands import run as command
from ganbench.training import session
from ganbench.training.document import resolve
from ganbench.training.run_options import RunOptions

DIGITS = {"dataset": "digits", "side": 32, "results": None, "metrics": []}


@pytest.fixture
def cost(monkeypatch):
    """Seconds by preset, instead of measured ones."""
    seconds = {"paper": 7200.0, "laptop": 240.0}
    monkeypatch.setattr(estimate, "seconds_of", lambda resolved: seconds[resolved.preset])
    return seconds


def test_hours_on_a_cpu_become_the_laptop_preset_and_that_is_said(cost, elsewhere, capsys):
    resolved = command._estimated(resolve(RunOptions("dcgan", device="cpu", **DIGITS)))
    output = capsys.readouterr().err
    assert resolved.preset == "laptop" and resolved.document["preset"] == "laptop"
    assert "2:00:00" in output and "--preset paper insists" in output and "about 4:00 of training" in output


def test_a_preset_that_was_named_is_kept_and_so_is_one_that_is_quick(cost, elsewhere, capsys):
    assert command._estimated(resolve(RunOptions("dcgan", preset="paper", device="cpu", **DIGITS))).preset == "paper"
    assert "about 2:00:00 of training" in capsys.readouterr().err
    cost["paper"] = 60.0
    assert command._estimated(resolve(RunOptions("dcgan", device="cpu", **DIGITS))).preset == "paper"
    assert command._estimated(resolve(RunOptions("dcgan", device="cpu", quiet=True, **DIGITS))).preset == "paper"


def test_the_estimate_is_of_the_run_that_follows(elsewhere):
    """In steps, real images or seconds: the first limit counts."""
    by_steps = resolve(RunOptions("dcgan", preset="smoke", steps=8, seconds=1e6, device="cpu", **DIGITS))
    twice = resolve(RunOptions("dcgan", preset="smoke", steps=8000, device="cpu", **DIGITS))
    assert 0 < estimate.seconds_of(by_steps) < estimate.seconds_of(twice)
    assert estimate.seconds_of(resolve(RunOptions("dcgan", preset="smoke", seconds=0.5, device="cpu", **DIGITS))) == 0.5


def test_estimating_does_not_change_what_is_trained(elsewhere):
    options = {**DIGITS, "preset": "smoke", "steps": 2, "device": "cpu"}
    plain = session.run(RunOptions("dcgan", quiet=True, **options))
    looked = session.run(RunOptions("dcgan", **options), look=command._estimated)
    first, second = ((r.path / "checkpoints").glob("*/tensors.safetensors") for r in (plain, looked))
    assert next(first).read_bytes() == next(second).read_bytes()


def test_the_end_says_what_is_next(capsys):
    path = Path("runs/my run")
    command._say_what_is_next(session.Outcome(path, "ok", "", [{"metric": "swd"}], 1.0), "results/r.csv")
    output = capsys.readouterr().err
    assert "ganbench sample 'runs/my run'" in output and "ganbench report results/r.csv" in output


def test_no_more_images_are_scored_than_shown_unless_asked_for(elsewhere, capsys):
    """A training of seconds is scored once, not ten times; a long one ten times."""
    common = {"dataset": "digits", "side": 32, "results": None, "device": "cpu", "n_eval": 512}
    short = resolve(RunOptions("dcgan", preset="smoke", **common))
    assert (short.plan.kimg, short.plan.score_every) == (1, 0.512)
    assert resolve(RunOptions("dcgan", preset="smoke", kimg=60, **common)).plan.score_every == 6
    assert resolve(RunOptions("dcgan", preset="smoke", eval_every=0.1, **common)).plan.score_every == 0.1
    assert command._scoring(short) == "; on top of it 512 images are scored 2 times (swd)"
    # as many as the training split has
    assert resolve(RunOptions("dcgan", preset="smoke", kimg=2, **{**common, "n_eval": 9999})).plan.score_every == 1.61


def test_few_images_and_mistyped_names_are_told(elsewhere, capsys, cost):
    import numpy as np
    from PIL import Image

    from ganbench.commands import show
    from ganbench.errors import UserError
    folder = Path("My Pictures")
    folder.mkdir()
    for i in range(6):
        Image.fromarray(np.full((16, 16, 3), 20 * i, np.uint8)).save(folder / f"{i}.PNG")
    asked = {"side": 16, "preset": "laptop", "results": None, "metrics": [], "device": "cpu"}
    command._estimated(resolve(RunOptions("dcgan", dataset=str(folder), **asked)))
    assert "images: a GAN learns so few by heart" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"no folder of that name\. Did you mean 'My Pictures'"):
        resolve(RunOptions("dcgan", dataset="My Picture", **asked))
    with pytest.raises(UserError, match=r"no family or metric 'fid-infinty'\. Did you mean 'fid_infinity'"):
        show.show("fid-infinty", markdown=True)
