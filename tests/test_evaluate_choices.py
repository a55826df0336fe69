"""Through `ganbench eval`: all choices of a library, ranges of generators, metrics that cannot be had, stale rows."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from test_evaluate_command import call, smooth  # noqa: F401 - a fixture
from test_evaluate_images import write_pngs

from ganbench.errors import Diverged, UserError
from ganbench.metrics.functional import sliced_wasserstein_distance
from ganbench.metrics.images.opening import open_images
from ganbench.metrics.metric import find_metric
from ganbench.metrics.networks.compat import MODES
from ganbench.metrics.networks.features import open_network
from ganbench.records import load_results

NOISE = ("--set", "network=random-vgg16")


def values(table="r.csv", **columns):
    frame = load_results(table)
    for column, value in columns.items():
        frame = frame[frame[column] == value]
    return frame


# --- rows -------------------------------------------------------------------------------------------------------------

def test_replaced_pictures_are_another_row(call, tmp_path):  # noqa: F811
    asked = ("eval", "--real", "reals", "--fake", "fakes", "--metric", "ms_ssim", "--results", "r.csv")
    call(*asked)
    write_pngs(tmp_path / "fakes", smooth(50, 9))
    assert "1 rows added" in call(*asked).output
    frame = values()
    assert len(frame) == 2 and frame.value.nunique() == 2 and frame.fake_hash.nunique() == 2
    assert "0 rows added" in call(*asked).output and len(values()) == 2


def test_other_sides_and_counts_are_rows_of_their_own(call):  # noqa: F811
    asked = ("eval", "--real", "reals", "--fake", "fakes", "--metric", "swd,ms_ssim", "--results", "r.csv",
             "--no-floor")
    for more, rows in ((("--side", "16"), 3), (("--side", "32"), 4), (("--n", "24"), 3), (("--n", "10"), 3)):
        before = len(values()) if rows != 3 or more != ("--side", "16") else 0
        call(*asked, *more)
        assert len(values()) == before + rows
    assert set(values(metric="ms_ssim").n_fake) == {50, 24, 10}


# --- metrics that cannot be had ---------------------------------------------------------------------------------------

def test_missing_weights_and_too_few_images_leave_the_other_metrics(call):  # noqa: F811
    asked = ("eval", "--real", "reals", "--fake", "fakes", "--metric", "fid,kid,ms_ssim", "--results", "r.csv",
             "--set", "kid.network=random-vgg16")
    result = call(*asked)
    assert result.exit_code == 3 and set(values().metric) == {"ms_ssim"}
    assert "fid could not be measured" in result.output and "ganbench weights get inception-v3-compat" in result.output
    assert "kid could not be measured" in result.output and "--set kid.subset_size=25" in result.output
    with pytest.raises(UserError, match="weights of inception-v3-compat are not here"):
        call(*asked, "--strict")
    with pytest.raises(UserError, match="nothing can be measured: the weights"):
        call("eval", "--real", "reals", "--fake", "fakes", "--metric", "fid", "--results", "")


def test_a_setting_of_a_wrong_type_is_one_line(call):  # noqa: F811
    with pytest.raises(UserError, match=r"--set prdc\.k=abc is refused"):
        call("eval", "--real", "reals", "--fake", "fakes", "--metric", "prdc", "--set", "prdc.k=abc", "--results", "")


# --- what a generator gives -------------------------------------------------------------------------------------------

FLOATS = torch.from_numpy(smooth(50, 4)).float() + torch.rand(50, 3, 16, 16, generator=torch.Generator().manual_seed(0))
MODULE = """
import torch
from test_evaluate_choices import FLOATS
def unit(n, seed): return (FLOATS / 256)[:n] if n <= 50 else None
def signed(n, seed): return (FLOATS / 127.5 - 1).clamp(-1, 1)[:n]
"""


@pytest.fixture
def generators(tmp_path, monkeypatch):
    (tmp_path / "made.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("made", None)


def test_floats_from_0_to_1_are_refused_until_their_range_is_named(call, generators):  # noqa: F811
    asked = ("eval", "--real", "reals", "--metric", "swd", "--n", "50", "--results", "r.csv", "--no-floor")
    with pytest.raises(UserError, match=r"as if black were 0: say with --range 0,1 .* or with --range=-1,1"):
        call(*asked, "--fake", "made:unit")
    call(*asked, "--fake", "made:unit", "--range", "0,1")
    bytes_ = ((FLOATS / 256) * 255).round().to(torch.uint8)
    reals = torch.from_numpy(smooth(100, 1))
    from ganbench.metrics.images.sets import shuffled
    chosen = reals[np.sort(shuffled(100)[:50])]
    expected = sliced_wasserstein_distance(chosen, bytes_)
    assert values(level="avg").value.item() == pytest.approx(expected.average, rel=1e-6)
    call(*asked, "--fake", "made:unit", "--range=-1,1")  # as it always was, if it is meant so
    assert values(level="avg").value.nunique() == 2
    for wrong, says in (("1,0", "as two numbers"), ("dark", "as two numbers"), ("0,255", "none of them")):
        if wrong != "0,255":
            with pytest.raises(UserError, match=says):
                call(*asked, "--fake", "made:unit", "--range", wrong)
    with pytest.raises(UserError, match=r"--range 0,1 cannot be used for fakes"):
        call(*asked, "--fake", "fakes", "--range", "0,1")
    with pytest.raises(UserError, match="give floats in"):
        call(*asked, "--fake", "made:unit", "--range", "0,0.25")


@pytest.mark.parametrize(("low", "high", "value_range", "outcome"), [
    (-0.02, 1, None, "refused"), (-0.2, 0.6, None, "refused"), (0, 0.4, None, "refused"),
    (-0.5, 0.5, None, "pale"), (-0.1, 0.1, None, "pale"), (0, 1, (0.0, 255.0), "pale"),
    (-0.02, 1, (0.0, 1.0), ""), (-0.02, 1, (-1.0, 1.0), ""), (-1, 1, None, ""), (-0.3, 1, None, "")])
def test_a_range_that_is_not_clear_is_refused_or_named(low, high, value_range, outcome):
    """uniform(-0.02, 1) and uniform(-0.5, 0.5) were taken as [-1,1] without a word."""
    def made(n, seed):
        return np.random.default_rng(seed).uniform(low, high, (n, 1, 8, 8)).astype(np.float32)
    if outcome == "refused":
        with pytest.raises(UserError, match=r"say with --range 0,1 \(in Python value_range=\(0, 1\)\) that it"):
            open_images(made, n=80, value_range=value_range)
        return
    images = open_images(made, n=80, value_range=value_range)
    pale = [line for line in images.warnings if "less than half of [" in line and "--range" in line]
    assert (len(pale), images.warnings) == (outcome == "pale", pale)


@pytest.mark.parametrize("compat", sorted(MODES))
def test_a_generators_floats_are_rounded_as_the_library_does(call, generators, compat):  # noqa: F811
    call("eval", "--real", "reals", "--fake", "made:signed", "--metric", "swd", "--n", "50", "--results", "r.csv",
         "--no-floor",
         "--compat", compat)
    from ganbench.metrics.images.sets import shuffled
    chosen = torch.from_numpy(smooth(100, 1))[np.sort(shuffled(100)[:50])]
    images = (FLOATS / 127.5 - 1).clamp(-1, 1)
    expected = sliced_wasserstein_distance(chosen, MODES[compat].quantise(images)).average
    row = values(level="avg").iloc[0]
    assert row.value == pytest.approx(expected, rel=1e-6)
    assert ("rounding=stylegan" in row.protocol) == (MODES[compat].rounding == "stylegan")


def test_one_set_of_images_has_one_rounding(call, generators):  # noqa: F811
    asked = ("eval", "--real", "reals", "--fake", "made:signed", "--n", "20", "--metric", "swd,fid", *NOISE,
             "--results", "")
    with pytest.raises(UserError, match="give it to all with --compat stylegan3"):
        call(*asked, "--set", "fid.compat=stylegan3")
    with pytest.raises(Diverged):
        MODES["stylegan3"].quantise(torch.full((1, 3, 4, 4), float("nan")))


# --- pictures of any shape --------------------------------------------------------------------------------------------

@pytest.fixture
def shapes(tmp_path):
    """Reals of 20x28 and 40x24, fakes of 16x16."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "shapes"
    folder.mkdir()
    pictures = []
    for i in range(24):
        size = (28, 20, 3) if i % 3 else (24, 40, 3)
        picture = rng.integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{i:03d}.png")
        pictures.append(picture)
    return pictures


