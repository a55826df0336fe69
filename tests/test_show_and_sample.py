"""`ganbench show`, `ganbench presets`, `ganbench sample`: what they print and write."""

import numpy as np
import pytest
import torch
import typer
from measure_support import Call, Known
from PIL import Image
from typer.testing import CliRunner

from ganbench import family as families
from ganbench.commands import show as show_commands
from ganbench.commands.sample import grid_latents, parse_arithmetic, picture_of, write_folder
from ganbench.errors import UserError
from ganbench.plugins import names
from ganbench.runs.run_folder import Run

FAMILY = '''
"""A family for tests."""
from ganbench.family import Family, FamilyConfig, Preset, setting

class MineConfig(FamilyConfig):
    width: int = setting(64, "maps at the finest layer", "table 2")
    rate: float = setting(1e-4, "learning rate | both", "section 4")

class Mine(Family):
    title, paper, summary = "MineGAN", "Author 2020", "An idea. A second sentence. A third."
    Config = MineConfig
    presets = {"paper": Preset("as the paper"), "small": Preset("quick", kimg=1, width=8)}
    quantities = {"loss": "the critic's loss"}
    convergence = "loss"
    healthy, sick, misprints = "It falls.", "It rises.", "Table 2 says 46."
'''


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FAMILY)
    return str(path)


def app_of(room):
    app = typer.Typer()
    app.callback()(lambda: None)
    room.register(app)
    return app


def test_a_page_says_everything_the_class_says(mine):
    page = show_commands.page(mine)
    for text in ("# MineGAN", "**Paper.** Author 2020", "A second sentence.",
                 "| `paper` (default) | any | 100 | as the paper |",
                 "| `small` | any | 1 | quick | width=8 |", "| `width` | 64 | maps at the finest layer | table 2 |",
                 "learning rate \\| both", "| `loss` | the critic's loss |", "Watch `loss` (ema0.99)",
                 "## Healthy training\n\nIt falls.", "## Sick training\n\nIt rises.",
                 "## Known misprints\n\nTable 2 says 46."):
        assert text in page


def test_a_file_is_run_by_its_path(tmp_path):
    """`ganbench run mine` was printed, and is no family."""
    path = tmp_path / "my files" / "mine.py"
    path.parent.mkdir()
    path.write_text(FAMILY)
    assert f"`ganbench run '{path}'`" in show_commands.page(str(path))
    assert "`ganbench run wgan-gp`" in show_commands.page("wgan_gp")
    # a metric's file has the page of a metric, also as a file
    path.write_text("from ganbench.metrics.measures.ms_ssim import MSSSIM\n\nclass Own(MSSSIM):\n    title = 'Own'\n")
    assert f"# Own\n\n`ganbench eval --metric '{path}'`" in show_commands.page(str(path))
    assert [file.read_text()[:5] for file in show_commands.write_pages(str(tmp_path / "pages"), str(path))] == ["# Own"]
    path.write_text("x = 1\n")
    with pytest.raises(UserError, match="expected one public subclass of Family or Metric, found 0"):
        show_commands.page(str(path))


@pytest.mark.parametrize("name", sorted(names("family")))
def test_every_family_has_a_full_page(name):
    page, family = show_commands.page(name), families.find_family(name)
    for heading in ("## Presets", "## Settings", "## Logged quantities", "## Healthy training", "## Sick training"):
        assert heading in page
    assert all(f"`{key}`" in page for key in [*family.presets, *family.Config.model_fields, *family.quantities])
    assert family.title and family.paper and family.summary


def test_show_prints_markdown_or_a_rendered_page(mine):
    app = app_of(show_commands)
    plain = CliRunner().invoke(app, ["show", mine, "--markdown"])
    assert plain.exit_code == 0 and plain.output.strip() == show_commands.page(mine).strip()
    rendered = CliRunner().invoke(app, ["show", mine])
    assert rendered.exit_code == 0 and "MineGAN" in rendered.output and "##" not in rendered.output.split("Presets")[0]


def test_pages_of_all_families_are_written_for_docs(tmp_path, mine):
    written = show_commands.write_pages(str(tmp_path / "pages"))
    assert [p.stem for p in written] == sorted(names("family"))
    assert written[0].read_text().strip() == show_commands.page(written[0].stem)
    (only,) = show_commands.write_pages(str(tmp_path / "one"), mine)
    assert only.name == "mine.md" and "# MineGAN" in only.read_text()
    with pytest.raises(UserError, match="cannot write"):
        show_commands.write_pages(str(only))
    assert CliRunner().invoke(app_of(show_commands), ["show"]).exception.args[0].startswith("name a family")


