"""`ganbench data`, as a person types it."""

import numpy as np
import pytest
from data_support import noise, picture_bytes, write_png
from typer.testing import CliRunner

from ganbench.commands.data import data

COLUMNS = {"COLUMNS": "200"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("GANBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(data, list(arguments), env=COLUMNS)


def test_prepare_list_info_verify(run, tmp_path):
    for i in range(5):
        write_png(tmp_path / "pics" / ("a" if i < 3 else "b") / f"{i}.png", noise(20, 30, i))
    (tmp_path / "pics" / "b" / "<script>.png").write_bytes(b"no")
    (tmp_path / "pics" / "b" / "twin.png").write_bytes(picture_bytes(noise(20, 30, 0)))
    made = run("prepare", "pics", "--side", "16", "--split", "all", "--skip-bad")
    assert made.exit_code == 0, made.output
    for line in ("images    6 of 3x16x16, levels 4, 8, 16", "originals 30x20 6", "classes   a 3, b 3",
                 "twice     1 images are the same as an earlier one, e.g. b/twin.png as a/0.png",
                 "skipped   b/<script>.png: not a picture file"):
        assert line in made.output
    assert "pics  all  6 x 3x16x16  crop centre" in run("list").output
    store = next((tmp_path / "cache" / "stores").glob("folder-*"))
    assert "6 images, 3 levels, all as the manifest says" in run("verify", str(store)).output
    page = run("info", "pics", "--side", "16", "--split", "all", "--skip-bad", "--html", "page.html")
    text = (tmp_path / "page.html").read_text()
    assert page.exit_code == 0 and "data:image/png;base64," in text
    assert "30x20" in text and "b/&lt;script&gt;.png" in text
    assert "<script>" not in text
    level = np.load(store / "16.npy").astype(np.float64)
    for channel in range(3):  # the statistics are of the pixels
        assert f"<td>{level[:, channel].mean():.3f}<td>{level[:, channel].std():.3f}" in text


def test_what_is_missing_and_what_is_wrong_is_an_error_of_the_user(run, tmp_path):
    from ganbench.errors import UserError
    for arguments, says in ((("prepare", "celeba"), "img_align_celeba.zip"), (("prepare", "nope"), "unknown data set"),
                            (("verify", str(tmp_path)), "holds no images"), (("prepare", "digits", "--side", "2"),
                                                                             "from 4 to 4096"),
                            (("info", "pics.npz", "--html", "pics.npz"), "--html pics.npz: what is written is .html"),
                            (("info", "digits", "--html", str(tmp_path / "no" / "page.html")), "cannot write")):
        got = run(*arguments)
        assert isinstance(got.exception, UserError) and says in str(got.exception), got.output


def test_options_that_a_data_set_cannot_use_are_refused_by_name(run, tmp_path):
    """`--from` beside a path, and what was decided when a store was made, were ignored without a word."""
    for i in range(2):
        write_png(tmp_path / "plain" / f"{i}.png", noise(16, 16, i))
    np.savez("x.npz", images=np.zeros((4, 8, 8), np.uint8))
    assert run("prepare", "plain").exit_code == 0
    store = str(next((tmp_path / "cache" / "stores").glob("folder-*")))
    for command in ("prepare", "verify", "info"):
        for spec in ("plain", "digits", "x.npz", "folder:plain", store):
            got = run(command, spec, "--from", "/nowhere")
            assert str(got.exception) == f"--root /nowhere cannot be used for {spec}: leave it out"
        got = run(command, store, "--skip-bad")
        assert str(got.exception) == f"--skip-bad cannot be used for {store}: leave it out"
        assert "give --side 16, or" in str(run(command, store, "--side", "8").exception)
    # a folder found below the root, and one that is named by it
    for spec, root in (("folder:plain", tmp_path), ("folder", tmp_path / "plain")):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path / "elsewhere")
            assert ", split train, crop centre" in run("prepare", spec, "--from", str(root)).output
    assert "unknown data set 'mnsit'" in str(run("prepare", "mnsit", "--from", "/nowhere").exception)


def test_a_run_refuses_them_when_it_begins_and_not_when_it_goes_on(run, tmp_path):
    from pathlib import Path

    from ganbench.errors import UserError
    from ganbench.training.document import resolve
    from ganbench.training.run_options import RunOptions
    options = RunOptions(str(Path(__file__).parent / "toy.py"), dataset="digits", root="/nowhere", device="cpu",
                         metrics=[], results=None)
    with pytest.raises(UserError, match="--root /nowhere cannot be used for digits: leave it out"):
        resolve(options)
    options.resume, options.out = True, str(tmp_path / "former")  # one that was begun when it was ignored
    assert resolve(options).store.name == "digits"


def test_a_store_of_another_version_is_listed_as_unusable(run, tmp_path):
    run("prepare", "digits", "--side", "8")
    manifest = next((tmp_path / "cache" / "stores").glob("*/manifest.json"))
    manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 99'))
    assert "unusable" in run("list").output
