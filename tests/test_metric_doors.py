"""Metrics of few, of strange and of repeated images: refused, or with a note; and that they behave as torchmetrics'."""

import copy
import pickle

import numpy as np
import pytest
import torch

from ganbench.errors import UserError
from ganbench.metrics import functional
from ganbench.metrics.feature_metric import FeatureMetric
from ganbench.metrics.metric import find_metric
from ganbench.metrics.networks.features import open_network
from ganbench.plugins import names

X = np.random.default_rng(0).normal(size=(30, 4))
BYTES = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
TWO_SETS = ["frechet_distance", "kernel_distance", "kernel_inception_distance", "prdc", "gaussian_mmd"]


# --- what comes in at the door ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", TWO_SETS)
@pytest.mark.parametrize(("values", "says"), [
    (np.arange(30.0), r"write x\[:, None\]"), ("features.npy", "got a str"), (["a", "b"], "got a list"),
    (None, "NoneType"),
    (X.astype(complex), "complex"), ([[1.0], [1.0, 2.0]], "got a list"),
    (torch.from_numpy(X).to(torch.complex64), "complex"),
    (X.reshape(5, 6, 4), "one row a sample"), (np.array([[1, None]]), "object"), ({"a": 1}, "dict"),
])
def test_what_are_no_features_is_refused_in_one_line(name, values, says):
    for pair in ((values, X), (X, values)):
        with pytest.raises(UserError, match=says) as caught:
            getattr(functional, name)(*pair)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("call", "says"), [
    (lambda: functional.prdc(X, X, k="abc"), "k = 'abc'"), (lambda: functional.prdc(X, X, k=2.5), r"k = 2\.5"),
    (lambda: functional.prdc(X, X, k=0), "k = 0"), (lambda: functional.prdc(X, X, k=True), "k = True"),
    (lambda: functional.kernel_inception_distance(X, X, subsets="3"), "subsets = '3'"),
    (lambda: functional.kernel_inception_distance(X, X, subset_size=1.5), r"subset_size = 1\.5"),
    (lambda: functional.gaussian_mmd(X, X, sigma=0), "sigma = 0"),
    (lambda: functional.gaussian_mmd(X, X, "wide"), "sigma"),
    (lambda: functional.frechet_distance(X, X, ddof=2), "ddof = 2"),
    (lambda: functional.inception_score(X, splits="ten"), "splits = 'ten'"),
    (lambda: functional.inception_score("logits"), "got a str"),
    (lambda: functional.ms_ssim("a.png", "b.png"), "got a str"),
    (lambda: functional.sliced_wasserstein_distance("a", "b"), "got a str"),
    (lambda: functional.laplacian_pyramid([None]), "got a list"),
    (lambda: functional.m_global("real", 1.0, 0.5), "got a str"),
    (lambda: functional.frechet_distance_from_statistics("mu", np.eye(2), np.zeros(2), np.eye(2)), "the mean"),
    (lambda: functional.frechet_distance_from_statistics(np.zeros(2), "s", np.zeros(2), np.eye(2)), "the covariance"),
])
def test_arguments_of_a_wrong_kind_are_one_line(call, says):
    with pytest.raises(UserError, match=says):
        call()


