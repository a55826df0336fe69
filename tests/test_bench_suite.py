"""Suites: cells in number and identity, and every mistake named with its line before anything runs."""

import hashlib
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from ganbench.bench import tomlfile
from ganbench.bench.suite import Suite, plan
from ganbench.commands import bench
from ganbench.errors import UserError
from ganbench.plugins import names

TOY = str(Path(__file__).with_name("toy.py"))
SUITES = sorted(Path(__file__).parents[1].joinpath("benchmarks").glob("*.toml"))

GOOD = f"""\
title = "Toys"
seeds = [0, 1]
budget = {{ kimg = 0.1 }}

[evaluation]
metrics = ["swd"]
n = 100

[[dataset]]
name = "digits"
side = 16

[[family]]
name = "{TOY}"
presets = ["paper", "fast"]

[[family]]
name = "{TOY}"
preset = "fast"
set = {{ batch = 4 }}
sweep = {{ rate = [0.1, 0.2], decay = [0.0, 0.9] }}
"""

PICKY = """
from toy import Toy
from ganbench.family import Preset

class Picky(Toy):
    needs_labels = True
    presets = {"paper": Preset("any"), "at64": Preset("for 64", side=64)}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a suite, by default the good one with some text replaced, and return its path."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))

    def to(*replacements, text=GOOD):
        for old, new in replacements:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path = tmp_path / "suite.toml"
        path.write_text(text)
        return path

    return to


def test_cells_are_the_product_in_the_order_of_the_file(write):
    planned = plan(write())
    assert len(planned.cells) == 2 * (2 + 4)
    assert [c.name for c in planned.cells[:4]] == ["toy-paper-digits-16-s0", "toy-paper-digits-16-s1",
                                                   "toy-fast-digits-16-s0", "toy-fast-digits-16-s1"]
    assert planned.cells[4].name == "toy-fast-batch=4-decay=0.0-rate=0.1-digits-16-s0"
    swept = [dict(c.settings) for c in planned.cells[4:] if c.seed == 0]
    assert [(s["rate"], s["decay"]) for s in swept] == [(0.1, 0.0), (0.1, 0.9), (0.2, 0.0), (0.2, 0.9)]
    assert json.loads(planned.cells[0].config)["rate"] == 0.05 and json.loads(planned.cells[2].config)["rate"] == 0.1
    assert len(planned.references) == 1 and planned.references[0].n == 100
    assert [c.name for c in planned.only(["paper", "rate=0.2"]).cells if c.seed == 1] == [
        "toy-paper-digits-16-s1", "toy-fast-batch=4-decay=0.0-rate=0.2-digits-16-s1",
        "toy-fast-batch=4-decay=0.9-rate=0.2-digits-16-s1"]


def test_a_cell_is_identified_by_what_its_result_depends_on(write):
    original = plan(write())
    keys = [c.key for c in original.cells]
    assert len(set(keys)) == len(keys)
    assert [c.key for c in plan(write(('"Toys"', '"Other words"'))).cells] == keys
    assert [c.key for c in plan(write(("seeds = [0, 1]", "seeds = [1, 0]"))).cells][:2] == [keys[1], keys[0]]
    for change in (("kimg = 0.1", "kimg = 0.2"), ("n = 100", "n = 101"), ("side = 16", "side = 32"),
                   ("seeds = [0, 1]", "seeds = [2, 3]"), ("n = 100", "n = 100\nevery = 0.05"),
                   ('title = "Toys"', 'title = "Toys"\nprecision = "bf16"')):
        assert not set(keys) & {c.key for c in plan(write(change)).cells}, change
    # a setting written out that is the preset's own value anyway is the same training
    assert plan(write(('presets = ["paper", "fast"]',
                       'preset = "paper"\nset = { rate = 0.05 }'))).cells[0].key == keys[0]


def test_arguments_are_those_of_the_run_command(write):
    cell = plan(write(("kimg = 0.1", "steps = 7"), ("n = 100", "n = 100\nevery = 0.05"))).cells[4]
    assert cell.arguments() == [
        "run", TOY, "--dataset", "digits", "--preset", "fast", "--side", "16", "--channels", "1", "--seed", "0",
        "--steps", "7", "--precision", "auto", "--n-eval", "100", "--eval-every", "0.05", "--metric", "swd",
        "--set", "batch=4", "--set", "decay=0.0", "--set", "rate=0.1"]


MISTAKES = {
    "unknown top key": (("seeds = [0, 1]", "seed = [0, 1]"), 2, "unknown key 'seed'", "Did you mean 'seeds'?"),
    "unknown family key": (('preset = "fast"', 'presett = "fast"'), 19, "unknown key 'presett' in [family]",
                           "Did you mean 'preset'?"),
    "unknown evaluation key": (("n = 100", "nn = 100"), 7, "unknown key 'nn' in [evaluation]", "Known: metrics"),
    "unknown budget key": (("{ kimg = 0.1 }", "{ kim = 0.1 }"), 3, "unknown key 'kim' in [budget]", "'kimg'"),
    "two budgets": (("{ kimg = 0.1 }", "{ kimg = 0.1, steps = 3 }"), 3, "exactly one of kimg, steps and seconds", ""),
    "no length": (("{ kimg = 0.1 }", "{ kimg = 0 }"), 3, "budget.kimg = 0", "greater than 0"),
    "no metrics": (('metrics = ["swd"]\n', ""), 5, "evaluation.metrics", "missing"),
    "a word for a number": (("n = 100", 'n = "many"'), 7, "evaluation.n = 'many'", "integer"),
    "a seed twice": (("seeds = [0, 1]", "seeds = [1, 1]"), 1, "seed is listed twice", ""),
    "unknown metric": (('metrics = ["swd"]', 'metrics = ["swdd"]'), 6, "unknown metric 'swdd'", "'swd'"),
    "unknown data set": (('name = "digits"', 'name = "digit"'), 10, "digit", "'digits'"),
    "unknown preset": (('preset = "fast"', 'preset = "fats"'), 19, "unknown preset 'fats'", "'fast'"),
    "unknown setting": (("{ batch = 4 }", "{ bach = 4 }"), 20, "no setting 'bach'", "'batch'"),
    "refused value": (("{ batch = 4 }", "{ batch = 1 }"), 20, "batch = 1 is refused", "greater than or equal to 2"),
    "set and swept": (("{ batch = 4 }", "{ batch = 4, rate = 1 }"), 17, "'rate' is given in both set and sweep", ""),
    "preset and presets": (('preset = "fast"', 'preset = "fast"\npresets = ["paper"]'), 17, "either preset or presets",
                           ""),
    "a cell twice": (('presets = ["paper", "fast"]', 'presets = ["paper", "paper"]'), None, "is listed twice", ""),
    "an endless budget": (("kimg = 0.1", "kimg = 1e300"), 3, "budget.kimg = 1e+300 is refused", "1000000000000"),
    "true for a number": (("kimg = 0.1", "steps = true"), 3, "budget.steps = True is refused", "integer"),
    "text for a number": (("kimg = 0.1", 'kimg = "2"'), 3, "budget.kimg = '2' is refused", "number"),
    "true for a seed": (("seeds = [0, 1]", "seeds = [true]"), 2, "seeds = True is refused", "integer"),
    "too large a seed": (("seeds = [0, 1]", "seeds = [100000000000000000000]"), 2, "seeds = 1000", "less than"),
    "a count among settings": (("n = 100", "n = 100\nset = { swd = { n = 50 } }"), 5, "set.swd.n is refused", "n_of"),
    "not TOML": (("seeds = [0, 1]", "seeds = [0, 1"), None, "not TOML", "line"),
    "a side that is none": (("side = 16", "side = 24"), None, "24", ""),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_with_their_line(write, mistake):
    change, line, *says = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        plan(write(change))
    message = str(caught.value)
    assert "\n" not in message and "suite.toml" in message
    for part in says:
        assert part in message
    if line is not None:
        assert f"suite.toml line {line}:" in message


def test_an_editors_byte_order_mark_is_no_mistake_and_endless_brackets_are_one(write):
    path = write()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert plan(path).cells == plan(write()).cells
    path.write_text("a = " + "[" * 100_000)
    with pytest.raises(UserError, match=r"suite\.toml: not TOML"):
        plan(path)


def test_impossible_combinations_are_refused_before_anything_runs(write, tmp_path):
    (tmp_path / "picky.py").write_text(PICKY)
    (tmp_path / "photos").mkdir()
    for i in range(5):
        Image.fromarray(np.full((16, 16, 3), 40 * i, np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    unlabelled = (('name = "digits"', f'name = "folder:{tmp_path}/photos"'),
                  (f'name = "{TOY}"\npresets = ["paper", "fast"]', f'name = "{tmp_path}/picky.py"'))
    with pytest.raises(UserError, match=r"line 13: picky on folder:.*needs labels"):
        plan(write(*unlabelled))
    with pytest.raises(UserError, match=r"line 13: preset 'at64' of picky is made for side 64.*one of paper"):
        plan(write((f'name = "{TOY}"\npresets = ["paper", "fast"]', f'name = "{tmp_path}/picky.py"\npreset = "at64"')))
    with pytest.raises(UserError, match=r"line 17: the suite has no data set 'digit'.*Did you mean 'digits'"):
        plan(write(('presets = ["paper", "fast"]', 'presets = ["paper", "fast"]\n\ndatasets = ["digit"]')))
    with pytest.raises(UserError, match=r"no cell of .* Did you mean"):
        plan(write()).only(["papper"])
    with pytest.raises(UserError, match="no such suite"):
        plan(tmp_path / "nowhere.toml")


def test_lines_of_keys_in_all_spellings():
    text = '''# comment
a = 1
b.c = 2
[t]
"x y" = """
z = 3
[not.a.table]
"""
[[f]]
n = 1
[f.sub]
q = 2
[[f]]   # again
n = { k = 1 }
'''
    assert tomlfile.places(text) == {
        ("a",): 2, ("b",): 3, ("b", "c"): 3, ("t",): 4, ("t", "x y"): 5, ("f",): 9, ("f", 0, "n"): 10,
        ("f", 0, "sub"): 11, ("f", 0, "sub", "q"): 12, ("f", 0): 9, ("f", 1): 13, ("f", 1, "n"): 14}


@pytest.mark.parametrize("path", SUITES, ids=lambda p: p.stem)
def test_shipped_suites_can_be_planned_without_their_images(path, monkeypatch):
    def nothing(name, **_):
        raise UserError(f"no {name} here")

    monkeypatch.setattr("ganbench.bench.suite.open_dataset", nothing)
    monkeypatch.setattr("ganbench.metrics.networks.weight_files.require", lambda name: None)
    suite, _ = tomlfile.read_toml(path, Suite)
    assert suite.title and suite.about
    if {data.name for data in suite.dataset} == {"digits"}:
        return  # always at hand
    with pytest.raises(UserError, match=r"no .* here"):
        plan(path)
    planned = plan(path, dry=True)
    assert len(planned.notes) == len(suite.dataset)
    assert len({c.key for c in planned.cells}) == len(planned.cells) >= len(suite.seeds) * len(suite.family)


def test_the_plan_of_a_narrow_terminal_still_names_its_cells(tmp_path, monkeypatch):
    import io

    from rich.console import Console

    from ganbench.bench import estimate
    from ganbench.training.flops import Flops
    monkeypatch.setattr(estimate, "estimate", lambda *_: estimate.Estimate(22_900_000, 22_900_000, Flops(27_600_000_000,
                                                                           413_200_000_000), 61_803_518.0, 11.6e9))
    suite = tmp_path / "s.toml"
    suite.write_text('title = "x"\nbudget = {steps = 2}\n[evaluation]\nmetrics = ["swd"]\n'
                     '[[dataset]]\nname = "digits"\n[[family]]\nname = "stylegan"\npreset = "smoke"\n')
    console = Console(file=io.StringIO(), width=80)
    estimate.print_plan(plan(suite), 2, console)
    text = console.file.getvalue()
    for part in ("stylegan", "digits", "22.9M", "27.6G", "413.2G", "715 days", "11.6 GB"):
        assert part in text, part


def test_what_a_suite_sets_stands_whole_below_the_plan(tmp_path):
    """In a column of ten characters it was cut in the middle of words."""
    import io

    from rich.console import Console

    from ganbench.bench import estimate
    suite = tmp_path / "s.toml"
    suite.write_text('title = "x"\nbudget = {steps = 2}\n[evaluation]\nmetrics = ["swd"]\n'
                     '[[dataset]]\nname = "digits"\n[[family]]\nname = "pggan"\npreset = "smoke"\n'
                     '[[family]]\nname = "pggan"\npreset = "smoke"\nset = {equalized = false, fade_kimg = 0.5}\n')
    console = Console(file=io.StringIO(), width=80)
    estimate.print_plan(plan(suite), 2, console)
    lines = console.file.getvalue().splitlines()
    assert "(1) equalized=false fade_kimg=0.5" in lines
    assert sum(line.startswith(" pggan smoke (1)") for line in lines) == 1


def test_a_suite_without_precision_takes_the_machines_and_keeps_its_cells(write, monkeypatch):
    """fp32 was the default: on a CPU that is what auto comes to, on a GPU with tf32 it is another training."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    silent, fp32 = plan(write()), plan(write(('title = "Toys"', 'title = "Toys"\nprecision = "fp32"')))
    assert [c.key for c in silent.cells] == [c.key for c in fp32.cells]
    assert {c.used_precision for c in silent.cells} == {"fp32"}
    keys = [c.key for c in silent.cells]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert {c.used_precision for c in silent.cells} == {"tf32"}
    assert not {c.key for c in silent.cells} & set(keys) and [c.key for c in fp32.cells] == keys


