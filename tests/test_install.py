"""What a wheel holds and whether it works away from the repository: built, unpacked, and run from an empty folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The files of the repository that a wheel is made of, where a build leaves no traces in the repository itself."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in ("ganbench", "models", "benchmarks"):
        # without the link ganbench/models, which archives and Windows do not keep
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "models"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def site(checkout, tmp_path_factory):
    """A folder with the wheel installed in it, without its dependencies: those are here already."""
    pytest.importorskip("setuptools", "77")
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "dist"), str(checkout)]
    subprocess.run(wheel, check=True, capture_output=True, text=True)
    [built] = (folder / "dist").glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "lib"), str(built)], check=True)
    return folder / "lib"


def ganbench(site, cwd, *arguments):
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-m", "ganbench", *arguments], cwd=cwd, env=environment, capture_output=True,
                          text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_brings_its_suites(site, elsewhere):
    listed = ganbench(site, elsewhere, "bench", "--list")
    assert "quick" in listed and "handwritten digits" in listed and str(site) in listed.replace("\n", "")
    shipped = {path.name for path in (site / "ganbench" / "suites").iterdir()}
    assert shipped == {path.name for path in (ROOT / "benchmarks").glob("*.toml")}


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_wheel_trains_a_family_of_a_suite_away_from_the_repository(site, elsewhere):
    suite = elsewhere / "tiny.toml"
    suite.write_text('title = "t"\nbudget = { steps = 2 }\n'
                     'evaluation = { metrics = ["swd"], n = 64, references = false }\n'
                     '[[dataset]]\nname = "digits"\n[[family]]\nname = "dcgan"\npreset = "laptop"\n')
    assert "1 ok" in ganbench(site, elsewhere, "bench", "tiny.toml", "--jobs", "1")
    assert (elsewhere / "results" / "tiny.csv").is_file() and (elsewhere / "results" / "tiny.html").is_file()


def test_inside_a_checkout_the_zoo_beside_the_package_is_found(site, checkout):
    """Python started in a checkout imports the checkout's ganbench, whatever is installed."""
    shown = ganbench(site, checkout, "list", "--presets", "dcgan")
    assert "laptop" in shown
    code = "import ganbench.models, ganbench; print(ganbench.__file__, ganbench.models.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=checkout, env=os.environ | {"PYTHONPATH": str(site)},
                          capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(checkout / "ganbench" / "__init__.py"), str(checkout / "models" / "__init__.py")]


def test_a_suite_that_does_not_exist_is_one_line_with_the_nearest():
    from ganbench.bench.shipped import find_suite
    from ganbench.errors import UserError
    with pytest.raises(UserError, match="Did you mean 'quick'"):
        find_suite("quik")


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_two_folders_become_a_latex_row_in_one_command_and_in_three_lines(site, elsewhere):
    import numpy as np
    from PIL import Image
    rng = np.random.default_rng(0)
    for folder in ("fakes", "reals"):
        Path(folder).mkdir()
        for i in range(64):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(f"{folder}/{i}.png")
    asked = ("eval", "--fake", "fakes", "--real", "reals", "--metric", "swd", "--latex")
    row = next(line for line in ganbench(site, elsewhere, *asked).splitlines() if line.startswith("fakes & "))
    code = ("import ganbench\n"
            "found = ganbench.evaluate('fakes', 'reals', metrics=['swd'])\n"
            "print(found.latex())\n")
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True,
                          text=True, check=True)
    assert row in done.stdout and row.endswith(r"\\")


@pytest.mark.slow
@pytest.mark.timeout(3000)  # fourteen processes, one after another: twelve trainings, what reals score, the table
def test_a_family_of_ones_own_against_three_others_over_three_seeds(site, elsewhere):
    import re
    code, *_ = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
                         flags=re.DOTALL)
    Path("mygan.py").write_text(code, encoding="utf-8")
    guide = (ROOT / "docs" / "guides" / "own-family.md").read_text(encoding="utf-8")
    (suite,) = re.findall(r"```toml\n(.*?)```", guide, flags=re.DOTALL)
    suite = suite.replace("path/to/", "").replace("{ kimg = 20 }", "{ steps = 2 }").replace("n = 800", "n = 64")
    Path("mine.toml").write_text(suite, encoding="utf-8")
    assert "13 ok" in ganbench(site, elsewhere, "bench", "mine.toml", "--jobs", "1")
    table = ganbench(site, elsewhere, "report", "results/mine.csv")
    assert all(name in table for name in ("mygan", "dcgan", "wgan_gp", "lsgan", "reals against reals"))
    assert Path("results/mine.html").is_file()
