"""Each compatibility mode against the library it is named after, on shared features and on shared pictures."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ganbench.errors import UserError
from ganbench.metrics.metric import find_metric
from ganbench.metrics.networks.compat import MODES, find_compat
from ganbench.metrics.networks.resize import resize


def features(seed=0, n=300, m=280, d=48):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d)) / d**0.5
    return ((np.abs(rng.normal(size=(n, d)) @ mix)).astype(np.float32),
            (np.abs(1.1 * rng.normal(size=(m, d)) @ mix)).astype(np.float32))


def ours(name, mode, real, fake, **options):
    metric = find_metric(name)("inception-v3-compat", "2048", mode, **options)
    metric.update_features(torch.from_numpy(real), real=True)
    metric.update_features(torch.from_numpy(fake))
    return metric.compute()


def test_torch_fidelity():
    real, fake = features()
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric
    x, y = torch.from_numpy(fake), torch.from_numpy(real)
    fid = fid_statistics_to_metric(fid_features_to_statistics(x), fid_features_to_statistics(y), False)
    assert ours("fid", "torch-fidelity", real, fake) == pytest.approx(fid["frechet_inception_distance"], rel=1e-5)
    kid = kid_features_to_metric(x, y, kid_subset_size=200, verbose=False)
    found = ours("kid", "torch-fidelity", real, fake, subset_size=200)
    assert found["mean"] == pytest.approx(kid["kernel_inception_distance_mean"], rel=1e-5)
    prc = prc_features_to_metric(x, y, verbose=False)
    found = ours("precision_recall", "torch-fidelity", real, fake)
    assert found["precision"] == pytest.approx(prc["precision"], abs=1e-5)
    assert found["recall"] == pytest.approx(prc["recall"], abs=1e-5)
    score = find_metric("inception_score")(compat="torch-fidelity")
    score.update_features(x)
    assert score.compute()["mean"] == pytest.approx(isc_features_to_metric(x)["inception_score_mean"], rel=1e-5)
    # where it looks by default: precision and recall on VGG16
    metric = find_metric("precision_recall")(compat="torch-fidelity")
    assert (metric.network_name, metric.layer) == ("vgg16", "fc2_relu")
    assert find_metric("precision_recall")().network_name == "inception-v3-compat"


def test_pytorch_fid():
    package = pytest.importorskip("pytorch_fid.fid_score", reason="pytorch-fid is in the [bench] extra")
    real, fake = features()
    x, y = real.astype(np.float64), fake.astype(np.float64)  # as it collects activations
    s1, s2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    import scipy.linalg
    root = scipy.linalg.sqrtm

    def with_disp(matrix, disp=True):  # newer SciPy has dropped an argument that the package gives
        return root(matrix) if disp else (root(matrix), 0)
    package.linalg.sqrtm = with_disp
    try:
        theirs = package.calculate_frechet_distance(x.mean(0), s1, y.mean(0), s2)
    finally:
        package.linalg.sqrtm = root
    assert ours("fid", "pytorch-fid", real, fake) == pytest.approx(theirs, rel=1e-5)


def test_pytorch_fid_resizes():
    images = pictures(2, 32, 45)
    expected = F.interpolate(images.float() / 255, size=(299, 299), mode="bilinear", align_corners=False)
    torch.testing.assert_close(resize(images, 299, "torch-bilinear") / 255, expected, rtol=0, atol=1e-6)


def test_clean_fid():
    package = pytest.importorskip("cleanfid.fid", reason="clean-fid is in the [bench] extra")
    real, fake = features()
    import scipy.linalg
    root = scipy.linalg.sqrtm
    package.linalg.sqrtm = lambda matrix, disp=True: root(matrix) if disp else (root(matrix), 0)
    try:
        theirs = package.fid_from_feats(fake, real)
    finally:
        package.linalg.sqrtm = root
    assert ours("fid", "clean-fid", real, fake) == pytest.approx(theirs, rel=1e-5)
    # subsets are its own random ones; with both sets used whole there is nothing random
    real = real[:280]
    np.random.seed(0)
    theirs = package.kernel_distance(real.astype(np.float64), fake.astype(np.float64), num_subsets=2)
    assert ours("kid", "clean-fid", real, fake)["mean"] == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("shape", [(32, 32), (300, 410), (299, 299)])
def test_clean_fid_resizes(shape):
    package = pytest.importorskip("cleanfid.resize", reason="clean-fid is in the [bench] extra")
    images = pictures(2, *shape)
    resizer = package.build_resizer("clean")
    expected = np.stack([resizer(image.permute(1, 2, 0).numpy()) for image in images]).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(resize(images, 299, "pil-bicubic").numpy(), expected, rtol=0, atol=1e-5)


def test_stylegan3():
    """Covariances over N, as its feature statistics make them; no shuffle before the splits; KID by its formula."""
    real, fake = features()
    import scipy.linalg

    def statistics(values):
        values = values.astype(np.float64)
        mean = values.mean(0)
        return mean, values.T @ values / len(values) - np.outer(mean, mean)
    (mu1, s1), (mu2, s2) = statistics(real), statistics(fake)
    expected = np.square(mu2 - mu1).sum() + np.trace(s1 + s2 - 2 * scipy.linalg.sqrtm(s2 @ s1)).real
    assert ours("fid", "stylegan3", real, fake) == pytest.approx(expected, rel=1e-5)
    assert ours("fid", "ganbench", real, fake) != pytest.approx(expected, rel=1e-5)
    x, y, d = fake[:280].astype(np.float64), real[:280].astype(np.float64), fake.shape[1]
    a = (x @ x.T / d + 1) ** 3 + (y @ y.T / d + 1) ** 3
    b = (x @ y.T / d + 1) ** 3
    expected = ((a.sum() - np.trace(a)) / 279 - b.sum() * 2 / 280) / 280
    assert ours("kid", "stylegan3", real[:280], fake[:280])["mean"] == pytest.approx(expected, rel=1e-5)


def test_tensorflows_resize():
    """Against torch-fidelity's own, bit for bit, up and down; and where nothing is to be done."""
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
    for shape in ((32, 32), (48, 17), (400, 310), (299, 299)):
        images = pictures(2, *shape)
        expected = interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(299, 299), align_corners=False)
        torch.testing.assert_close(resize(images, 299, "tf1-bilinear"), expected, rtol=0, atol=5e-5)
    ramp = torch.arange(4, dtype=torch.uint8).reshape(1, 1, 1, 4).expand(1, 3, 4, 4) * 10
    assert resize(ramp, 8, "tf1-bilinear")[0, 0, 0].tolist() == [0, 5, 10, 15, 20, 25, 30, 30]


