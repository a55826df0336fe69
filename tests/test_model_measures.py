"""Class accuracy, mode coverage, nearest-neighbour distance, critic gap, bits per dimension: against known answers."""

import math

import numpy as np
import pytest
import torch
from measure_support import Call, FakeStore, Known, noise_store, subject_of
from mixtures import GRID25, GRID25_STD, RING8, RING8_STD, mixture_coverage
from scipy import stats
from torch import nn

from ganbench import plugins
from ganbench.errors import UserError
from ganbench.metrics.functional import frechet_distance
from ganbench.metrics.maths.uncertainty import bootstrap, of_mean, of_share
from ganbench.metrics.measures.bits_per_dim import BitsPerDim
from ganbench.metrics.measures.class_accuracy import ClassAccuracy
from ganbench.metrics.measures.classification_accuracy_score import ClassificationAccuracyScore
from ganbench.metrics.measures.intra_class_fid import IntraClassFid
from ganbench.metrics.measures.mode_coverage import ModeCoverage, kl_of_counts, symbols_a_channel
from ganbench.metrics.measures.nnd import Nnd, nearest_neighbours
from ganbench.metrics.measures.wasserstein_gap import WassersteinGap
from ganbench.metrics.metric import MetricBase, ModelMetric
from ganbench.metrics.networks import classifier
from ganbench.metrics.networks.features import open_network
from ganbench.metrics.subjects import fake_pixels


def levels(scores):
    return {s.level: s for s in scores}


class GreyJudge:
    """Tells classes by brightness: class k is grey value 60 k."""

    identity, side, names = "grey", 8, list("0123")

    def classify(self, pixels, batch=256):
        return (pixels.float().flatten(1).mean(1) / 60).round().long().clamp(0, 3).numpy()


@pytest.fixture
def judge(monkeypatch):
    monkeypatch.setattr(classifier, "of_classes", lambda *a, **k: GreyJudge())


def grey(values):
    values = torch.as_tensor(values, dtype=torch.float32)
    return (values / 127.5 - 1).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)


def grey_store(labels):
    labels = np.asarray(labels)
    return FakeStore(np.broadcast_to((60 * labels)[:, None, None, None], (len(labels), 1, 8, 8)).astype(np.uint8),
                     labels, classes=4)


def test_class_accuracy_counts_samples_that_show_the_class_asked_for(judge):
    # The generator draws class 3 whenever it is asked for 2: with labels 0,1,2,3 equally often, 3 in 4 are right.
    family = Known(Call(lambda z, y: grey(60 * torch.where(y == 2, 3, y))), needs_labels=True, classes=4)
    store = grey_store([0, 1, 2, 3] * 5)
    got = levels(ClassAccuracy().measure(subject_of(family, store, n=2000)))
    assert got[""].value == pytest.approx(0.75, abs=0.03)
    assert got[""].ci_low < 0.75 < got[""].ci_high and got[""].n_fake == 2000
    assert got["reals"].value == 1 and got["reals"].n_real == 20
    assert "conditional" in ClassAccuracy().applies(Known(nn.Identity()))


def noisy(values):
    """Pictures of a class's brightness with noise that torch's stream gives."""
    values = torch.as_tensor(values, dtype=torch.float32).view(-1, 1, 1, 1)
    return ((60 * values + 20 * torch.randn(len(values), 1, 8, 8)) / 127.5 - 1).clamp(-1, 1)


def noisy_store(n, seed=0):
    labels = np.arange(n) % 4
    torch.manual_seed(seed)
    return FakeStore(((noisy(labels) + 1) * 127.5).round().to(torch.uint8).numpy(), labels, classes=4)


