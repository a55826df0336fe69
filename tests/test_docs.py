"""What README and documentation say can be typed: every command parses, every block of code runs, the site builds."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if p.parent.name != "families")]
BLOCK = re.compile(r"(?:<!-- not run: (?P<why>.+?) -->\n)?```(?P<kind>bash|python)\n(?P<code>.*?)```", re.DOTALL)


def blocks(page):
    """(kind, code, why it is not run or None) of each block of code on a page."""
    return [(m["kind"], m["code"], m["why"]) for m in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def commands(page):
    """Every `ganbench ...` on a page, in blocks and in the text; "..." and capitals stand for something, so they go."""
    text = page.read_text(encoding="utf-8")
    found = [line for kind, code, _ in blocks(page) if kind == "bash" for line in code.splitlines()]
    found += re.findall(r"`(ganbench [^`]+)`", text)
    return [" ".join(line.split()) for line in found if line.startswith("ganbench ") and "..." not in line]


@pytest.fixture(scope="module")
def command():
    import importlib

    from ganbench import cli
    for room in cli.ROOMS:
        importlib.import_module(room).register(cli.app)
    return typer.main.get_command(cli.app)


def parse(command, words):
    """Parse as the command line does, without calling anything."""
    context = command.make_context("ganbench", list(words))
    while hasattr(command, "commands") and (rest := [*context._protected_args, *context.args]):
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_parses(page, command):
    for line in commands(page):
        words = shlex.split(line)[1:]
        if len(words) == 1 or "--help" in words:  # the name of a command, in a sentence
            assert words[0] in command.commands, line
            continue
        try:
            parse(command, words)
        except Exception as error:
            raise AssertionError(f"{page.name}: {line}: {error}") from error


def test_a_wrong_option_would_be_found(command):
    with pytest.raises(Exception, match="--presett"):
        parse(command, ["run", "dcgan", "--presett", "laptop"])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_to_files_of_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        made = target.endswith(("contributing.md", "families/index.md", "metrics/index.md"))
        assert made or (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder as the pages presume it: pictures/, fakes/ and reals/ with small images."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for folder in ("pictures", "fakes", "reals"):
        Path(folder).mkdir()
        for i in range(80):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(f"{folder}/{i:03d}.png")
    return tmp_path


def shortened(line):
    """Trainings are cut to two steps; what is typed is otherwise run as it stands."""
    line = line.replace("ganbench ", f"{sys.executable} -m ganbench ", 1)
    return line + " --steps 2 --n-eval 64" if " ganbench run " in line else line


@pytest.mark.slow
@pytest.mark.timeout(3000)  # a page is a dozen commands
@pytest.mark.parametrize("page", [p for p in PAGES if any(why is None for _, _, why in blocks(p))],
                         ids=lambda p: p.name)
def test_every_block_of_a_page_runs(page, home):
    script = home / "page.py"
    for kind, code, why in blocks(page):
        if why is not None:
            continue
        if kind == "bash":
            for line in code.splitlines():
                done = subprocess.run(shortened(line), shell=True, capture_output=True, text=True, timeout=600)
                assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        else:  # later blocks go on where earlier ones ended, as a reader does
            script.write_text((script.read_text() if script.exists() else "") + code)
            done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mkdocs") is None and not Path(sys.executable).with_name("mkdocs").exists(),
                    reason="needs the extra docs")
def test_the_site_builds_without_a_warning(tmp_path):
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
                          cwd=ROOT, capture_output=True, text=True, timeout=600,
                          env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "site" / "metrics" / "fid.html").is_file()
    assert (tmp_path / "site" / "families" / "dcgan.html").is_file()
