"""`ganbench.evaluate` and `ganbench.features`: whatever images come as, the numbers of the command line."""

import numpy as np
import pytest
import torch
from PIL import Image

import ganbench
from ganbench import records
from ganbench.errors import UserError
from ganbench.report.comparison import build_table

RNG = np.random.default_rng(3)
REAL = RNG.integers(0, 256, (140, 16, 16, 3), dtype=np.uint8)
FAKE = (REAL[::-1].astype(int) * 3 // 4).astype(np.uint8)


@pytest.fixture(scope="module")
def expected():
    return ganbench.evaluate(FAKE, REAL, "swd", floor=False, device="cpu")


def folder(path, images):
    path.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(path / f"{i:04d}.png")
    return path


def test_folders_arrays_tensors_and_functions_give_the_same(tmp_path, expected):
    def generator(n, seed):  # a set of its own order: batches of 64 in a row
        start = generator.given
        generator.given += n
        return torch.from_numpy(FAKE[start:start + n].transpose(0, 3, 1, 2).copy())

    generator.given = 0
    planes = torch.from_numpy(REAL.transpose(0, 3, 1, 2).copy())
    for fake, real, n in ((folder(tmp_path / "fake", FAKE), folder(tmp_path / "real", REAL), None),
                          (FAKE, planes, None),
                          (generator, REAL, len(FAKE))):
        found = ganbench.evaluate(fake, real, ["swd"], floor=False, device="cpu", n=n)
        assert found.values == expected.values


def test_floats_from_0_to_1_as_the_message_says(expected):
    """It named an option of the command line, which Python called no setting of SWD."""
    def made(n, seed):
        return (FAKE[:n] / 255).transpose(0, 3, 1, 2).astype(np.float32)

    asked = {"metrics": ["swd"], "n": 64, "floor": False, "device": "cpu"}
    with pytest.raises(UserError, match=r"in Python value_range=\(0, 1\)"):
        ganbench.evaluate(made, REAL, **asked)
    with pytest.raises(UserError, match=r"it is value_range=\(BLACK, WHITE\) in Python"):
        ganbench.evaluate(made, REAL, range="0,1", **asked)
    assert "value_range" in ganbench.evaluate.__doc__
    found = ganbench.evaluate(made, REAL, value_range=(0, 1), **asked)
    assert found.values == ganbench.evaluate(FAKE[:64], REAL, **asked).values


@pytest.mark.parametrize(("metric", "n", "says"), [
    ("swd", 1, "only 1 image on a side: distances"),
    ("swd", 64, "only 64 images on a side: intervals are wide, and dist"),
    ("wavelet_frechet", 9, "only 9 images on a side: distances are biased upwards")])
def test_few_images_are_said_to_make_intervals_wide_where_there_are_some(metric, n, says):
    found = ganbench.evaluate(FAKE, REAL, [metric], n=n, floor=False, device="cpu")
    assert any(pair is not None for pair in found.intervals.values()) == ("intervals" in says)
    assert any(line.startswith(says) for line in found.warnings)
    assert all(f"left out: {140 - n} not in the sample of --n" in line for line in found.inputs)


def test_what_comes_back_can_be_read_by_name_shown_and_kept(tmp_path, expected):
    assert expected["swd avg"] == expected.values["swd avg"] > 0
    with pytest.raises(KeyError, match="swd avg"):
        expected["fid"]
    assert list(expected.frame["level"]) == ["16", "avg"] and expected.frame["n_fake"].tolist() == [140, 140]
    assert set(expected.intervals) == set(expected.values)
    shown = expected._repr_html_()
    assert f"{expected['swd avg']:.4g}" in shown and "only 140 images" in shown and "<table>" in shown
    assert "swd avg" in repr(expected)
    head, row = expected.latex().splitlines()
    assert head.startswith("% & swd 16") and row.endswith(r"\\") and row.count("&") == head.count("&") == 2
    assert expected.save(tmp_path / "r.csv") == 2
    assert ganbench.load_results(tmp_path / "r.csv")["value"].tolist() == list(expected.values.values())
    assert set(expected.rows[0]) <= set(records.COLUMNS)


def test_what_is_called_the_same_is_one_line_each_in_the_report(tmp_path):
    """Pictures that were replaced in their place are the same line, which has the newest value."""
    table, given = tmp_path / "r.csv", []
    for number in (1, 2):
        (tmp_path / f"exp{number}").mkdir()
        given.append(folder(tmp_path / f"exp{number}" / "fakes", FAKE // number))
    for fake in (*given, FAKE // 3, FAKE // 4):
        ganbench.evaluate(fake, REAL, "swd", floor=False, device="cpu").save(table)
    for i, image in enumerate(FAKE // 5):
        Image.fromarray(image).save(given[0] / f"{i:04d}.png")
    newest = ganbench.evaluate(given[0], REAL, "swd", floor=False, device="cpu")
    newest.save(table)
    block, = build_table(ganbench.load_results(table))
    average = next(c for c in block.columns if c.level == "avg")
    values = {e.label.partition("#")[0]: e.cells[average].last_summary.mean for e in block.entries}
    assert len(block.entries) == 4 and set(values) == {"exp1/fakes", "exp2/fakes", "array"}
    assert values["exp1/fakes"] == newest["swd avg"]


@pytest.mark.parametrize("call, says", [
    (lambda: ganbench.evaluate(FAKE, REAL, ["swdd"]), "swd"), (lambda: ganbench.evaluate(FAKE), "compared with"),
    (lambda: ganbench.evaluate(FAKE, REAL, ["swd"], patchez=3), "no setting 'patchez'"),
    (lambda: ganbench.evaluate(FAKE, REAL, ["swd"], kid={"subsets": 3}), "kid, which is not among"),
    (lambda: ganbench.evaluate(FAKE.astype(float), REAL, ["swd"]), "uint8"),
    (lambda: ganbench.evaluate(17, REAL, ["swd"]), "int cannot be scored"),
    (lambda: ganbench.features(FAKE, network="inseption"), "inception-v3-compat"),
    (lambda: ganbench.evaluate(None, REAL), "nothing is given to be scored"),
    (lambda: ganbench.evaluate("", REAL), "`fake` is empty"),
    (lambda: ganbench.evaluate(FAKE, ""), "`real` is empty"),
    *((lambda n=n: ganbench.evaluate(FAKE, REAL, n=n), f"n = .* is refused: {says}") for n, says in (
        (0, "give 1 or more"), (-1, "give 1 or more"), (1.5, "input should be a valid integer"),
        ("5", "input should be a valid integer"), (True, "input should be a valid integer"), (10**20, "give a numb"))),
    (lambda: ganbench.evaluate(FAKE, REAL, seed=-1), "seed = -1 is refused: give 0 or more"),
    (lambda: ganbench.evaluate(FAKE, REAL, side=16.5), "side = 16.5"),
    (lambda: ganbench.evaluate(FAKE, REAL, split=3), "split = 3"),
    (lambda: ganbench.evaluate(FAKE, REAL, floor="no"), "floor = 'no'"),
    (lambda: ganbench.evaluate(FAKE, REAL, compat=5), "unknown compatibility mode '5'"),
    (lambda: ganbench.evaluate(FAKE, REAL, which="bset"), "unknown checkpoint 'bset'. Did you mean 'best'"),
    *((lambda given=given: ganbench.evaluate(lambda n, seed: FAKE[:n], REAL, n=9, value_range=given), "BLACK,WHITE")
      for given in ("1,0", (1, 0), 3, (0, 1, 2), "0,inf")),
    *((lambda given=given: ganbench.evaluate(FAKE, REAL, given), "names no metric") for given in (
        None, [], "", ["swd", 3], 7)),
    (lambda: ganbench.features(FAKE, network="random-vgg16", n=-3), "n = -3 is refused"),
    (lambda: ganbench.features(FAKE, network="random-vgg16", seed="a"), "seed = 'a' is refused"),
])
def test_what_the_caller_can_put_right_is_one_line(call, says):
    with pytest.raises(UserError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_features_are_the_networks_in_the_order_of_the_images():
    from ganbench.metrics.networks.features import open_network
    found = ganbench.features(REAL[:9], network="random-vgg16", device="cpu")
    network = open_network("random-vgg16")
    [direct] = network(torch.from_numpy(REAL[:9].transpose(0, 3, 1, 2).copy())).values()
    assert torch.equal(found, direct) and found.shape == (9, 512)
    assert torch.equal(ganbench.features(lambda n, seed: REAL[:n].transpose(0, 3, 1, 2), network="random-vgg16", n=9,
                                         device="cpu"),
                       direct)


def test_a_metric_that_could_not_be_had_is_in_everything_that_is_shown():
    found = ganbench.evaluate(FAKE, REAL, ["swd", "m_global"], strict=False, floor=False, device="cpu")
    line = "m_global could not be measured: m_global measures a trained model"
    assert "swd avg" in found.values and any(warning.startswith(line) for warning in found.warnings)
    assert line in repr(found) and line in found._repr_html_()


def test_a_range_is_taken_as_text_and_as_numbers():
    def floats(n, seed):
        return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(5))

    found = [ganbench.evaluate(floats, REAL, n=40, value_range=given, floor=False, device="cpu").values
             for given in ("0,1", (0, 1), [0.0, 1.0], np.array([0, 1]))]
    assert all(values == found[0] for values in found)


@pytest.mark.parametrize("name, row", [
    ("my 100% fakes_&#", r"my 100\% fakes\_\&\# & "),
    ("a$b^{c}~", r"a\$b\textasciicircum{}\{c\}\textasciitilde{} & ")])
def test_a_name_in_a_row_for_latex_is_escaped(tmp_path, name, row):
    found = ganbench.evaluate(folder(tmp_path / name, FAKE), REAL, floor=False, device="cpu").latex().splitlines()
    assert found[-1].startswith(row) and len(found) == 2
    assert found[0].startswith(r"% & swd 16 $\downarrow$ & swd avg $\downarrow$")


def test_the_macro_that_a_name_of_another_script_needs_is_before_the_row(tmp_path):
    path = tmp_path / "\u753b\u50cf"
    folder(path, FAKE)
    macro, _, row = ganbench.evaluate(path, REAL, floor=False, device="cpu").latex().splitlines()
    assert row.startswith("\\gbcjk{\u753b\u50cf}{U+753B U+50CF} & ")
    assert macro.startswith(r"\DeclareRobustCommand{\gbcjk}[2]")


def test_a_run_is_scored_and_shown(tmp_path, monkeypatch):
    from ganbench.training.run_options import RunOptions
    from ganbench.training.session import run
    monkeypatch.chdir(tmp_path)
    path = run(RunOptions("dcgan", preset="smoke", side=16, steps=2, metrics=[], results=None, quiet=True,
                          n_eval=128)).path
    loaded = ganbench.load_run(path)
    by_path = ganbench.evaluate(path, metrics=["swd"], floor=False, device="cpu")
    assert ganbench.evaluate(loaded, metrics="swd", floor=False).values == by_path.values
    usual = {"which": "last", "ema": None, "n": 128.0, "strict": 1}  # the defaults, said
    assert ganbench.evaluate(loaded, None, ["swd"], floor=0, **usual).values == by_path.values
    assert by_path.rows[0]["family"] == "dcgan"
    for call, says in ((lambda: loaded.sample(0), "n = 0 is refused: give 1 or more"),
                       (lambda: loaded.sample(1.5), "n = 1.5 is refused"),
                       (lambda: ganbench.load_run(path, which="bset"), "unknown checkpoint 'bset'. Did you mean 'be"),
                       (lambda: ganbench.evaluate(path, which="worst"), "unknown checkpoint 'worst'"),
                       (lambda: ganbench.evaluate(loaded, which="best"), "loaded already; give which to ganbench"),
                       (lambda: ganbench.load_run(path, device="gpu"), "device 'gpu' cannot be used here")):
        with pytest.raises(UserError, match=says):
            call()
    samples = loaded.sample(5)
    assert samples._repr_png_().startswith(b"\x89PNG") and type(samples[:2]) is torch.Tensor
    assert "data:image/png;base64," in loaded._repr_html_() and "dcgan" in repr(loaded)