def test_intra_class_fid_is_the_mean_of_fids_within_classes():
    family = Known(Call(lambda z, y: noisy(y + 0.3 * (y == 1))), needs_labels=True, classes=4)
    subject = subject_of(family, noisy_store(200), n=120)
    measure = IntraClassFid(network="random-vgg16")
    got, network = levels(measure.measure(subject)), open_network("random-vgg16")
    made, asked = fake_pixels(subject, 120, "intra_class_fid")
    reals = torch.from_numpy(subject.reals.images)
    expected = [frechet_distance(network(made[asked == k])["512"], network(reals[k::4])["512"]) for k in range(4)]
    assert got[""].value == pytest.approx(np.mean(expected), rel=1e-6)
    assert got["worst"].value == pytest.approx(max(expected), rel=1e-6) and got["worst"].note == "class 1"
    assert "network=random-vgg16" in measure.protocol() and "fakes=120" in measure.protocol()
    with pytest.raises(UserError, match=r"class 0 has 50 training images and \d+ samples, and needs 2 of each"):
        IntraClassFid(2, network="random-vgg16").measure(subject)
    assert "conditional" in IntraClassFid().applies(Known(nn.Identity()))


def test_a_classifier_of_samples_is_as_good_as_their_classes_are(judge, monkeypatch):
    """A generator that shows class 3 for 2 spoils both: nothing says how they differ, and real images of 2 are new."""
    monkeypatch.setattr("ganbench.metrics.measures.classification_accuracy_score.of_classes",
                        lambda *args: GreyJudge())
    test = noisy_store(80, seed=1)
    for wrong, low, high in ((False, 0.9, 1.0), (True, 0.4, 0.78)):
        family = Known(Call(lambda z, y, wrong=wrong: noisy(torch.where((y == 2) & wrong, 3, y))), needs_labels=True,
                       classes=4)
        got = levels(ClassificationAccuracyScore().measure(subject_of(family, noisy_store(100), test, n=400)))
        assert low <= got[""].value <= high, wrong
        assert got[""].n_real == 80 and got[""].n_fake == 400 and got["reals"].value > 0.9
    with pytest.raises(UserError, match="needs images that were held out"):
        ClassificationAccuracyScore().measure(subject_of(family, noisy_store(100), n=20))


def test_a_generator_in_training_mode_is_measured_as_it_samples():
    generator = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.BatchNorm1d(64), nn.Unflatten(1, (1, 8, 8)))
    subject = subject_of(Known(generator), noise_store(), noise_store(seed=1))
    as_sampled = Nnd().measure(subject_of(Known(generator.eval()), noise_store(), noise_store(seed=1)))
    generator.train()
    assert Nnd().measure(subject) == as_sampled
    assert generator.training and generator[2].num_batches_tracked == 0


def test_labels_are_drawn_as_often_as_in_the_training_data(judge):
    family = Known(Call(lambda z, y: grey(60 * y)), needs_labels=True, classes=4)
    got = levels(ModeCoverage(n=500).measure(subject_of(family, grey_store([0] * 9 + [2]))))
    assert got[""].value == 2  # classes 1 and 3 do not occur in the data, so nobody asks for them
    assert got["kl"].value < 0.02


def test_mode_coverage_counts_classes_and_their_divergence(judge):
    # Half the samples class 0, half class 1; the data has four classes equally often: KL = ln 2.
    family = Known(Call(lambda z: grey(60 * (torch.arange(len(z)) % 2))))
    measure = ModeCoverage(n=64)
    got = levels(measure.measure(subject_of(family, grey_store([0, 1, 2, 3]))))
    assert got[""].value == 2 and "of 4" in got[""].note and got[""].higher_is_better
    assert got["kl"].value == pytest.approx(math.log(2))
    assert got["kl"].ci_low <= got["kl"].value <= got["kl"].ci_high and "grey" in measure.protocol()
    with pytest.raises(UserError, match="labels"):
        measure.measure(subject_of(family, noise_store()))