def test_dgm_evals_kid_of_few_images_has_smaller_subsets():
    """min(1000, both counts): of two sets of one size each subset is all of them, so that the draw does not matter."""
    from sklearn.metrics.pairwise import polynomial_kernel
    real, fake = (rows.astype(np.float64) for rows in features(n=250, m=250))
    within = [polynomial_kernel(rows, degree=3, coef0=1) for rows in (real, fake)]
    expected = sum(k.sum() - np.trace(k) for k in within) / (250 * 249)
    expected -= 2 * polynomial_kernel(real, fake, degree=3, coef0=1).mean()
    found = ours("kid", "dgm-eval", real, fake)
    assert found["mean"] == pytest.approx(expected, rel=1e-6) and found["std"] < 1e-9
    metric = find_metric("kid")("inception-v3-compat", "2048", "dgm-eval")
    metric.update_features(torch.from_numpy(real), real=True)
    metric.update_features(torch.from_numpy(fake[:200]))
    assert "subsets=100x200" in metric.protocol()


def test_dgm_evals_precision_and_recall_are_those_of_prdc():
    """Balls to the fifth neighbour, their edge outside: a slow count over pairs."""
    real, fake = features(n=40, m=30, d=4)

    def radii(points):
        return np.sort(np.linalg.norm(points[:, None] - points[None], axis=-1), 1)[:, 5]
    distances = np.linalg.norm(real[:, None] - fake[None], axis=-1)
    expected = (distances < radii(real)[:, None]).any(0).mean(), (distances < radii(fake)[None]).any(1).mean()
    found = ours("precision_recall", "dgm-eval", real, fake)
    assert (found["precision"], found["recall"]) == pytest.approx(expected)
    assert found["precision"] != pytest.approx(ours("precision_recall", "ganbench", real, fake)["precision"])
    # on real numbers the edge decides nothing; on a line of whole ones it does
    line, between = np.arange(12.0)[:, None], np.arange(20.0)[:, None]
    assert ours("precision_recall", "dgm-eval", line, between)["precision"] < \
        ours("precision_recall", "ganbench", line, between, k=5)["precision"]


def test_quantisation():
    values = torch.linspace(-1.2, 1.2, 4001).reshape(1, 1, 1, -1)
    assert torch.equal(MODES["stylegan3"].quantise(values), (values * 127.5 + 128).clamp(0, 255).to(torch.uint8))
    assert torch.equal(MODES["ganbench"].quantise(values),
                       (values * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8))
    from ganbench.errors import Diverged
    with pytest.raises(Diverged):
        MODES["stylegan3"].quantise(torch.tensor([float("nan")]))


def test_modes_are_part_of_the_protocol_and_known_by_name():
    assert "ddof=0" in find_metric("fid")(compat="stylegan3").protocol()
    with pytest.raises(UserError, match="Did you mean 'clean-fid'"):
        find_compat("cleanfid")


def pictures(n, height, width):
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
