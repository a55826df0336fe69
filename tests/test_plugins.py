"""The door: an outside package adds a family, a metric and a data source without touching ganbench."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ganbench import plugins
from ganbench.errors import UserError
from ganbench.family import Family, find_family

HERE = Path(__file__).parent


def test_every_module_of_the_zoo_is_found_by_its_file_name():
    files = {p.stem for p in (HERE.parent / "models").glob("*.py") if not p.stem.startswith("_")}
    assert set(plugins.names("family")) == files


def test_dashes_and_underscores_name_the_same_family():
    assert find_family("wgan-gp") is find_family("wgan_gp")


@pytest.mark.parametrize("kind, wrong, right", [("family", "dcgam", "dcgan"), ("metric", "swdd", "swd"),
                                                ("dataset", "fashion-mnits", "fashion_mnist")])
def test_an_unknown_name_gets_the_nearest_one(kind, wrong, right):
    with pytest.raises(UserError, match=right):
        plugins.load_plugin(kind, wrong, object)


def test_a_single_file_is_a_family_too():
    assert issubclass(find_family(str(HERE / "toy.py")), Family)
    with pytest.raises(UserError, match="no such file"):
        find_family("nowhere/mine.py")


METRIC = '''
import torch
from ganbench.metrics.metric import ImageMetric, Score

class Brightness(ImageMetric):
    """Difference of mean brightness."""
    title = "Brightness"
    def __init__(self, **options):
        super().__init__()
        self.sums, self.counts = [0.0, 0.0], [0, 0]
    def update(self, images, real=False):
        self.sums[real] += float(images.double().sum()); self.counts[real] += images.numel()
    def compute(self):
        return self.sums[0] / self.counts[0] - self.sums[1] / self.counts[1]
    def scores(self):
        return [Score(self.compute(), higher_is_better=None)]
    def protocol(self):
        return "brightness"
'''

SOURCE = '''
import numpy as np
from sources_base import Base

class Stripes(Base):
    """Sixteen striped images."""
'''


def test_an_outside_package(tmp_path):
    """A package with its own pyproject entry points, here as an installed distribution's metadata."""
    package = tmp_path / "outside"
    for room in ("families", "metrics"):
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "families" / "tinygan.py").write_text((HERE / "toy.py").read_text())
    (package / "metrics" / "brightness.py").write_text(METRIC)
    (package / "sources").mkdir()
    (package / "sources" / "__init__.py").touch()
    (package / "sources" / "stripes.py").write_text((HERE / "stripes_source.py").read_text())
    info = tmp_path / "outside-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ganbench.families]\nmine = outside.families\n"
                                           "[ganbench.metrics]\nmine = outside.metrics\n"
                                           "[ganbench.datasets]\nmine = outside.sources\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    def ganbench(*arguments):
        return subprocess.run([sys.executable, "-m", "ganbench", *arguments], cwd=tmp_path, env=environment,
                              capture_output=True, text=True, timeout=300)

    listed = json.loads(ganbench("list", "--json").stdout)
    assert "tinygan" in [f["name"] for f in listed["families"]]
    assert "brightness" in [m["name"] for m in listed["metrics"]]
    assert "stripes" in [d["name"] for d in listed["datasets"]]
    done = ganbench("run", "tinygan", "--dataset", "stripes", "--metric", "brightness", "--steps", "4", "--out", "r")
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "results" / "results.csv").read_text()
    assert "brightness" in rows and "tinygan" in rows and "stripes" in rows


@pytest.mark.parametrize(("written", "instead", "says"), [
    ("return self.sums[0]", "return 1 / 0 + self.sums[0]",
     r"own.py:14: ZeroDivisionError: division by zero: correct it"),
    ("self.sums[real] +=", "self.summs[real] +=", r"own.py:12: AttributeError: .*'summs'.*: correct it"),
    ("super().__init__()", "super().__init__(); {}['a']", r"own.py:9: KeyError: 'a': correct it"),
    ("[Score(self.compute(), higher_is_better=None)]", "None", r"own.py: TypeError: .*: correct it"),
    ("def scores", "def score", r"own.py: Brightness has no scores\(\): write it"),
    ("def protocol", "def protocols", r"own.py: Brightness has no protocol\(\): write it"),
    ("def update", "def add", r"own.py: Brightness has no update\(\): write it")])
def test_errors_in_a_metric_of_ones_own_are_its_authors_to_correct(tmp_path, monkeypatch, written, instead, says):
    """They were called a defect of ganbench."""
    import numpy as np

    import ganbench
    assert written in METRIC
    (tmp_path / "own.py").write_text(METRIC.replace(written, instead))
    images = np.zeros((4, 8, 8), np.uint8)
    monkeypatch.chdir(tmp_path)  # a path as it is typed
    for path in ("own.py", str(tmp_path / "own.py")):
        with pytest.raises(UserError, match=says) as caught:
            ganbench.evaluate(images, images, [path], floor=False, device="cpu")
        assert "\n" not in str(caught.value)
    # others are measured nevertheless, where its constructor works
    if "__init__" not in written:
        found = ganbench.evaluate(np.zeros((4, 16, 16), np.uint8), np.zeros((4, 16, 16), np.uint8),
                                  ["own.py", "power_spectrum"], floor=False, device="cpu", strict=False)
        assert found.values and any(re.search(says, line) for line in found.warnings)


def test_a_metric_in_a_file_of_ones_own_is_measured_set_and_recorded_by_the_files_name(tmp_path):
    """Capitals, dashes and spaces in the path stay as they are."""
    import numpy as np

    import ganbench
    path = tmp_path / "My Metrics" / "Bright-Ness.py"
    path.parent.mkdir()
    path.write_text(METRIC.replace("**options", "scale: float = 1.0").replace("        self.sums, ",
                                                                             "        self.scale = scale\n"
                                                                             "        self.sums, ", 1)
                    .replace("return self.sums[0]", "return self.scale * self.sums[0]"))
    dark, bright = (np.full((4, 8, 8, 3), level, np.uint8) for level in (10, 30))
    found = ganbench.evaluate(bright, dark, [str(path)], floor=False, device="cpu", bright_ness={"scale": 2.0})
    assert found.values == {"bright_ness": 50.0} and found.rows[0]["metric"] == "bright_ness"
    with pytest.raises(UserError, match=r"no setting 'scael'.* Did you mean 'scale'"):
        ganbench.evaluate(bright, dark, [str(path)], floor=False, device="cpu", bright_ness={"scael": 2.0})