def test_stacked_data_is_sorted_channel_by_channel_and_other_data_is_not(monkeypatch):
    assert symbols_a_channel([f"{i:03d}" for i in range(1000)], 3) == 10
    assert symbols_a_channel([str(i) for i in range(1000)], 3) == 0  # a thousand classes of colour images, no words
    assert symbols_a_channel([str(i) for i in range(10)], 1) == symbols_a_channel(["cat", "dog"], 3) == 0

    class ChannelJudge(GreyJudge):
        """One channel's symbol: dark 0, bright 1."""

        def classify(self, pixels, batch=256):
            assert pixels.shape[1] == 1
            return (pixels.float().flatten(1).mean(1) > 128).long().numpy()

    monkeypatch.setattr(classifier, "of_channels", lambda *a, **k: ChannelJudge())
    levels_of = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0]])  # words 00, 10, 11; never 01
    family = Known(Call(lambda z: levels_of[torch.arange(len(z)) % 3][:, :, None, None].expand(-1, -1, 8, 8)),
                   channels=2)
    store = noise_store(12, channels=2)
    store.labels, store.classes = np.arange(12) % 4, ["00", "01", "10", "11"]
    got = levels(ModeCoverage(n=63).measure(subject_of(family, store)))
    assert got[""].value == 3 and got["kl"].value == pytest.approx(math.log(4 / 3))


def test_mixture_coverage_by_hand():
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = np.concatenate([np.zeros((30, 2)), np.full((19, 2), (10.0, 3.5)), [[0.0, 10.0]], [[5.0, 5.1]]])
    got = mixture_coverage(points, centres, std=1.0)
    assert got.loose == 2  # the second mode's points lie 3.5 deviations off: within 4, not within 3
    assert got.strict == 1  # 19 are one too few
    assert got.high_quality == pytest.approx(31 / 51) and got.near5 == pytest.approx(50 / 51)
    p = np.array([30, 19, 1]) / 50
    assert got.kl == pytest.approx(stats.entropy(p, np.full(3, 1 / 3)))
    assert got.distance == pytest.approx((19 * 3.5 + np.hypot(5, 4.9)) / 51)


@pytest.mark.parametrize(("centres", "std", "radius"), [(RING8, RING8_STD, 2 / 1.414), (GRID25, GRID25_STD, None)])
def test_samples_of_the_mixture_itself_cover_it(centres, std, radius):
    rng = np.random.default_rng(0)
    which = rng.integers(len(centres), size=2500)
    got = mixture_coverage(centres[which] + std * rng.normal(size=(2500, 2)), centres, std)
    assert got.loose == got.strict == len(centres)
    assert got.high_quality == pytest.approx(1 - np.exp(-4.5), abs=0.01)  # a 2-D Gaussian within 3 deviations
    assert got.kl < 0.02 and got.distance == pytest.approx(std * np.sqrt(np.pi / 2), rel=0.05)
    if radius:
        np.testing.assert_allclose(np.linalg.norm(centres, axis=1), radius)
    else:
        assert len(centres) == 25 and np.abs(centres).max() == pytest.approx(4 / 2.828)


def test_kl_of_counts():
    assert kl_of_counts(np.array([5, 5]), np.array([1, 1])) == 0
    assert kl_of_counts(np.array([5, 5]), np.array([1, 0])) == math.inf
    assert math.isnan(kl_of_counts(np.array([0, 0]), np.array([1, 1])))


def test_nearest_neighbours_equal_brute_force_and_copies_are_at_distance_zero():
    rng = np.random.default_rng(0)
    queries, samples = (rng.integers(256, size=(n, 3, 4, 4), dtype=np.uint8) for n in (20, 50))
    samples[7] = queries[3]
    distance, index = nearest_neighbours(torch.from_numpy(queries), torch.from_numpy(samples), chunk=6)
    every = np.linalg.norm((queries[:, None].astype(float) - samples[None]).reshape(20, 50, -1) / 127.5, axis=2)
    np.testing.assert_allclose(distance, every.min(1), rtol=1e-6)
    np.testing.assert_array_equal(index, every.argmin(1))
    assert distance[3] == 0 and index[3] == 7


