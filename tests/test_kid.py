"""Kernel distances against the definition written out, and torch-fidelity with its own subsets."""

import numpy as np
import pytest
import torch

from ganbench.errors import UserError
from ganbench.metrics.functional import gaussian_mmd, kernel_distance, kernel_inception_distance
from ganbench.metrics.maths import kernel
from ganbench.metrics.metric import find_metric


def by_definition(x, y):
    """The unbiased estimate, term by term, float64."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n, m, d = len(x), len(y), x.shape[1]
    def k(a, b):
        return (a @ b.T / d + 1) ** 3
    xx, yy, xy = k(x, x), k(y, y), k(x, y)
    return ((xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
            - 2 * xy.sum() / (n * m))


def features(n, m, d, seed=0, kind=np.float32):
    rng = np.random.default_rng(seed)
    return np.abs(rng.normal(size=(n, d))).astype(kind), np.abs(1.1 * rng.normal(size=(m, d)) + 0.05).astype(kind)


@pytest.mark.parametrize(("n", "m", "d"), [(2, 2, 3), (50, 31, 7), (1500, 1100, 16), (40, 60, 1)])
def test_all_samples(n, m, d):
    x, y = features(n, m, d, kind=np.float64)
    assert kernel_distance(x, y) == pytest.approx(by_definition(x, y), rel=1e-9, abs=1e-12)
    assert kernel_distance(torch.from_numpy(x), y) == kernel_distance(x, y)


def test_float32_features_lose_nothing_that_matters():
    x, y = features(600, 500, 256)
    assert kernel_distance(x, y) == pytest.approx(by_definition(x, y), rel=1e-7)
    x, y = x[:, :16] + 100, y[:, :16] + 100  # the kernel near 1e12, float32's own digits spent on the offset
    assert kernel_distance(x, y) == pytest.approx(by_longdouble(x, y), rel=1e-6)


def test_far_from_the_origin():
    rng = np.random.default_rng(3)
    x, y = (1000 + 0.01 * rng.normal(size=(n, 8)) + 0.004 * i for i, n in enumerate((80, 90)))
    # the kernel's values are near 1e18 and the distance is near 1e8: seven digits are what float64 leaves of a double
    # sum
    exact = by_longdouble(x, y)
    assert kernel_distance(x, y) == pytest.approx(exact, rel=1e-4)


def by_longdouble(x, y):
    x, y = x.astype(np.longdouble), y.astype(np.longdouble)
    n, m, d = len(x), len(y), x.shape[1]
    def k(a, b):
        return ((a[:, None] * b[None]).sum(2) / d + 1) ** 3
    xx, yy, xy = k(x, x), k(y, y), k(x, y)
    return float((xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
                 - 2 * xy.sum() / (n * m))


@pytest.mark.parametrize(("n", "m", "size", "subsets"), [(300, 260, 100, 20), (900, 1200, 60, 7), (120, 120, 120, 3)])
def test_subsets_are_torch_fidelitys(n, m, size, subsets):
    """Few large sets take one pass over all pairs, small subsets of many their own: both give the same numbers."""
    x, y = features(n, m, 64)
    from torch_fidelity.metric_kid import kid_features_to_metric
    theirs = kid_features_to_metric(torch.from_numpy(x).double(), torch.from_numpy(y).double(), kid_subsets=subsets,
                                    kid_subset_size=size, verbose=False)
    ours = kernel_inception_distance(x, y, subsets, size)
    assert ours["mean"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-5)
    assert ours["std"] == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-4, abs=1e-9)
    assert kernel_inception_distance(x, y, subsets, size, seed=1) != ours or size == n


def test_one_subset_of_everything_is_the_distance_itself():
    x, y = features(80, 80, 9)
    assert kernel_inception_distance(x, y, 1, 80)["mean"] == pytest.approx(kernel_distance(x, y), rel=1e-6)


def test_measure_and_its_state():
    x, y = (torch.from_numpy(v) for v in features(150, 140, 12))
    kid = find_metric("kid")(subsets=10, subset_size=50)
    for part in x.split(33):
        kid.update_features(part, real=True)
    kid.update_features(y, real=False)
    assert kid.compute() == kernel_inception_distance(y, x, 10, 50)
    other = find_metric("kid")(subsets=10, subset_size=50)
    other.update_features(y)
    other.load_real_state(kid.real_state())
    assert other.scores() == kid.scores()
    assert "subsets=10x50" in kid.protocol()
    assert "reals=150;fakes=140" in kid.protocol()
    with pytest.raises(UserError, match=r"subsets of 1000 .* 150 and 140"):
        large = find_metric("kid")()
        large.update_features(x, real=True)
        large.update_features(y)
        large.compute()
    shrunk = find_metric("kid")(compat="clean-fid", subsets=4)
    shrunk.update_features(x, real=True)
    shrunk.update_features(y)
    assert shrunk.compute() == kernel_inception_distance(y, x, 4, 140)


def test_refusals():
    x, y = features(20, 20, 3)
    with pytest.raises(UserError, match="cannot be drawn"):
        kernel_inception_distance(x, y, 10, 21)
    with pytest.raises(UserError, match="too few"):
        kernel_distance(x[:1], y)


def test_gaussian_kernel_by_definition():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(40, 5)), rng.normal(size=(30, 5)) + 0.3
    def k(a, b):
        return np.exp(-((a[:, None] - b[None]) ** 2).sum(2) / (2 * 1.5**2))
    expected = k(x, x).mean() + k(y, y).mean() - 2 * k(x, y).mean()
    assert gaussian_mmd(x, y, 1.5) == pytest.approx(expected, rel=1e-10)
    metric = find_metric("cmmd")()
    metric.update_features(torch.from_numpy(x), real=True)
    metric.update_features(torch.from_numpy(y))
    def unit(v):
        return v / np.linalg.norm(v, axis=1, keepdims=True)
    def k(a, b):
        return np.exp(-((a[:, None] - b[None]) ** 2).sum(2) / 200)
    u, v = unit(x), unit(y)
    assert metric.compute() == pytest.approx(1000 * (k(u, u).mean() + k(v, v).mean() - 2 * k(u, v).mean()), rel=1e-8)


def test_variance_components_by_definition():
    """On a discrete distribution, where every expectation can be written out."""
    rng = np.random.default_rng(5)
    points, p, q = rng.normal(size=(6, 2)), np.full(6, 1 / 6), np.array([.3, .3, .1, .1, .1, .1])
    k = (points @ points.T / 2 + 1) ** 3
    g_x, g_y = k @ p - k @ q, k @ q - k @ p
    first_x = p @ g_x**2 - (p @ g_x) ** 2
    first_y = q @ g_y**2 - (q @ g_y) ** 2
    def centred(a, b):
        return k - (k @ b)[:, None] - (a @ k)[None] + a @ k @ b
    def second(a, b):
        return a @ centred(a, b) ** 2 @ b
    n = 3000
    x, y = points[rng.choice(6, n, p=p)], points[rng.choice(6, n, p=q)]
    found = kernel.components(x, y)
    assert found.first_x == pytest.approx(first_x, rel=0.1)
    assert found.first_y == pytest.approx(first_y, rel=0.1)
    assert found.second_xx == pytest.approx(second(p, p), rel=0.1)
    assert found.second_yy == pytest.approx(second(q, q), rel=0.1)
    assert found.second_xy == pytest.approx(second(p, q), rel=0.1)


def test_too_few_images_are_known_before_any_is_opened(tmp_path):
    from ganbench.bench.suite import plan
    from ganbench.metrics.evaluate import check, evaluate

    class Closed:
        n, side, channels, width = 500, 16, 3, None
        native = False
        batches = None  # calling it would fail

    line = r"kid: subsets of 1000 .* 500 and 500: give more images, or --set kid.subset_size=250"
    with pytest.raises(UserError, match=line):
        evaluate(["kid"], fakes=Closed(), reals=Closed(), side=16, channels=3)
    with pytest.raises(UserError, match="fid_infinity: 15 sizes from 4,096 to 2 images"):
        Closed.n = 2
        evaluate(["fid_infinity"], fakes=Closed(), reals=Closed(), side=16, channels=3)
    with pytest.raises(UserError, match=line):
        check(["kid"], n=500)
    suite = tmp_path / "few.toml"
    suite.write_text('title = "x"\nbudget = {steps = 2}\n[evaluation]\nmetrics = ["kid"]\nn = 500\n'
                     '[[dataset]]\nname = "digits"\n[[family]]\nname = "dcgan"\npreset = "smoke"\n')
    with pytest.raises(UserError, match=line):
        plan(suite)
