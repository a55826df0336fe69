"""`eval --compat` against the libraries themselves, from folders of pictures to the number. Needs the real weights.

The pictures are of several shapes, and the two folders of other sides. At 64 features, for few pictures do there.
"""

import numpy as np
import pytest
import torch
from feature_support import real_weights, torch_fidelity_file
from PIL import Image

from ganbench.metrics.measures.fid import Fid
from ganbench.runs.eval_request import EvalRequest
from ganbench.runs.scoring import run_request

pytestmark = pytest.mark.slow


@pytest.fixture
def weights(monkeypatch, tmp_path):
    return torch_fidelity_file(real_weights(monkeypatch), tmp_path)


@pytest.fixture
def folders(tmp_path):
    """16 reals of 40x28 and 48x64 pixels, 14 fakes of 20x20."""
    rng = np.random.default_rng(0)
    for name, shapes in (("reals", [(28, 40)] * 9 + [(64, 48)] * 7), ("fakes", [(20, 20)] * 14)):
        (tmp_path / name).mkdir()
        for i, (height, width) in enumerate(shapes):
            coarse = rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
            picture = np.kron(coarse, np.ones((4, 4, 1), np.uint8))
            Image.fromarray(picture).save(tmp_path / name / f"{i:03d}.png")
    return tmp_path / "reals", tmp_path / "fakes"


def ours(folders, compat, metric="fid", **options):
    asked = EvalRequest(names=[metric], real=str(folders[0]), fake=str(folders[1]), compat=compat, layer="64",
                        floor=False,
                        device="cpu", strict=True, use_cache=False, options=options)
    found = run_request(asked)
    return found.rows[0]["value"]


@pytest.fixture
def sqrtm(monkeypatch):
    """Newer SciPy has dropped an argument that the packages give."""
    import scipy.linalg
    root = scipy.linalg.sqrtm
    monkeypatch.setattr(scipy.linalg, "sqrtm", lambda matrix, disp=True: root(matrix) if disp else (root(matrix), 0))


def test_torch_fidelity(weights, folders):
    import torch_fidelity
    theirs = torch_fidelity.calculate_metrics(
        input1=str(folders[1]), input2=str(folders[0]), fid=True, kid=True, kid_subset_size=10, kid_subsets=5,
        batch_size=1,
        cuda=False, verbose=False, cache=False, feature_layer_fid="64", feature_layer_kid="64",
        feature_extractor_weights_path=str(weights))
    assert ours(folders, "torch-fidelity") == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    kid = ours(folders, "torch-fidelity", "kid", subset_size=10, subsets=5)
    assert kid == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)


def test_pytorch_fid(weights, folders, sqrtm, monkeypatch):
    package = pytest.importorskip("pytorch_fid.fid_score", reason="pytorch-fid is in the [bench] extra")
    from pytorch_fid import inception
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *args, **kwargs: torch.load(weights))
    theirs = package.calculate_fid_given_paths([str(folders[0]), str(folders[1])], 1, "cpu", 64, num_workers=0)
    assert ours(folders, "pytorch-fid") == pytest.approx(theirs, rel=1e-4)


def test_clean_fid(weights, folders, sqrtm):
    """Its own network cannot be had here: ours behind its reading and resizing."""
    package = pytest.importorskip("cleanfid.fid", reason="clean-fid is in the [bench] extra")
    from ganbench.metrics.networks.inception import Inception
    from ganbench.metrics.networks.weight_files import load_weights
    network = Inception(load_weights("inception-v3-compat"), ["64"])
    features = [package.get_folder_features(str(folder), model=lambda x: network((x - 128) / 128)["64"], num_workers=0,
                                            batch_size=1, device=torch.device("cpu"), mode="clean", verbose=False)
                for folder in folders]
    assert ours(folders, "clean-fid") == pytest.approx(package.fid_from_feats(*features), rel=1e-4)


def test_torchmetrics(weights, folders):
    from torchmetrics.image.fid import FrechetInceptionDistance
    fakes = [torch.from_numpy(np.asarray(Image.open(path))).permute(2, 0, 1)[None]
             for path in sorted(folders[1].iterdir())]
    reals = [torch.from_numpy(np.asarray(Image.open(path))).permute(2, 0, 1)[None]
             for path in sorted(folders[0].iterdir())]
    theirs = FrechetInceptionDistance(feature=64, feature_extractor_weights_path=str(weights), antialias=False)
    theirs.set_dtype(torch.float64)
    metric = Fid(layer="64")
    for images, real in ((reals, True), (fakes, False)):
        for image in images:
            theirs.update(image, real=real)
            metric.update(image, real=real)
    assert metric.compute() == pytest.approx(float(theirs.compute()), rel=1e-3)
    assert metric.compute() == pytest.approx(ours(folders, "torch-fidelity"), rel=1e-4)