def test_nnd_and_its_classifier():
    # Samples are exactly their class's grey; held-out images lie 6 grey levels above: distance 8 * 6 / 127.5.
    family = Known(Call(lambda z, y: grey(60 * y)), needs_labels=True, classes=4)
    held_out = grey_store([0, 1, 2, 3])
    held_out.images = held_out.images + np.uint8(6)
    got = levels(Nnd(n=100).measure(subject_of(family, grey_store([0, 1, 2, 3] * 3), held_out)))
    assert got[""].value == pytest.approx(8 * 6 / 127.5) == got["train"].value
    assert got["nnc"].value == got["nnc_train"].value == 1
    unconditional = Known(Call(lambda z: grey(torch.zeros(len(z)))))
    assert set(levels(Nnd(n=10).measure(subject_of(unconditional, held_out, held_out)))) == {"", "train"}
    with pytest.raises(UserError, match="nnd needs images that were held out"):
        Nnd().measure(subject_of(family, held_out))


def test_wasserstein_gap_is_a_difference_of_means():
    critic = Call(lambda x: x.flatten(1).sum(1))
    family = Known(Call(lambda z: torch.full((len(z), 1, 8, 8), 0.25)), critic, lipschitz_critic=True)
    train, held_out = noise_store(40, seed=0), noise_store(30, seed=1)
    got = levels(WassersteinGap(n=40).measure(subject_of(family, train, held_out)))
    a, b = ((s.images / 127.5 - 1).sum((1, 2, 3)) for s in (train, held_out))
    assert got["train"].value == pytest.approx(a.mean() - 16, rel=1e-4)
    assert got["held_out"].value == pytest.approx(b.mean() - 16, rel=1e-4)
    assert got["gap"].value == pytest.approx(a.mean() - b.mean(), rel=1e-3)
    half = 1.959964 * np.sqrt(a.var(ddof=1) / 40 + b.var(ddof=1) / 30)
    assert got["gap"].ci_high - got["gap"].value == pytest.approx(half, rel=1e-4)


def test_bits_per_dim_asks_the_family():
    class Coder(Known):
        def bits_per_dim(self, images, random):
            return 4 + images.flatten(1).mean(1)

    got = levels(BitsPerDim().measure(subject_of(Coder(nn.Identity()), grey_store([0, 0]), noise_store(30))))
    assert got["train"].value == pytest.approx(3) and got[""].n_real == 30
    assert "likelihood" in BitsPerDim().applies(Known(nn.Identity()))


def test_intervals():
    values = np.array([1.0, 2, 3, 10])
    mean, low, high = of_mean(values)
    assert mean == 4 and high - mean == pytest.approx(1.959964 * values.std(ddof=1) / 2)
    expected = stats.binomtest(3, 40).proportion_ci(method="wilson")
    assert of_share(3, 40) == pytest.approx((0.075, expected.low, expected.high))
    assert of_share(0, 10)[1] == 0 and of_share(10, 10)[2] == pytest.approx(1)
    low, high = bootstrap(lambda a, b: np.array([a.mean() - b.mean()]), np.ones(5), np.zeros(9), seed=0, resamples=9)
    assert low.tolist() == high.tolist() == [1]


def test_every_measure_of_a_model_is_found_by_its_file_name_and_says_what_it_is():
    classes = [plugins.load_plugin("metric", name, MetricBase) for name in plugins.names("metric")]
    found = [cls for cls in classes if issubclass(cls, ModelMetric)]
    assert len(found) >= 10
    for cls in found:
        measure = cls()
        assert cls.title and cls.paper and cls.summary and cls.__doc__
        assert measure.protocol().split(";")[0] == cls.__module__.split(".")[-1]
        assert isinstance(measure.applies(Known(nn.Identity())), str)
