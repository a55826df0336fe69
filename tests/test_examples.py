"""The examples in docstrings of public functions run, and give what they say."""

import doctest
import importlib
import shutil
from pathlib import Path

import pytest

from ganbench.metrics import functional

ROOT = Path(__file__).parent.parent


def modules_with_examples() -> list[str]:
    """By the names that they are imported by; the zoo is ganbench.models."""
    names = {path.relative_to(home) for home, room in ((ROOT, "ganbench"), (ROOT / "ganbench", "models"))
             for path in (home / room).rglob("*.py") if ">>> " in path.read_text(encoding="utf-8")}
    dotted = {path.with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__") for path in names}
    return sorted({f"ganbench.{name.removeprefix('ganbench.')}" for name in dotted})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder as the examples expect it: a run in runs/, a table in results/."""
    from ganbench.training.run_options import RunOptions
    from ganbench.training.session import run
    home = tmp_path_factory.mktemp("home")
    run(RunOptions("dcgan", preset="smoke", side=32, steps=2, metrics=[], results=None, quiet=True,
                out=str(home / "runs" / "0001-dcgan-digits-s0")))
    (home / "results").mkdir()
    shutil.copy(ROOT / "results" / "zoo-fashion-short.csv", home / "results")
    return home


@pytest.mark.parametrize("name", functional.__all__)
def test_every_plain_metric_has_an_example(name):
    function = getattr(functional, name)
    found, = doctest.DocTestFinder(recurse=False).find(function, name, globs={name: function})
    done = doctest.DocTestRunner().run(found)
    assert done.failed == 0 and done.attempted > 0


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples(name, trained, monkeypatch):
    monkeypatch.chdir(trained)
    done = doctest.testmod(importlib.import_module(name))
    assert done.failed == 0 and done.attempted > 0