def test_keys_are_those_of_earlier_manifests(write, monkeypatch):
    """Cells and references that say nothing new have the hash that the version before made of them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def old(parts):
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]

    planned = plan(write())
    cell, reference = planned.cells[4], planned.references[0]
    names = ("family", "preset", "config", "dataset", "data_hash", "side", "channels", "classes", "crop", "seed")
    assert cell.key == old({name: vars(cell)[name] for name in names} | {
        "settings": None, "budget": {"kimg": 0.1, "steps": None, "seconds": None}, "precision": "fp32",
        "evaluation": {"metrics": ["swd"], "n": 100, "every": None}})
    names = ("dataset", "data_hash", "side", "channels", "crop", "metrics", "n")
    assert reference.key == old({name: vars(reference)[name] for name in names})


def test_a_setting_of_every_family_is_in_the_key_only_where_it_differs(write):
    before, same, other = (plan(write(("set = { batch = 4 }", f"set = {{ batch = 4{more} }}")))
                           for more in ("", ", accumulate = 1", ", accumulate = 2"))
    assert {c.config for c in before.cells} == {c.config for c in same.cells} != {c.config for c in other.cells}
    assert not any("accumulate" in c.config for c in same.cells)


def test_a_split_is_in_the_hash_the_arguments_and_the_name_only_where_it_is_given(write):
    before, after = plan(write()), plan(write(("side = 16", 'side = 16\nsplit = "all"')))
    assert not {c.key for c in before.cells} & {c.key for c in after.cells}
    assert before.references[0].key != after.references[0].key
    assert "--split" not in before.cells[0].arguments() and after.references[0].request()["split"] == "all"
    arguments = after.cells[0].arguments()
    assert arguments[arguments.index("--split") + 1] == "all"
    assert "-all-" in after.cells[0].name and before.cells[0].data_hash != after.cells[0].data_hash


def test_two_splits_of_one_data_set_are_two_tables(write):
    planned = plan(write(("side = 16", 'side = 16\n[[dataset]]\nname = "digits"\nside = 16\nsplit = "test"')))
    assert len({c.key for c in planned.cells}) == 2 * 12 and len({r.name for r in planned.references}) == 2


def test_budgets_an_entry_and_the_presets_own(write):
    planned = plan(write(("{ kimg = 0.1 }", '"preset"'), ("set = { batch = 4 }",
                                                          "set = { batch = 4 }\nbudget = { steps = 9 }")))
    assert [(c.budget.unit, c.budget.amount) for c in planned.cells if c.seed == 0] == [
        ("kimg", 0.4), ("kimg", 0.2)] + [("steps", 9)] * 4  # each preset's own length
    assert planned.cells[4].name.startswith("toy-fast-batch=4-decay=0.0-rate=0.1-9steps-")
    assert "9steps" in planned.cells[4].label and planned.cells[0].arguments()[10:14] == ["--seed", "0", "--kimg",
                                                                                          "0.4"]
    assert planned.cells[4].columns == {"settings": "batch=4 decay=0.0 rate=0.1", "budget": "steps 9"}
    assert str(planned.suite.budget) == "each preset's own length"


def test_counts_and_settings_of_single_metrics(write):
    text = ('metrics = ["swd", "ms_ssim"]\nn_of = { ms_ssim = 40 }\n'
            'set = { swd = { patches = 16 } }\ntargets = { swd = 30 }')
    before, planned = plan(write(('["swd"]', '["swd", "ms_ssim"]'))), plan(write(('metrics = ["swd"]', text)))
    arguments = " ".join(planned.cells[0].arguments())
    assert "--n-eval 100 --metric swd,ms_ssim --eval-set swd.patches=16 --eval-set ms_ssim.n=40" in arguments
    assert planned.references[0].request()["settings"] == {"swd": {"patches": 16}, "ms_ssim": {"n": 40}}
    assert not {c.key for c in before.cells} & {c.key for c in planned.cells}
    timed = plan(write(('metrics = ["swd"]', 'metrics = ["swd", "ms_ssim"]\ntargets = { swd = 30 }')))
    assert [c.key for c in timed.cells] == [c.key for c in before.cells]  # how it is reported is no other training


def test_paths_start_at_the_suites_own_folder(write, tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    for i in range(8):
        Image.fromarray(np.full((16, 16, 3), 20 * i, np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
    (tmp_path / "mine.py").write_text("from toy import Toy\n\nclass Mine(Toy):\n    pass\n")
    path = write(('"digits"', '"pictures"'), (f'name = "{TOY}"\npresets', 'name = "mine.py"\npresets'),
                 ("n = 100", "n = 8"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    planned = plan(path)
    assert planned.cells[0].arguments()[1:4] == [str(tmp_path / "mine.py"), "--dataset", str(tmp_path / "pictures")]
    assert planned.cells[0].name.startswith("mine-paper-pictures-16")
    path.rename(elsewhere / "suite.toml")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no such file|paths in a suite start at its own folder; write \.\./pictures"):
        plan(elsewhere / "suite.toml")


def test_two_files_of_one_name_are_refused(write, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text("from toy import Toy\n\nclass Mine(Toy):\n    pass\n")
    path = write((f'name = "{TOY}"\npresets', 'name = "a/mine.py"\npresets'),
                 (f'name = "{TOY}"\npreset =', 'name = "b/mine.py"\npreset ='))
    with pytest.raises(UserError, match=r"line 18: two families are called mine, .*a/mine.py and .*b/mine.py"):
        plan(path)


def test_a_file_called_like_a_shipped_family_is_refused_beside_it(write, tmp_path):
    (tmp_path / "dcgan.py").write_text("from toy import Toy\n\nclass Mine(Toy):\n    pass\n")
    path = write((f'name = "{TOY}"\npresets', 'name = "dcgan.py"\npresets'),
                 (f'name = "{TOY}"\npreset =', 'name = "dcgan"\npreset ='))
    with pytest.raises(UserError, match=r"line 18: two families are called dcgan, .*/dcgan.py and dcgan: .*rename"):
        plan(path)


@pytest.mark.parametrize(("change", "line", "says"), [
    (("{ kimg = 0.1 }", "{ kimg = inf }"), 3, "finite"), (("{ kimg = 0.1 }", "{ seconds = nan }"), 3, "finite|greater"),
    (("n = 100", "n = 100\nevery = inf"), 8, "finite"), (("{ kimg = 0.1 }", '"presets"'), 3, "budget"),
    (('title = "Toys"', 'title = "Toys"\nprecision = "fp61"'), 2, "unknown precision 'fp61'. Did you mean 'fp16'"),
    (("{ batch = 4 }", "{ batch = 4, noise = nan }"), 17, "noise = nan is refused"),
    (("n = 100", "n = 100\nset = { swd = { patch = 3 } }"), 8, "swd has no setting 'patch'"),
    (("n = 100", "n = 100\nn_of = { fid = 3 }"), 5, "'fid' is in n_of, and not in metrics"),
    (("n = 100", "n = 100\nn_of = { swd = 1 }"), 5, "at least 2"),
    (("side = 16", 'side = 16\nsplit = "tets"'), 10, "tets"),
    (("{ batch = 4 }", '{ batch = 4, augment = "adda" }'), 17, "unknown augmentation 'adda'. Did you mean 'ada'"),
])
def test_more_mistakes_are_named_before_anything_runs(write, change, line, says):
    with pytest.raises(UserError, match=says) as caught:
        plan(write(change))
    assert f"line {line}:" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("setting, says", [
    ("patch = 1", "swd has no setting 'patch'. Did you mean 'patches'"),
    ("patches = nan", "swd.patches=NaN is refused"), ("size = inf", "swd.size=Infinity is refused"),
    ("seed = -1", "swd.seed=-1 is refused"),
    ("n = -5", r"set\.swd\.n is refused"),
])
@pytest.mark.parametrize("dry", [False, True])
def test_settings_of_metrics_are_checked_in_a_dry_run_too(write, setting, says, dry):
    with pytest.raises(UserError, match=says) as caught:
        plan(write(("n = 100", f"n = 100\nset = {{ swd = {{ {setting} }} }}")), dry=dry)
    assert "\n" not in str(caught.value)


def test_a_dry_run_needs_no_weights_and_finds_too_few_images(write, monkeypatch, tmp_path):
    monkeypatch.setenv("GANBENCH_CACHE", str(tmp_path / "empty"))
    assert plan(write(('["swd"]', '["fid"]')), dry=True).cells
    with pytest.raises(UserError, match="ganbench weights get"):
        plan(write(('["swd"]', '["fid"]')))
    with pytest.raises(UserError, match="subset"):
        plan(write(('["swd"]', '["kid"]')), dry=True)


def test_a_suite_decides_the_split_and_says_where_a_preset_means_another(write, tmp_path):
    (tmp_path / "whole.py").write_text(PICKY.replace("needs_labels = True", "").replace("Picky", "Whole").replace(
        'Preset("any")', 'Preset("any", split="all")'))
    path = write((f'name = "{TOY}"\npresets = ["paper", "fast"]', 'name = "whole.py"\npreset = "paper"'))
    planned = plan(path)
    arguments = planned.cells[0].arguments()
    assert arguments[arguments.index("--split") + 1] == "train"  # as the references and the suite's hash have it
    assert any("whole paper is made for split all and trains on train here" in note for note in planned.notes)


@pytest.mark.parametrize(("name", "lengths"), [("pggan-table1", [10_000] * 8 + [20_000]),
                                               ("stylegan-ladder", [12_000] + [25_000] * 5)])
def test_the_papers_ladders_take_all_images_and_each_rung_its_own_length(name, lengths):
    planned = plan(next(path for path in SUITES if path.stem == name), dry=True)
    assert [cell.budget.kimg for cell in planned.cells] == lengths
    assert {cell.split for cell in planned.cells} == {"all"}
    assert planned.cells[0].evaluation.n_of in ({"ms_ssim": 20_000}, {"ppl": 100_000})


def test_every_metric_is_in_a_suite_or_it_is_written_why_not():
    header = "".join(line for line in (SUITES[0].parent / "every-metric.toml").read_text().splitlines(keepends=True)
                     if line.startswith("#"))
    used = {metric for suite in SUITES for metric in tomllib.loads(suite.read_text())["evaluation"]["metrics"]}
    missing = [metric for metric in names("metric") if metric not in used and metric not in header]
    assert not missing and used <= set(names("metric"))


@pytest.mark.parametrize("arguments, says", [
    (["--html", "suite.toml"], "what is written is .html"), (["--results", "t.csv", "--html", "./t.csv"], "is .html"),
    (["--results", "t.html"], "t.html is read, and would be replaced")])
def test_the_page_of_a_suite_replaces_neither_suite_nor_table(write, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    before = write().read_bytes()
    app = typer.Typer()
    bench.register(app)
    result = CliRunner().invoke(app, ["suite.toml", *arguments])
    assert isinstance(result.exception, UserError) and says in str(result.exception)
    assert Path("suite.toml").read_bytes() == before and not Path("runs").exists()