@pytest.mark.parametrize("other", [np.eye(3), np.diag([1.0, 1.0, 0.0]), np.diag([3.0, 0.1, 2.0])])
def test_an_indefinite_covariance_is_refused_on_either_side(other):
    indefinite = np.array([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # eigenvalues -1, 1, 3
    zero = np.zeros(3)
    for pair in ((zero, indefinite, zero, other), (zero, other, zero, indefinite)):
        with pytest.raises(UserError, match="negative eigenvalue, -1"):
            functional.frechet_distance_from_statistics(*pair)
    singular = np.ones((3, 3))
    assert functional.frechet_distance_from_statistics(zero, singular, zero, singular) == pytest.approx(0, abs=1e-7)


def test_features_that_are_none_are_refused():
    metric = find_metric("fid")()
    for strange in (torch.zeros(5), torch.zeros(5, 3, dtype=torch.int64), X):
        with pytest.raises(UserError, match="expected features"):
            metric.update_features(strange)


FEATURE_METRICS = [name for name in names("metric") if issubclass(find_metric(name), FeatureMetric)]


@pytest.mark.parametrize("name", FEATURE_METRICS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(name, value):
    rng = np.random.default_rng(7)
    kinds = ["generated", *(["real"] if find_metric(name).needs_reals else []),
             *(["held-out"] if find_metric(name).needs_held_out else [])]
    for kind in kinds:
        strange = torch.from_numpy(rng.normal(size=(150, 4)))
        sets = dict.fromkeys(("real", "generated", "held-out"), strange.clone())
        strange[3, 1] = value
        sets[kind] = strange
        metric = find_metric(name)(**({"subset_size": 20} if name == "kid" else {}))
        metric.update_features(sets["real"], real=True)
        metric.update_features(sets["generated"])
        if metric.needs_held_out:
            metric.update_held_out_features(sets["held-out"])
        with pytest.raises(UserError, match=f"^{name}, {kind} images: some values are not finite; look at"):
            metric.scores()


@pytest.mark.parametrize("name", FEATURE_METRICS)
def test_features_of_two_widths_are_refused(name):
    """Some measures failed inside torch, and Vendi compared what cannot be compared."""
    metric = find_metric(name)()
    metric.update_features(torch.from_numpy(X), real=True)
    for real in (True, False):
        with pytest.raises(UserError, match=f"^{name}: the sets have different features, 4 and 3 numbers an image"):
            metric.update_features(torch.from_numpy(X[:, :3]), real=real)
    metric.reset()
    metric.update_features(torch.from_numpy(X[:, :3]))


# --- few and repeated images ------------------------------------------------------------------------------------------

def scores(name, real, fake, **options):
    metric = find_metric(name)("inception-v3-compat", "2048", **options)
    metric.update_features(torch.from_numpy(real), real=True)
    metric.update_features(torch.from_numpy(fake))
    return {score.level: score for score in metric.scores()}


def test_images_repeated_in_their_set_are_noted():
    rng = np.random.default_rng(1)
    real, fake = rng.normal(size=(40, 6)), rng.normal(size=(60, 6))
    repeated = np.repeat(real, 6, axis=0)
    for name, level in (("prdc", "coverage"), ("precision_recall", "precision")):
        found = scores(name, repeated, fake)[level]
        assert "240 of 240 real images have" in found.note and "radius is 0" in found.note
        assert scores(name, real, fake)[level].note == ""
    assert "generated images have 5 copies" in scores("prdc", real, np.repeat(fake, 6, axis=0))["recall"].note


def test_the_same_images_on_both_sides_are_remarked_upon():
    rng = np.random.default_rng(2)
    real, fake = rng.normal(size=(400, 6)), rng.normal(size=(400, 6))
    assert "are they the same images?" in scores("fid", real, real)[""].note
    assert scores("fid", real, fake)[""].note == ""


def test_fid_infinity_wants_more_images_than_features_in_every_subset():
    """With subsets of half as many images as features the line gave -1.54 where 2.56 is right."""
    rng = np.random.default_rng(3)
    width = 32
    real, fake = rng.normal(size=(20_000, width)), 1.4 * rng.normal(size=(1500, width))
    right = width * 0.4 ** 2
    with pytest.raises(UserError, match="with 32 features it takes 3 sizes from 64 images on, and 128 in all"):
        scores("fid_infinity", real, fake[:100])
    with pytest.raises(UserError, match=r"leave --set fid_infinity\.least"):
        scores("fid_infinity", real, fake, least=16)
    found = scores("fid_infinity", real, fake)[""]
    assert found.ci_low < right < found.ci_high and found.value == pytest.approx(right, rel=0.1)
    assert "jackknife" in found.ci_method
    with pytest.raises(UserError, match="with 2,048 features"):  # known before anything is computed
        find_metric("fid_infinity")().check_counts(5000, 5000)


@pytest.mark.parametrize("name", ["fid", "kid", "cmmd"])
def test_few_images_have_a_value_and_no_interval(name):
    """Simulated, 95% intervals of FID held 70% at 2 images, 90% at 10; KID of 2 or 3 images was refused."""
    rng = np.random.default_rng(6)
    for few, many in ((2, 2), (3, 30), (30, 3), (19, 19), (19, 20), (20, 20)):
        real, fake = rng.normal(size=(few, 6)), rng.normal(size=(many, 6)) + 0.5
        found = scores(name, real, fake, **({"subsets": 1, "subset_size": min(few, many)} if name == "kid" else {}))[""]
        if min(few, many) == 20:
            assert found.ci_low < found.value < found.ci_high
        else:
            assert (found.ci_low, found.ci_high) == (None, None)
            assert found.ci_method == "none: it takes at least 20 images of each set"
        if name == "fid":
            assert found.value == pytest.approx(functional.frechet_distance(fake, real))
        if name == "kid" and few == many:
            assert found.value == pytest.approx(functional.kernel_distance(fake, real))


def test_statistics_count_as_exact_however_few_images_they_are_of():
    metric = find_metric("fid")()
    metric.update_features(torch.from_numpy(X))
    metric.load_reference(np.zeros(4), np.eye(4), n=10)
    assert metric.scores()[0].ci_low is not None


def test_kid_advises_only_what_helps():
    with pytest.raises(UserError, match=r"kid: subsets of 2 .* there are 1 and 5: give more images$"):
        find_metric("kid")(subset_size=2).check_counts(1, 5)
    with pytest.raises(UserError, match=r"there are 3 and 5: give more images, or --set kid.subset_size=2$"):
        find_metric("kid")(subset_size=4).check_counts(3, 5)


@pytest.mark.parametrize(("width", "n", "options", "says"), [
    (32, 400, {}, "points=15;least=64;"), (32, 400, {"least": 80}, "points=15;least=80;"),
    (8, 400, {}, "points=15;least=tenth;"), (4, 16, {}, "points=9;least=8;"),  # 8, 9 ... 16
    (8, 400, {"least": 40}, "points=15;least=40;")])
def test_fid_infinity_says_the_subsets_it_took(width, n, options, says):
    metric = find_metric("fid_infinity")(**options)
    assert f"points=15;least={options.get('least', 'tenth')};" in metric.protocol()
    for real in (True, False):
        metric.update_features(torch.zeros(n, width), real=real)
    assert says in metric.protocol()


def test_cmmd_says_what_of_it_is_bias():
    rng = np.random.default_rng(4)
    real, fake = rng.normal(size=(30, 5)), rng.normal(size=(30, 5))
    found = scores("cmmd", real, fake, sigma=1.0)
    x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (fake, real))
    kernel = [np.exp(-np.square(a[:, None] - b[None]).sum(2) / 2) for a, b in ((x, x), (y, y), (x, y))]
    unbiased = sum((k.sum() - np.trace(k)) / (30 * 29) for k in kernel[:2]) - 2 * kernel[2].mean()
    assert found[""].value == pytest.approx(1000 * (kernel[0].mean() + kernel[1].mean() - 2 * kernel[2].mean()))
    assert found["unbiased"].value == pytest.approx(1000 * unbiased)
    assert "of it is bias" in found[""].note and found["unbiased"].ci_low < 0 < found["unbiased"].ci_high
    assert find_metric("cmmd").with_floor
    assert "reals=30;fakes=30" in find_metric("cmmd")().protocol().replace("=0", "=30")


def test_intervals_stay_where_the_quantity_can_be():
    metric = find_metric("ms_ssim")()
    noise = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    metric.update(torch.cat([noise, noise[:1], noise[:1]]))
    score, = metric.scores()
    assert 0 <= score.ci_low <= score.value <= score.ci_high <= 1


def test_kid_says_the_subsets_it_drew():
    rng = np.random.default_rng(5)
    metric = find_metric("kid")("inception-v3-compat", "2048", "clean-fid")
    assert "subsets=100x1000" in metric.protocol()
    metric.update_features(torch.from_numpy(rng.normal(size=(24, 6))), real=True)
    metric.update_features(torch.from_numpy(rng.normal(size=(30, 6))))
    assert "subsets=100x24" in metric.protocol()


# --- as torchmetrics' own metrics -------------------------------------------------------------------------------------

def images(n, seed=0):
    return torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_merging_loses_no_image_that_waits_for_its_pair():
    parts = [find_metric("ms_ssim")() for _ in range(2)]
    x, y = images(3, 1), images(5, 2)
    parts[0].update(x)
    parts[1].update(y)
    parts[0].merge_state(parts[1])
    assert sum(score.n_fake for score in parts[0].scores()) == 8
    pairs = torch.cat([functional.ms_ssim(x[:1], x[1:2]), functional.ms_ssim(y[:4:2], y[1:4:2]),
                       functional.ms_ssim(y[4:], x[2:])])  # the two that were left
    assert parts[0].compute().item() == pytest.approx(pairs.mean().item(), rel=1e-12)


def test_forward_gives_the_value_of_the_batch_and_keeps_all():
    metric, x = find_metric("ms_ssim")(), images(7)
    assert metric(x[:4]).item() == pytest.approx(functional.ms_ssim(x[:4:2], x[1:4:2]).mean().item())
    assert metric(x[4:5]) is None  # one image makes no pair
    assert metric(x[5:]).item() == pytest.approx(functional.ms_ssim(x[5:6], x[6:]).item())
    assert metric.scores()[0].n_fake == 6
    fid = find_metric("fid")(open_network("random-vgg16"))
    assert fid(images(4), real=True) is None and fid(images(4, 1)) is None  # no call holds both sets
    both = find_metric("fid")(open_network("random-vgg16"))
    both.update(images(4), real=True)
    both.update(images(4, 1))
    assert fid.compute() == both.compute()


@pytest.mark.parametrize("name", ["fid", "kid", "prdc", "swd", "ms_ssim"])
def test_a_metric_can_be_pickled_and_copied_after_an_update(name):
    options = {"k": 2} if name == "prdc" else {"subset_size": 3} if name == "kid" else {}
    network = () if name in ("swd", "ms_ssim") else (open_network("random-vgg16"),)
    metric = find_metric(name)(*network, **options)
    metric.update(images(4), real=True)
    metric.update(images(4, 1))
    for other in (pickle.loads(pickle.dumps(metric)), copy.deepcopy(metric), metric.clone()):
        assert other.protocol() == metric.protocol()
        other.update(images(4, 2), real=True)
        other.update(images(4, 3))
        assert other.scores() != []
    assert len(pickle.dumps(metric)) < 2e7  # how the network is opened, not its weights
