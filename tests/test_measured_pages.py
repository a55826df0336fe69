"""What README and docs say of results/ is what the tables there hold: made by `make measured`, compared here."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import ganbench
import ganbench.records

ROOT = Path(__file__).parent.parent


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"_{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def measured():
    return script("measured")


def test_pages_say_what_the_results_hold(measured):
    for page in measured.PAGES:
        assert measured.rewritten(page) == page.read_text(encoding="utf-8"), f"{page.name}: run `make measured`"
        assert "<!-- from results:" in page.read_text(encoding="utf-8")


def test_another_value_in_the_results_changes_the_pages(measured, tmp_path, monkeypatch):
    table = (measured.RESULTS / "pggan-fashion.csv").read_text(encoding="utf-8")
    (tmp_path / "pggan-fashion.csv").write_text(table, encoding="utf-8")
    monkeypatch.setattr(measured, "RESULTS", tmp_path)
    before = measured.pggan()
    frame = ganbench.load_results(tmp_path / "pggan-fashion.csv")
    value = repr(float(frame[(frame["family"] == "pggan") & (frame["level"] == "avg") & (frame["n_fake"] == 8192)]
                       .sort_values("kimg")["value"].iloc[-1]))
    changed = ",".join("99.9" if field == value else field for field in table.split(","))
    (tmp_path / "pggan-fashion.csv").write_text(changed, encoding="utf-8")
    assert changed != table and measured.pggan() != before and "99.9" in measured.pggan()


def test_the_sheet_has_a_labelled_place_for_each_family(measured):
    from PIL import Image
    made = measured.sheet({f"family {i}": Image.new("L", (544, 544), 40 * i) for i in range(4)})
    assert made.size == (840, 260) and {made.getpixel((100, 60)), made.getpixel((100, 190))} == {0, 120}
    coloured = measured.sheet({"family": Image.new("RGB", (272, 272), (10, 20, 30))})
    assert coloured.getpixel((100, 60)) == (10, 20, 30)


def test_every_metric_says_when_not_to_trust_it():
    from ganbench.plugins import names
    notes = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "_notes").glob("*.md")}
    assert set(notes) == set(names("metric"))
    assert all(text.startswith("## When not to trust it\n\n* ") for text in notes.values())


def test_the_questions_are_answered_from_the_results(capsys):
    script("questions").main()
    assert capsys.readouterr().out == (ROOT / "docs" / "questions.md").read_text(encoding="utf-8"), \
        "run `python docs/_questions.py > docs/questions.md`"


def test_modes_of_a_mixture_are_counted_by_distance():
    mixtures = script("mixtures")
    ring, grid = mixtures.ring(), mixtures.grid()
    assert ring.judged(ring.centres) == (8, 1.0) and grid.judged(grid.centres) == (25, 1.0)
    # 2.9 deviations away is near, 3.1 is not; the modes are many deviations apart
    away = torch.tensor([[2.9 * grid.deviation, 0.0]] * 3 + [[3.1 * grid.deviation, 0.0]])
    assert grid.judged(grid.centres[[0, 0, 7, 9]] + away) == (2, 0.75)
    # draws of a mixture: 98.9% of a normal distribution in the plane lies within 3 deviations
    modes, good = grid.judged(grid.draw(20_000, torch.Generator().manual_seed(1)))
    assert modes == 25 and good == pytest.approx(1 - torch.tensor(-4.5).exp().item(), abs=0.003)


def test_parts_left_out_are_read_from_settings_as_rows_have_them():
    without = script("questions").without
    rest = {"stable_kimg": 3.0, "fade_kimg": 3.0}
    settings = [{}, {"growing": False}, {"pixel_norm": False}, {"minibatch_stddev": False},
                {"minibatch_stddev": False, "minibatch_discrimination": True}]
    assert [without(ganbench.records.settings_text(rest | chosen)) for chosen in settings] == [
        "the whole", "without growing", "without pixel_norm", "without minibatch_stddev",
        "without minibatch_stddev, with minibatch_discrimination"]


def test_a_configuration_of_stylegan_is_read_from_settings_as_rows_have_them():
    steps = [{}, {"mixing": 0.0}, {"noise": False}, {"constant_input": False},
             {"mapping_layers": 0, "styles": False, "instance_norm": False, "pixel_norm": True},
             {"smooth": False, "loss": "wgan-gp", "initial_side": 4}]
    chosen, names = {"stable_kimg": 3.0, "fade_kimg": 3.0}, []
    for step in steps:
        chosen |= step
        names.append(script("questions").configuration(ganbench.records.settings_text(chosen)))
    assert names == ["F", "E", "D", "C", "B", "A"]
