"""The newer measures, with and without weights, against slow versions by definition, closed forms and packages."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from ganbench.errors import UserError
from ganbench.metrics.measures import cmmd
from ganbench.metrics.measures.authenticity import Authenticity, authentic
from ganbench.metrics.measures.mifid import Mifid
from ganbench.metrics.measures.mind import Mind
from ganbench.metrics.measures.power_spectrum import PowerSpectrum, log_spectra
from ganbench.metrics.measures.rke import RKE, gaussian_kernel, median_distance, mode_count, relative_entropy
from ganbench.metrics.measures.vendi import vendi_score
from ganbench.metrics.measures.wavelet_frechet import WaveletFrechet, packets
from ganbench.random import Random, derived_seed


def images(n, side=16, channels=3, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    pixels = 128 + scale * 40 * rng.standard_normal((n, channels, side, side))
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8))


def filled(metric, real, fake, batch=7):
    for part in real.split(batch):
        metric.update(part, real=True)
    for part in fake.split(batch):
        metric.update(part, real=False)
    return metric


# --- power spectrum ---------------------------------------------------------------------------------------------------

def test_a_wave_has_its_power_at_its_own_radius():
    x = torch.arange(32, dtype=torch.float64)
    wave = (127.5 + 100 * torch.cos(2 * math.pi * 5 * x / 32)).round()
    spectra = log_spectra(wave.to(torch.uint8).expand(1, 3, 32, 32))
    assert spectra.shape == (1, 16) and int(spectra.argmax()) == 4  # radius 5
    # two of the ring's frequencies hold it: the correlation of a row with that wave, to the rounding of bytes 50
    half = abs(sum(float(w) * np.exp(-2j * math.pi * 5 * i / 32) for i, w in enumerate(wave))) / 32
    assert half == pytest.approx(50, abs=0.2)
    ring = sum(round(math.hypot(a, b)) == 5 for a in range(-16, 16) for b in range(-16, 16))
    expected = 10 * math.log10(2 * (half / 255) ** 2 * 32**2 / ring)
    assert float(spectra[0, 4]) == pytest.approx(expected, rel=1e-9)


def test_the_spectrum_equals_a_loop_over_frequencies():
    batch = images(3, side=8)
    expected = np.zeros((3, 4))
    for i, picture in enumerate(batch.double().mean(1).numpy() / 255):
        power = np.abs(np.fft.fft2(picture)) ** 2 / 64
        for radius in range(1, 5):
            ring = [power[a % 8, b % 8] for a in range(-4, 4) for b in range(-4, 4)
                    if round(math.hypot(a, b)) == radius]
            expected[i, radius - 1] = 10 * np.log10(np.mean(ring))
    np.testing.assert_allclose(log_spectra(batch).numpy(), expected, rtol=1e-9)


def test_twice_the_amplitude_is_six_decibels_and_the_interval_covers_it():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((600, 1, 16, 16)) * 20
    quiet = torch.from_numpy((128 + noise[:300]).round().astype(np.uint8))
    loud = torch.from_numpy((128 + 2 * noise[300:]).round().clip(0, 255).astype(np.uint8))
    scores = filled(PowerSpectrum(), quiet, loud).scores()
    assert [s.level for s in scores] == ["all", "high"]
    for score in scores:
        assert score.ci_low < 20 * math.log10(2) < score.ci_high and score.ci_high - score.ci_low < 1
    assert filled(PowerSpectrum(), quiet, quiet).compute() == {"all": 0.0, "high": 0.0}


def test_the_stated_error_is_the_spread_over_repetitions():
    values, errors = [], []
    for seed in range(60):
        score = filled(PowerSpectrum(), images(60, seed=2 * seed), images(60, seed=2 * seed + 1, scale=1.3)).scores()[0]
        values.append(score.value)
        errors.append((score.ci_high - score.ci_low) / 2 / 1.959964)
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.25)


def test_pictures_that_are_not_square_are_refused():
    with pytest.raises(UserError, match="square images"):
        PowerSpectrum().update(torch.zeros(2, 3, 8, 16, dtype=torch.uint8))
    with pytest.raises(UserError, match="two generated"):
        filled(PowerSpectrum(), images(4), images(1)).compute()


# --- wavelets ---------------------------------------------------------------------------------------------------------

def test_packets_are_an_orthonormal_change_of_basis():
    batch = images(2, side=16).double()
    found = packets(batch, 3)
    assert found.shape == (2, 64, 3 * 4)
    assert torch.allclose(found.square().sum((1, 2)), batch.square().sum((1, 2, 3)))
    # the first packet is the mean over blocks of 8x8, times 8
    assert torch.allclose(found[:, 0].reshape(2, 3, 2, 2), torch.nn.functional.avg_pool2d(batch, 8) * 8)


def test_the_distance_equals_frechet_distances_of_stored_packets():
    real, fake = images(40, side=8, channels=1), images(30, side=8, channels=1, seed=1, scale=0.5)
    metric = filled(WaveletFrechet(levels=2), real, fake)
    x, y = (packets(s.double() / 255, 2).numpy() for s in (real, fake))
    distances = []
    for p in range(16):
        a, b = x[:, p], y[:, p]
        ca, cb = np.cov(a.T), np.cov(b.T)
        root = scipy.linalg.sqrtm(ca @ cb).real
        distances.append(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * root))
    assert metric.compute() == pytest.approx(np.mean(distances), rel=1e-6)
    assert metric.protocol().endswith("levels=2;range=0,1;ddof=1;reals=40;fakes=30")
    score = metric.scores()[0]
    assert (score.n_real, score.n_fake, score.ci_low) == (40, 30, None) and "none" in score.ci_method


def test_the_distance_equals_the_authors_package():
    pytest.importorskip("pytorchfwd")
    dtype = torch.get_default_dtype()
    from pytorchfwd.fwd import _compute_avg_frechet_distance, compute_packet_statistics  # sets the default dtype
    torch.set_default_dtype(dtype)
    real, fake = images(80, side=16), images(80, side=16, seed=1, scale=0.7)
    statistics = [compute_packet_statistics([[s.double() / 255]], "haar", 4, False) for s in (real, fake)]
    (mu, sigma), (mu2, sigma2) = statistics
    expected = _compute_avg_frechet_distance(mu, mu2, sigma, sigma2)
    assert filled(WaveletFrechet(), real, fake).compute() == pytest.approx(expected, rel=1e-5)


def test_sides_and_levels_that_do_not_fit_are_named():
    with pytest.raises(UserError, match=r"12x12 does not divide by 16.*wavelet_frechet.levels"):
        WaveletFrechet().update(torch.zeros(2, 3, 12, 12, dtype=torch.uint8))


@pytest.mark.parametrize("border", [0, 240, 253])
def test_the_distance_of_pictures_on_a_flat_background_is_had(border):
    """Rounding left variances of -1e-17 where nothing changes, and many backgrounds were refused."""
    rng, sets = np.random.default_rng(0), []
    for scale in (1.0, 0.6):
        pixels = np.full((40, 1, 64, 64), border, dtype=np.uint8)
        pixels[..., 16:48, 16:48] = (128 + scale * 40 * rng.standard_normal((40, 1, 32, 32))).clip(0, 255)
        sets.append(torch.from_numpy(pixels))
    # packets of the border alone agree to the bit; the others hold what the centre has, beside zeros
    x, y = (packets(part.double() / 255, 4).numpy() for part in sets)
    expected = np.mean([by_square_root(x[:, p], y[:, p]) for p in range(256)])
    assert filled(WaveletFrechet(), *sets).compute() == pytest.approx(expected, rel=1e-6)


def by_square_root(x, y):
    a, b = np.cov(x.T), np.cov(y.T)
    values, vectors = np.linalg.eigh(a)
    root = (vectors * values.clip(0) ** 0.5) @ vectors.T
    cross = np.linalg.eigvalsh(root @ b @ root).clip(0)
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b) - 2 * (cross[cross > 1e-12] ** 0.5).sum()


def test_the_distance_of_a_collapsed_generator_is_had():
    """One image over and over: no covariance, so the distance is that of the means and the variance of the reals."""
    real, one = images(40, side=16), images(1, side=16, seed=1)
    x, y = (packets(part.double() / 255, 4).numpy() for part in (real, one))
    expected = np.mean([((x[:, p].mean(0) - y[0, p]) ** 2).sum() + np.trace(np.cov(x[:, p].T)) for p in range(256)])
    for number in (2, 50):
        found = filled(WaveletFrechet(), real, one.expand(number, -1, -1, -1)).compute()
        assert found == pytest.approx(expected, rel=1e-9)
    for grey in range(256):  # one constant against another: a step in one packet of four, twice that of a pixel
        flat, white = (torch.full((3, 1, 2, 2), value, dtype=torch.uint8) for value in (grey, 255))
        found = filled(WaveletFrechet(levels=1), flat, white).compute()
        assert found == pytest.approx((1 - grey / 255) ** 2, abs=1e-12)


@pytest.mark.parametrize("metric", [WaveletFrechet, PowerSpectrum])
def test_what_are_no_bytes_is_refused(metric):
    """Floats on [0,1] gave 5e-6 where 0.3 is right."""
    for strange in (images(3).float() / 255, images(3).long() * 3):
        for real in (True, False):
            with pytest.raises(UserError, match=r"images are (float32|int64), not uint8: round them"):
                metric().update(strange, real=real)
    with pytest.raises(UserError, match=r"expected \(N,C,H,W\)"):
        metric().update(images(3)[0])


def test_sets_of_two_shapes_are_named():
    metric = filled(WaveletFrechet(), images(3), images(0))
    with pytest.raises(UserError, match=r"shapes \(3, 16, 16\) and \(1, 16, 16\) \(channels, height, width\)"):
        metric.update(images(3, channels=1))
    spectrum = filled(PowerSpectrum(), images(3), images(3, channels=1))  # grey is the mean of channels
    assert spectrum.compute()["all"] > 0
    with pytest.raises(UserError, match="power_spectrum got images of sides 16 and 32"):
        spectrum.update(images(3, side=32))
    spectrum.reset()
    metric.reset()
    filled(metric, images(3, channels=1), images(3, channels=1)).compute()


# --- Vendi and Rényi --------------------------------------------------------------------------------------------------

def test_vendi_of_groups_of_equal_rows_is_the_number_of_groups():
    groups = torch.eye(5, 8).repeat(6, 1)
    assert vendi_score(groups) == pytest.approx(5, rel=1e-9)
    assert vendi_score(torch.ones(7, 3)) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("shape", [(12, 30), (40, 6)])
def test_vendi_equals_its_definition_and_the_package(shape):
    x = np.random.default_rng(0).standard_normal(shape)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh(unit @ unit.T / len(x))
    eigenvalues = eigenvalues[eigenvalues > 1e-15]
    expected = math.exp(-(eigenvalues * np.log(eigenvalues)).sum())
    assert vendi_score(torch.from_numpy(x)) == pytest.approx(expected, rel=1e-9)


def test_renyi_scores_equal_loops_over_pairs():
    rng = np.random.default_rng(0)
    x, y, sigma = rng.standard_normal((20, 4)), rng.standard_normal((15, 4)), 1.7
    kernel = np.array([[math.exp(-((a - b) ** 2).sum() / (2 * sigma**2)) for b in y] for a in x])
    assert np.allclose(gaussian_kernel(torch.from_numpy(x), torch.from_numpy(y), sigma).numpy(), kernel, rtol=1e-12)
    own = np.mean([math.exp(-((a - b) ** 2).sum() / (2 * sigma**2)) ** 2 for a in x for b in x])
    assert mode_count(torch.from_numpy(x), sigma) == pytest.approx(1 / own, rel=1e-12)
    nuclear = np.linalg.svd(kernel / math.sqrt(20 * 15), compute_uv=False).sum()
    assert relative_entropy(torch.from_numpy(x), torch.from_numpy(y), sigma) == pytest.approx(-math.log(nuclear**2))


def test_renyi_counts_separate_modes_and_misses_none_of_its_own():
    far = torch.eye(4, 4, dtype=torch.float64).repeat(5, 1) * 100
    assert mode_count(far, 1.0) == pytest.approx(4, rel=1e-9)
    assert relative_entropy(far, far.flip(0), 1.0) == pytest.approx(0, abs=1e-9)
    assert relative_entropy(far[:10], far[:1].repeat(10, 1), 1.0) > 1  # three of four modes are missing
    with pytest.raises(UserError, match=r"rke.sigma"):
        median_distance(torch.ones(5, 2, dtype=torch.float64))


def test_renyi_scores_equal_the_authors_package():
    package = pytest.importorskip("rke_score")
    x, y = (np.random.default_rng(s).standard_normal((25, 3)) for s in (0, 1))
    theirs = package.RKE(kernel_bandwidth=0.8)
    assert mode_count(torch.from_numpy(x), 0.8) == pytest.approx(1 / theirs.compute_rke_mc_frobenius_norm(x)[0.8])
    ours = relative_entropy(torch.from_numpy(x), torch.from_numpy(y), 0.8)
    assert ours == pytest.approx(theirs.compute_rrke(x, y)[0.8])


def test_renyi_scores_of_sets_sorted_by_class_are_those_of_the_whole():
    # ten tight modes far apart: the cross kernel is 1 within a mode and 0 elsewhere, so that its nuclear norm is the
    # sum of sqrt(p_i q_i) over modes
    rng, modes = np.random.default_rng(0), 50 * np.eye(10)
    labels = {"all": rng.integers(0, 10, 3000), "two": rng.integers(0, 2, 3000)}
    for name, share, tolerance in (("all", 0.1, 0.05), ("two", 0.5, 0.1)):
        metric = RKE(sigma=1.0)
        metric.update_features(torch.from_numpy(modes[np.arange(10).repeat(300)]), real=True)
        metric.update_features(torch.from_numpy(modes[np.sort(labels[name])]))
        expected = -2 * math.log(round(1 / share) * math.sqrt(share * 0.1))
        assert float(metric.compute()["relative"]) == pytest.approx(expected, abs=tolerance)
    assert "relative=500;seed=0" in metric.protocol() and "relative=500" in RKE().protocol()
    metric = RKE(sigma=1.0)
    metric.update_features(torch.from_numpy(modes), real=True)
    metric.update_features(torch.from_numpy(modes[:7]))
    assert "relative=10;" in metric.protocol() and metric.scores()[2].n_real == 10


def test_the_kernels_width_is_of_all_classes_where_reals_are_sorted():
    # three points at one distance d, the first one half of the rows: of all pairs 3/8 are at 0, so the median is d, and
    # mean k^2 = 3/8 + 5/8 exp(-d^2/d^2)
    reals = torch.eye(3, dtype=torch.float64).repeat_interleave(torch.tensor([2048, 1024, 1024]), 0)
    metric = RKE()
    metric.update_features(reals, real=True)
    metric.update_features(reals)
    assert float(metric.compute()["real modes"]) == pytest.approx(1 / (3 / 8 + 5 / 8 * math.exp(-1)), rel=1e-6)


def test_the_interval_of_cmmd_holds_for_sets_sorted_by_class(monkeypatch):
    monkeypatch.setattr(cmmd, "ENOUGH", 100)
    values, errors, centres = [], [], np.random.default_rng(7).normal(size=(6, 4))
    for seed in range(80):
        rng = np.random.default_rng(seed)
        metric = cmmd.Cmmd(sigma=0.5)
        for real, shares in ((True, [1 / 6] * 6), (False, [0.3, 0.3, 0.1, 0.1, 0.1, 0.1])):
            of = np.sort(rng.choice(6, 400, p=shares))
            metric.update_features(torch.from_numpy(centres[of] + 0.1 * rng.normal(size=(400, 4))), real=real)
        found = metric.scores()[1]
        values.append(found.value)
        errors.append((found.ci_high - found.ci_low) / 2 / 1.96)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values), rel=0.2)


# --- measures of features, on features that are given -----------------------------------------------------------------

def test_mind_equals_its_definition_and_takes_as_many_of_the_larger_set():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 5)), rng.standard_normal((20, 5)) + 0.5
    metric = Mind(projections=40)
    metric.update_features(torch.from_numpy(x), real=True)
    metric.update_features(torch.from_numpy(y), real=False)
    directions = Random(derived_seed(0, "mind-directions")).normal(40, 5).double().numpy()
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    chosen = x[Random(derived_seed(0, "mind-subset", "real")).uniform(30).argsort()[:20].numpy()]
    expected = np.mean([np.mean((np.sort(chosen @ u) - np.sort(y @ u)) ** 2) for u in directions]) * 15
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-6)
    assert metric.scores()[0].ci_low is None and metric.scores()[0].n_real == 20


def test_mind_of_a_shift_is_three_times_its_square_and_the_interval_is_as_wide_as_repetitions_spread():
    values, errors = [], []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        metric = Mind(projections=100)
        metric.update_features(torch.from_numpy(rng.standard_normal((400, 4))), real=True)
        metric.update_features(torch.from_numpy(rng.standard_normal((400, 4)) + [2, 0, 0, 0]), real=False)
        score = metric.scores()[0]
        values.append(score.value)
        errors.append((score.ci_high - score.ci_low) / 2 / 2.262157)
    # E (u . shift)^2 = |shift|^2 / d, times 3 d: 12, but for the directions drawn and the bias of 400 rows
    assert np.mean(values) == pytest.approx(12, rel=0.1)
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.3)


def test_authenticity_finds_copies_and_equals_a_loop():
    rng = np.random.default_rng(0)
    reals, fakes = rng.standard_normal((50, 3)), rng.standard_normal((40, 3)) * 1.5
    fakes[:10] = reals[:10] + 1e-3
    expected = []
    for fake in fakes:
        distances = np.linalg.norm(reals - fake, axis=1)
        nearest = distances.argmin()
        others = np.linalg.norm(np.delete(reals, nearest, 0) - reals[nearest], axis=1)
        expected.append(others.min() < distances[nearest])
    found = authentic(torch.from_numpy(reals), torch.from_numpy(fakes))
    assert found.tolist() == expected and not any(expected[:10])
    metric = Authenticity()
    metric.update_features(torch.from_numpy(reals), real=True)
    metric.update_features(torch.from_numpy(fakes), real=False)
    score = metric.scores()[0]
    assert score.value == pytest.approx(np.mean(expected)) and score.ci_low < score.value < score.ci_high


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_mifid_of_copies_is_infinite(kind):
    """Rounding left a distance of 4e-17, and a value of 1e16."""
    reals = torch.from_numpy(np.random.default_rng(0).standard_normal((150, 6)) + 1).to(kind)
    for fakes in (reals[:50], 3 * reals[:50], reals.flip(0)):
        metric = Mifid()
        metric.update_features(reals, real=True)
        metric.update_features(fakes)
        assert metric.compute() == {"mifid": math.inf, "distance": 0}
    near = Mifid()
    near.update_features(torch.eye(3, dtype=torch.float64), real=True)
    near.update_features(torch.eye(3, dtype=torch.float64) + 1e-3)  # |cos| = 1.001 / (1.001^2 + 2e-6)^0.5
    assert near.compute()["distance"] == pytest.approx(1 - 1.001 / (1.001**2 + 2e-6) ** 0.5, rel=1e-6)


@pytest.mark.parametrize("noise", [0.05, 2.0])
def test_mifid_equals_torchmetrics_with_the_sets_exchanged(noise):
    from torchmetrics.image.mifid import _mifid_compute
    rng = np.random.default_rng(0)
    reals = torch.from_numpy(rng.standard_normal((60, 6)) + 1)
    fakes = reals[:50] + noise * torch.from_numpy(rng.standard_normal((50, 6)))
    metric = Mifid()
    metric.update_features(reals, real=True)
    metric.update_features(fakes, real=False)
    statistics = [argument for rows in (fakes, reals) for argument in (rows.mean(0), rows.T.cov(), rows)]
    expected = float(_mifid_compute(*statistics))
    values = metric.compute()
    assert values["mifid"] == pytest.approx(expected, rel=1e-6)
    assert (values["distance"] < 0.1) == (noise < 1) == ("memorised" in metric.scores()[0].note)
