"""Linear separability on latents whose separability is known."""

import numpy as np
import pytest
import torch
from measure_support import Call, FakeStore, Known, subject_of
from sklearn.metrics import mutual_info_score
from torch import nn

from ganbench.errors import UserError
from ganbench.metrics.measures.linear_separability_own import LinearSeparabilityOwn, conditional_entropy


class Twisted(nn.Module):
    """w is linear in what the image shows; z is not: w_i = z_{2i} z_{2i+1}. The image is w itself."""

    def mapping(self, z):
        return z[:, ::2] * z[:, 1::2]

    def synthesis(self, w):
        return w[:, :, None, None].expand(-1, -1, 8, 8)

    def forward(self, z):
        return self.synthesis(self.mapping(z))


def signs(images):
    """A sharp judge: attribute i is present where w_i > 0, more confident the larger |w_i|."""
    return (20 * images[:, :, 0, 0]).sigmoid()


def levels(scores):
    return {s.level: s for s in scores}


def test_w_is_separable_where_z_is_not():
    family = Known(Twisted(), latent=6, channels=3)
    measure = LinearSeparabilityOwn(n=2000, judge=signs, judge_name="signs")
    got = levels(measure.measure(subject_of(family)))
    assert got["w"].value == pytest.approx(1, abs=0.15)
    assert got["z"].value > 7  # three attributes of one bit each that no hyperplane in z can tell: 2^3
    assert got["z"].ci_low < got["z"].value < got["z"].ci_high
    assert "own" in measure.protocol() and "signs" in measure.protocol()


def test_an_attribute_that_z_shows_is_separable_and_only_z_is_reported_without_a_mapping():
    class Plain(nn.Module):
        def forward(self, z):
            return z[:, :3, None, None].expand(-1, -1, 8, 8)

    got = levels(LinearSeparabilityOwn(n=1000, judge=signs).measure(subject_of(Known(Plain(), channels=3))))
    assert set(got) == {"z"} and got["z"].value == pytest.approx(1, abs=0.15)


def test_an_attribute_nobody_has_says_nothing_and_is_left_out():
    def never(images):
        return torch.full((len(images), 2), 0.01)

    def sometimes(images):
        return torch.stack([never(images)[:, 0], signs(images)[:, 0]], 1)

    subject = subject_of(Known(Twisted(), latent=6, channels=3))
    with pytest.raises(UserError, match="of no attribute the classifier gave both answers"):
        LinearSeparabilityOwn(n=50, judge=never).measure(subject)
    got = levels(LinearSeparabilityOwn(n=200, judge=sometimes).measure(subject))
    assert got["z"].note == "1 attributes; 1 left out, of which the classifier saw one answer fewer than 20 times"


@pytest.mark.parametrize(("n", "d"), [(256, 100), (1024, 512)])
def test_random_labels_are_not_separable(n, d):
    """One bit for each attribute that the latent knows nothing of; an SVM judged on its own examples found a plane."""
    random = torch.Generator().manual_seed(0)

    def guess(images):
        return torch.rand(len(images), 1, generator=random)

    family = Known(Call(lambda z: z[:, :1, None, None].expand(-1, 1, 8, 8)), latent=d)
    score = levels(LinearSeparabilityOwn(n=n, keep=1.0, judge=guess).measure(subject_of(family)))["z"]
    assert score.value == pytest.approx(2.0, abs=0.03) and score.ci_low > 1.8
    assert f"scored=held-out-5-fold;n={n};" in LinearSeparabilityOwn(n=n).protocol()


def test_conditional_entropy_equals_h_minus_mutual_information():
    table = np.array([[30, 5], [10, 55]])
    x = np.repeat([0, 0, 1, 1], table.ravel())
    y = np.repeat([0, 1, 0, 1], table.ravel())
    p = y.mean()
    entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    assert conditional_entropy(table) == pytest.approx(entropy - mutual_info_score(x, y) / np.log(2), abs=1e-12)
    assert conditional_entropy(np.diag([3, 4])) == 0
    assert conditional_entropy(np.full((2, 2), 5)) == 1
    assert conditional_entropy(np.array([[0, 0], [4, 4]])) == 1  # the SVM always says the same


def test_with_ganbenchs_own_attribute_classifier(tmp_path, monkeypatch):
    monkeypatch.setenv("GANBENCH_CACHE", str(tmp_path))
    # Real images: brightness of the red and of the green channel are the two attributes.
    rng = np.random.default_rng(0)
    attributes = rng.integers(2, size=(400, 2)).astype(np.uint8)
    level = np.where(attributes, 200, 55)
    images = np.stack([level[:, 0], level[:, 1], np.full(400, 128)], 1)[:, :, None, None]
    images = (images + rng.integers(-40, 40, size=(400, 3, 8, 8))).astype(np.uint8)
    store = FakeStore(images, attributes=attributes, attribute_names=["red", "green"])

    from ganbench.metrics.networks import classifier
    quick = classifier.ClassifierRecipe(images=6400, batch=64)
    monkeypatch.setattr(classifier, "ClassifierRecipe", lambda: quick)
    measure = LinearSeparabilityOwn(n=1000)
    got = levels(measure.measure(subject_of(Known(Twisted(), latent=6, channels=3), store)))
    assert got["w"].value < 1.3 and got["z"].value > 3
    assert "own-v1@" in measure.protocol()
    assert len(list(tmp_path.glob("classifiers/*.safetensors"))) == 1


def test_what_cannot_be_measured_is_refused():
    assert "latents" in LinearSeparabilityOwn().applies(Known(nn.Identity(), pixel_latents=True))
    assert "given the class" in LinearSeparabilityOwn().applies(Known(nn.Identity(), needs_labels=True))
    with pytest.raises(UserError, match="keep"):
        LinearSeparabilityOwn(keep=0)
    with pytest.raises(UserError, match="labels"):
        store = FakeStore(np.zeros((4, 3, 8, 8), np.uint8))
        LinearSeparabilityOwn().measure(subject_of(Known(Twisted(), latent=6, channels=3), store))
