"""Small things of the command line: version, short help, completion, cleaning up."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ganbench import __version__, cli
from ganbench.commands.clean import clean
from ganbench.errors import UserError


def ganbench(*arguments):
    return subprocess.run([sys.executable, "-m", "ganbench", *arguments], capture_output=True, text=True, timeout=300)


def test_version_short_help_and_completion():
    assert ganbench("--version").stdout == f"ganbench {__version__}\n"
    assert "--fake" in ganbench("eval", "-h").stdout
    # the shell by its name, for a test may run under none
    named = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = [sys.executable, "-m", "ganbench", "--show-completion", "bash"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, env=named)
    assert "completion" in found.stdout


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANBENCH_CACHE", str(tmp_path))
    for part, size in (("stores", 3_000_000), ("statistics", 1_000_000), ("weights", 500), ("downloads", 500)):
        (tmp_path / part).mkdir()
        (tmp_path / part / "file").write_bytes(bytes(size))
    return tmp_path


def test_clean_shows_and_removes_nothing_without_yes(cache, capsys):
    clean()
    assert "4.0 MB can go" in capsys.readouterr().out
    assert (cache / "stores" / "file").exists()


def test_clean_removes_what_was_named_and_never_what_was_downloaded(cache, capsys):
    clean(["statistics"], yes=True)
    assert "removed 1.0 MB" in capsys.readouterr().out
    assert (cache / "stores").exists() and not (cache / "statistics").exists()
    clean(["all"], yes=True)
    assert sorted(path.name for path in cache.iterdir()) == ["downloads", "weights"]
    with pytest.raises(UserError, match="Did you mean 'stores'"):
        clean(["store"])
    with pytest.raises(UserError, match="nothing called 'weights'"):
        clean(["weights"], yes=True)


@pytest.mark.parametrize("arguments, named", [
    (["report", ""], "after report"), (["report", "results", "--html", ""], "after --html"),
    (["show", "dcgan", "--out="], "--out="), (["watch", "x", "--results", "", "--open"], "after --results")])
def test_an_empty_argument_is_refused_in_one_line(arguments, named, monkeypatch, tmp_path, capsys):
    """It would mean the current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "argv", ["ganbench", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    lines = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and len(lines) == 1 and named in lines[0] and "is empty" in lines[0]
    assert not list(Path().iterdir())


def test_an_empty_argument_that_means_none_is_taken():
    cli._check_none_empty(["ganbench", "run", "dcgan", "--metric", "", "--results=", "--set", "augment="])
    with pytest.raises(UserError, match="after --results"):
        cli._check_none_empty(["ganbench", "watch", "--results", ""])