def test_presets_diff_names_what_differs_and_nothing_else(mine):
    rows = show_commands.differences(mine, "paper", "small")
    assert [row[:3] for row in rows] == [("width", "64", "8"), ("kimg", "100", "1")]
    got = CliRunner().invoke(app_of(show_commands), ["presets", "diff", mine, "paper", "small"])
    assert got.exit_code == 0 and "width" in got.output and "rate" not in got.output
    same = CliRunner().invoke(app_of(show_commands), ["presets", "diff", mine, "paper", "paper"])
    assert "same settings" in same.output
    with pytest.raises(UserError, match="Did you mean 'small'"):
        show_commands.differences(mine, "paper", "smal")


def a_run(tmp_path, **options):
    family = Known(Call(lambda z, *_: (z[:, :1, None, None] / 3).expand(-1, 1, 8, 8)), **options)
    state = {"images": 0, "steps": 0, "seconds": 0.0}
    return Run(tmp_path, {"run": "test"}, family, family.generator, state, torch.device("cpu"), trust=False,
               checkpoint=tmp_path)


@pytest.mark.parametrize("n", [10, 64, 300])
def test_arithmetic_names_images_of_the_grid_of_that_seed(tmp_path, n):
    run = a_run(tmp_path)
    z = grid_latents(run, n, seed=5)
    images = run.sample(n, seed=5)
    assert torch.equal(families.to_uint8(run.family.generate(z, None, run.generator)), images)


def test_arithmetic_as_it_is_written():
    assert parse_arithmetic("1,5,9 - 2, 3,4+ 6,7,8", 10) == ([1, 5, 9], [2, 3, 4], [6, 7, 8])
    assert parse_arithmetic("0-1+2", 3) == ([0], [1], [2])
    for text in ("1,2", "1-2", "a-b+c", "1,,2-3+4", "1 2-3+4"):
        with pytest.raises(UserError, match="write image numbers"):
            parse_arithmetic(text, 10)
    with pytest.raises(UserError, match="no image 12"):
        parse_arithmetic("1-2+12", 12)


@pytest.mark.parametrize("kind", ["grid", "walk", "interpolate-z", "arithmetic"])
def test_a_picture_is_the_same_for_the_same_seed_and_another_for_another(tmp_path, kind):
    run = a_run(tmp_path)
    def make(seed):
        return picture_of(run, kind, n=12, seed=seed, arithmetic="0,1,2-3,4,5+6,7,8")
    assert make(0).dtype == np.uint8 and np.array_equal(make(0), make(0))
    assert not np.array_equal(make(0), make(1))


def test_single_images_as_files(tmp_path):
    run = a_run(tmp_path)
    write_folder(run, str(tmp_path / "png"), 3, 0, "png", None)
    write_folder(run, str(tmp_path / "npz"), 3, 0, "npz", None)
    expected = run.sample(3, 0).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(np.load(tmp_path / "npz" / "samples.npz")["images"], expected)
    files = sorted((tmp_path / "png").iterdir())
    assert [f.name for f in files] == ["000000.png", "000001.png", "000002.png"]
    assert np.array_equal(np.stack([np.asarray(Image.open(f)) for f in files]), expected[..., 0])
    with pytest.raises(UserError, match="png or npz"):
        write_folder(run, str(tmp_path), 3, 0, "gif", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_folder(run, str(tmp_path / "file"), 3, 0, "png", None)


@pytest.mark.parametrize("kind", ["png", "npz"])
def test_single_images_are_not_mixed_with_what_is_there(tmp_path, kind):
    """A second run's images went beside the first's, and one folder was scored as one generator."""
    run, folder = a_run(tmp_path), tmp_path / "mix"
    write_folder(run, str(folder), 3, 0, kind, None)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match=rf"--folder {folder} holds {len(before)} files? already.*choose another"):
        write_folder(run, str(folder), 2, 1, kind, None)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "empty").mkdir()
    assert "(2 images)" in write_folder(run, str(tmp_path / "empty"), 2, 1, kind, None)


def test_one_class_only(tmp_path):
    run = a_run(tmp_path, needs_labels=True, classes=3)
    seen = []
    run.family.generator.function = lambda z, y: seen.extend(y.tolist()) or torch.zeros(len(z), 1, 8, 8)
    picture_of(run, "grid", n=9, seed=0, label=2)
    assert seen == [2] * 9
    with pytest.raises(UserError, match="classes 0 to 2"):
        picture_of(run, "grid", n=9, seed=0, label=3)
