"""The Frechet distance against closed forms, scipy's matrix square root, torch-fidelity and torchmetrics."""

import numpy as np
import pytest
import torch
from scipy import linalg

from ganbench.errors import UserError
from ganbench.metrics.functional import frechet_distance, frechet_distance_from_statistics
from ganbench.metrics.maths import moments
from ganbench.metrics.maths.frechet import Gaussian, cholesky, congruent, eigenvalues, nuclear_norm
from ganbench.metrics.metric import find_metric


def by_square_root(x, y, ddof=1):
    """The textbook formula in float64, with a symmetric square root by eigenvectors (exact for singular matrices)."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    s1, s2 = (np.cov(v, rowvar=False, ddof=ddof).reshape(v.shape[1], -1) for v in (x, y))
    values, vectors = np.linalg.eigh(s1)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ s2 @ root).clip(0)).sum()
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * cross


def sets(n, m, d, seed=0, scale=1.3, shift=0.2):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d)) / d**0.5
    return rng.normal(size=(n, d)) @ mix, scale * rng.normal(size=(m, d)) @ mix + shift


@pytest.mark.parametrize(("n", "m", "d"), [(500, 300, 20), (300, 10, 20), (10, 300, 20), (12, 9, 20), (40, 21, 20),
                                           (100, 50, 1), (2, 2, 1), (2, 2, 5), (2, 60, 5)])
def test_equals_the_formula(n, m, d):
    x, y = sets(n, m, d)
    assert frechet_distance(x, y) == pytest.approx(by_square_root(x, y), rel=1e-6)
    assert frechet_distance(x, y, ddof=0) == pytest.approx(by_square_root(x, y, ddof=0), rel=1e-6)
    assert frechet_distance(y, x) == pytest.approx(frechet_distance(x, y), rel=1e-9)


def test_equals_scipy_and_other_packages():
    x, y = sets(900, 800, 64)
    s1, s2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    by_scipy = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * linalg.sqrtm(s1 @ s2).real)
    assert frechet_distance(x, y) == pytest.approx(by_scipy, rel=1e-10)
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    theirs = fid_statistics_to_metric(fid_features_to_statistics(torch.from_numpy(x)),
                                      fid_features_to_statistics(torch.from_numpy(y)), False)
    assert frechet_distance(x, y) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-10)
    from torchmetrics.image.fid import _compute_fid
    parts = [torch.from_numpy(a) for a in (x.mean(0), s1, y.mean(0), s2)]
    assert frechet_distance_from_statistics(*parts) == pytest.approx(float(_compute_fid(*parts)), rel=1e-10)


def test_closed_forms():
    # diagonal covariances: |mu1-mu2|^2 + sum (s1 - s2)^2 in standard deviations
    rng = np.random.default_rng(1)
    mu1, mu2, sd1, sd2 = rng.normal(size=9), rng.normal(size=9), rng.uniform(0, 2, 9), rng.uniform(0, 2, 9)
    expected = ((mu1 - mu2) ** 2).sum() + ((sd1 - sd2) ** 2).sum()
    assert frechet_distance_from_statistics(mu1, np.diag(sd1**2), mu2, np.diag(sd2**2)) == pytest.approx(expected)
    turn = linalg.qr(rng.normal(size=(9, 9)))[0]  # the same in another basis
    turned = [turn @ np.diag(sd**2) @ turn.T for sd in (sd1, sd2)]
    assert frechet_distance_from_statistics(mu1, turned[0], mu2, turned[1]) == pytest.approx(expected)
    assert frechet_distance_from_statistics(1.0, 4.0, 3.0, 9.0) == pytest.approx(5.0)


def test_singular_covariances():
    # one dimension each, at right angles: nothing in common; and the same one
    s1, s2, zero = np.diag([4.0, 0, 0]), np.diag([0, 9.0, 0]), np.zeros(3)
    assert frechet_distance_from_statistics(zero, s1, zero, s2) == pytest.approx(13.0, abs=1e-12)
    assert frechet_distance_from_statistics(zero, s1, zero, 4 * s1) == pytest.approx(4.0, abs=1e-12)
    assert frechet_distance_from_statistics(zero, s1, zero, np.eye(3)) == pytest.approx(4 + 3 - 2 * 2, abs=1e-12)
    assert frechet_distance_from_statistics(zero, 0 * s1, zero, 0 * s1) == 0
    x, y = sets(400, 400, 6)  # a constant feature, and one that is a copy
    def widen(v):
        return np.concatenate([v, v[:, :1], np.ones((len(v), 1))], 1)
    assert frechet_distance(widen(x), widen(y)) == pytest.approx(by_square_root(widen(x), widen(y)), rel=1e-6)


def test_duplicates_and_equal_sets():
    x, y = sets(50, 40, 8)
    doubled = frechet_distance(np.concatenate([x, x]), np.concatenate([y, y]), ddof=0)
    assert doubled == pytest.approx(frechet_distance(x, y, ddof=0), rel=1e-10)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-12)
    same = np.ones((5, 3))
    assert frechet_distance(same, same) == 0
    assert frechet_distance(same, same + 2) == pytest.approx(12)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_far_from_the_origin(kind):
    rng = np.random.default_rng(2)
    near = [0.01 * rng.normal(size=(n, 16)) for n in (300, 200)]
    x, y = ((1000 + v).astype(kind) for v in near)
    expected = by_square_root(x.astype(np.float64) - 1000, y.astype(np.float64) - 1000)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-8)


def centred_product(n, m, d, fall, kind="plain"):
    """A B^T of centred samples whose spread falls by 10^-fall from the first dimension to the last."""
    rng = np.random.default_rng(7)
    spread = 10.0 ** (-fall * np.arange(d) / d)
    a, b = rng.normal(size=(n, d)) * spread, rng.normal(size=(m, d)) * spread
    if kind == "copies":
        a[n // 2:] = a[:n - n // 2]
    return (a - a.mean(0)) @ (b - b.mean(0)).T


@pytest.mark.parametrize("product", [centred_product(2, 2, 3, 0), centred_product(60, 70, 90, 0),
                                     centred_product(60, 60, 90, 4), centred_product(60, 60, 90, 16),
                                     centred_product(40, 60, 90, 1, "copies"), centred_product(30, 60, 4, 0),
                                     np.zeros((5, 7))])
def test_nuclear_norm(product):
    """Where the eigenvalues of A A^T have too few digits left, the singular values themselves are taken."""
    expected = np.linalg.svd(product, compute_uv=False).sum()
    assert nuclear_norm(torch.from_numpy(product)) == pytest.approx(expected, rel=2e-12)


def test_lapack_routes_equal_plain_products():
    x, y = sets(60, 60, 9)
    s1, s2 = (torch.from_numpy(np.cov(v, rowvar=False)) for v in (x, y))
    lower = cholesky(Gaussian(torch.zeros(9).double(), s1))
    np.testing.assert_allclose(lower, np.linalg.cholesky(s1), rtol=1e-10, atol=1e-12)
    product = congruent(s2, lower)
    expected = np.linalg.cholesky(s1).T @ s2.numpy() @ np.linalg.cholesky(s1)
    np.testing.assert_allclose(product.tril(), np.tril(expected), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(eigenvalues(product), np.linalg.eigvalsh(expected), rtol=1e-9, atol=1e-12)


def test_given_statistics_are_left_as_they_are_and_may_be_a_little_askew():
    x, y = sets(400, 300, 150)
    (mu1, s1), (mu2, s2) = ((v.mean(0), np.cov(v, rowvar=False)) for v in (x, y))
    kept = s1.copy(), s2.copy()
    value = frechet_distance_from_statistics(mu1, s1, mu2, s2)
    assert np.array_equal(s1, kept[0])
    assert np.array_equal(s2, kept[1])
    askew = s1.copy()
    askew[140, 3] += 1e-8
    assert frechet_distance_from_statistics(mu1, askew, mu2, s2) == pytest.approx(value, rel=1e-6)
    askew[140, 3] += 1
    with pytest.raises(UserError, match="not symmetric"):
        frechet_distance_from_statistics(mu1, askew, mu2, s2)
    s1[0, 0] = np.inf
    with pytest.raises(UserError, match="not finite"):
        frechet_distance_from_statistics(mu1, s1, mu2, s2)


def test_refusals_are_clear():
    x, y = sets(10, 10, 4)
    for bad, words in ((x[:1], "too few"), (x[:, :3], "different features"), (np.full_like(x, np.nan), "not finite"),
                       (x[None], "shape")):
        with pytest.raises(UserError, match=words):
            frechet_distance(bad, y)
    with pytest.raises(UserError, match="do not belong together"):
        frechet_distance_from_statistics(np.zeros(3), np.eye(4), np.zeros(3), np.eye(3))
    with pytest.raises(UserError, match="negative eigenvalue"):
        frechet_distance_from_statistics(np.zeros(2), [[1.0, 2], [2, 1]], np.zeros(2), [[1.0, 2], [2, 1]])


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
def test_streaming_is_independent_of_batches_and_order(batch):
    x, _ = sets(500, 2, 12)
    x = x + 1000
    x = x[np.random.default_rng(batch).permutation(len(x))]
    state = moments.empty(12)
    for part in torch.from_numpy(x).split(batch):
        moments.add(state, part)
    mean, covariance = moments.mean_and_covariance(state)
    whole = np.sort(x, axis=0).mean(0)
    assert moments.count(state) == 500
    np.testing.assert_allclose(mean, whole, rtol=1e-13)
    np.testing.assert_allclose(covariance, np.cov((x - 1000).T), rtol=1e-10, atol=1e-10)


def test_parts_combine_as_processes_do():
    x, y = (torch.from_numpy(v) for v in sets(90, 70, 6))
    whole = find_metric("fid")()
    whole.update_features(x, real=True)
    whole.update_features(y, real=False)
    parts = [find_metric("fid")() for _ in range(2)]
    for index, part in enumerate(parts):
        part.update_features(x[index::2], real=True)
        part.update_features(y[index::2], real=False)
    parts[0].merge_state(parts[1])
    assert parts[0].compute() == pytest.approx(whole.compute(), rel=1e-10)
    assert whole.compute() == pytest.approx(frechet_distance(x, y), rel=1e-10)
    assert parts[0].counts() == (90, 70)
    parts[0].reset()
    with pytest.raises(UserError, match=r"no (generated|real) images"):
        parts[0].compute()


def test_reference_statistics_stand_for_the_reals():
    x, y = (torch.from_numpy(v) for v in sets(90, 70, 6))
    fid = find_metric("fid")()
    fid.update_features(y)
    fid.load_reference(x.mean(0).numpy(), np.cov(x.T.numpy()), n=90)
    assert fid.compute() == pytest.approx(frechet_distance(x, y), rel=1e-10)
    (score,) = fid.scores()
    assert (score.n_real, score.n_fake) == (90, 70)
    assert "reference taken as exact" in score.ci_method
    fid.load_reference(np.zeros(5), np.eye(5))
    with pytest.raises(UserError, match="another network or layer"):
        fid.compute()


def test_state_of_the_reals_goes_round():
    x, y = (torch.from_numpy(v) for v in sets(90, 70, 6))
    first, second = find_metric("fid")(), find_metric("fid")()
    first.update_features(x, real=True)
    first.update_features(y)
    second.update_features(y)
    second.load_real_state(first.real_state())
    assert second.scores() == first.scores()


def test_few_images_are_pointed_out():
    x, y = (torch.from_numpy(v) for v in sets(9, 70, 12))
    fid = find_metric("fid")()
    fid.update_features(x, real=True)
    fid.update_features(y)
    (score,) = fid.scores()
    assert "9 images for 12 features" in score.note
    assert score.value == pytest.approx(by_square_root(x, y), rel=1e-7)


def test_fid_infinity_takes_the_bias_off():
    rng = np.random.default_rng(3)
    d, truth = 24, 24 * 0.2**2  # equal unit covariances, means 0.2 apart in each of d dimensions
    plain, extrapolated = [], []
    for _ in range(6):
        x, y = rng.normal(size=(6000, d)), rng.normal(size=(600, d)) + 0.2
        metric = find_metric("fid_infinity")(least=150)
        metric.update_features(torch.from_numpy(x), real=True)
        metric.update_features(torch.from_numpy(y))
        plain.append(frechet_distance(x, y))
        extrapolated.append(metric.compute())
    assert np.mean(plain) - truth > 0.15
    assert abs(np.mean(extrapolated) - truth) < 0.3 * (np.mean(plain) - truth)
