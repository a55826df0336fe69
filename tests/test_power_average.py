"""Power-function averages: the published code's numbers, reconstruction against tracking, runs that keep and resume."""

import numpy as np
import pytest
import torch
from model_support import same

from ganbench.errors import UserError
from ganbench.runs import posthoc
from ganbench.runs.checkpoint import list_checkpoints, load_checkpoint
from ganbench.runs.eval_request import EvalRequest
from ganbench.runs.run_folder import load_run
from ganbench.runs.scoring import run_request
from ganbench.training import session
from ganbench.training.power_average import parse_widths
from ganbench.training.run_options import RunOptions


def test_the_published_codes_numbers():
    """edm2's training/phema.py, run on its own."""
    assert [posthoc.exponent(w) for w in (0.05, 0.1, 0.2, 0.28)] == pytest.approx(
        [16.972198602303447, 6.937203937601809, 1.8262137798958404, 0.16934399376949866])
    assert [posthoc.decay(w, 1000, 50) for w in (0.05, 0.2)] == pytest.approx([0.3977811601857587, 0.865051864044842])
    found = posthoc.coefficients([100, 100, 250, 250, 400, 400], [0.05, 0.1] * 3, 400, 0.15)
    assert found.tolist() == pytest.approx([-0.0005902105658715577, 0.0021560196815242827, -0.03836137710652117,
                                            0.11737587362364892, -0.31790813131748896, 1.2373278256847084], rel=1e-6)


def test_an_average_weighs_moments_by_their_power():
    """Against the sum over the whole history, and its width against the definition."""
    history, width = torch.randn(4000, 3).double(), 0.12
    average = torch.zeros(3).double()
    for step, value in enumerate(history, 1):
        average = torch.lerp(value, average, posthoc.decay(width, step, 1))
    moments = np.arange(1, 4001)
    weights = (moments / 4000) ** posthoc.exponent(width)
    weights /= weights.sum()
    expected = (torch.tensor(weights)[:, None] * history).sum(0)
    assert torch.allclose(average, expected, atol=2e-3)
    mean = (weights * moments).sum()
    assert ((weights * (moments - mean) ** 2).sum() ** 0.5 / 4000) == pytest.approx(width, rel=1e-3)


@pytest.mark.parametrize("width", [0.03, 0.08, 0.15, 0.22])
def test_a_reconstruction_is_what_tracking_would_have_given(width):
    """A drifting, shaking parameter; two widths kept at 40 checkpoints."""
    random = np.random.default_rng(0)
    steps = 4000
    history = np.cumsum(random.normal(size=(steps, 50)), 0) / 60 + 0.5 * random.normal(size=(steps, 50))
    tracked = {w: np.zeros(50) for w in (0.05, 0.1, width)}
    kept, times, widths = [], [], []
    for step, value in enumerate(history, 1):
        for w in tracked:
            beta = posthoc.decay(w, step, 1)
            tracked[w] = beta * tracked[w] + (1 - beta) * value
        if step % 100 == 0:
            for w in (0.05, 0.1):
                kept.append(tracked[w].copy())
                times.append(float(step))
                widths.append(w)
    made = posthoc.coefficients(times, widths, float(steps), width) @ np.array(kept)
    error = np.linalg.norm(made - tracked[width]) / np.linalg.norm(tracked[width])
    other = np.linalg.norm(tracked[0.1] - tracked[width]) / np.linalg.norm(tracked[width])
    assert error < 0.01 and error < other / 5, (error, other)


def options(place, steps):
    return RunOptions("dcgan", dataset="digits", preset="smoke", side=32, steps=steps, metrics=[], results=None,
                      device="cpu", quiet=True, checkpoint_every=0.032, out=str(place),
                      overrides={"ema_snapshots": "0.05,0.1", "ema_width": "0.15"})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return session.run(options(tmp_path_factory.mktemp("power") / "whole", 24)).path


def last(run, folder="checkpoints"):
    return load_checkpoint(list_checkpoints(run / folder)[-1])[1]


def test_a_run_keeps_averages_from_which_its_own_is_made_again(run):
    assert len(list_checkpoints(run / "ema")) > len(list_checkpoints(run / "checkpoints")) == 2
    loaded, made = load_run(run), load_run(run, ema=0.15)
    plain = dict(loaded.family.generator.named_parameters())
    for name, value in loaded.generator.named_parameters():
        error = (dict(made.generator.named_parameters())[name] - value).norm()
        assert error < 0.02 * value.norm() + 1e-6 and (plain[name] - value).norm() > 3 * error
    exact = load_run(run, ema=0.1)
    for name, value in exact.generator.named_parameters():
        assert torch.allclose(value, last(run)[f"power/0.1/{name}"], atol=1e-6)
    assert made.sample(4).float().std() > 0


def test_it_goes_on_bit_by_bit(run, tmp_path):
    session.run(options(tmp_path / "parts", 11))
    parts = session.resume(tmp_path / "parts", steps=24, quiet=True).path
    assert same(last(run), last(parts)) and same(last(run, "ema"), last(parts, "ema"))


def test_a_row_says_which_average_it_is_of(run):
    rows = [run_request(EvalRequest(names=["swd"], run=str(run), n=32, ema=ema, floor=False, device="cpu",
                                    results=None)).rows[-1] for ema in (None, 0.15)]
    assert rows[1]["settings"] == rows[0]["settings"] + " --ema=0.15"
    assert rows[0]["config_hash"] != rows[1]["config_hash"] and rows[0]["run"] == rows[1]["run"]


def test_what_cannot_be_averaged_is_one_line(run, tmp_path):
    for text in ("0.05,x", "0.3", "0.1,0.1", "0"):
        with pytest.raises(UserError) as caught:
            parse_widths(text)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no relative width"):
        load_run(run, ema=0.5)
    plain = session.run(RunOptions("dcgan", dataset="digits", preset="smoke", side=32, steps=2, metrics=[], quiet=True,
                                   results=None, device="cpu", out=str(tmp_path / "plain"))).path
    with pytest.raises(UserError, match="kept no averages"):
        load_run(plain, ema=0.1)