@pytest.mark.parametrize("compat", ["torch-fidelity", "pytorch-fid", "clean-fid"])
def test_pictures_of_any_shape_reach_the_network_as_the_library_hands_them_over(call, shapes, tmp_path, compat):  # noqa: F811
    """Each resized from its own shape to the network's side: neither cropped nor brought to the fakes' side first."""
    result = call("eval", "--real", "shapes", "--fake", "fakes", "--metric", "fid", *NOISE, "--compat", compat,
                  "--results", "r.csv")
    network = open_network("random-vgg16", compat=compat)
    metric = find_metric("fid")(network, compat=compat)
    for picture in shapes:
        metric.update(torch.from_numpy(picture).permute(2, 0, 1)[None], real=True)
    metric.update(torch.from_numpy(smooth(50, 2)))
    assert values().value.item() == pytest.approx(metric.compute(), rel=1e-4)
    assert "each in its own size" in result.output and "resized (crop" not in result.output
    squared = call("eval", "--real", "shapes", "--fake", "fakes", "--metric", "fid", *NOISE, "--results", "r.csv")
    # our own way: square, at the fakes' side
    assert "resized (crop" in squared.output and values().value.nunique() == 2


def test_metrics_on_pixels_need_squares_of_one_size(call, shapes):  # noqa: F811
    asked = ("eval", "--real", "shapes", "--fake", "fakes", "--metric", "fid,swd", *NOISE, "--compat", "clean-fid",
             "--results", "r.csv")
    result = call(*asked)
    assert result.exit_code == 3 and "swd could not be measured: swd needs square images of one size" in result.output
    assert call(*asked, "--side", "16").exit_code == 0


def test_kid_on_few_images_says_the_subsets_it_drew(call):  # noqa: F811
    call("eval", "--real", "reals", "--fake", "fakes", "--n", "24", "--metric", "kid", *NOISE, "--compat", "clean-fid",
         "--results", "r.csv")
    assert "subsets=100x24;" in values().protocol.item()


def test_the_same_folder_on_both_sides_is_remarked_upon(call):  # noqa: F811
    result = call("eval", "--real", "fakes", "--fake", "fakes", "--metric", "swd", "--results", "")
    assert "the generated images are the real ones" in result.output
