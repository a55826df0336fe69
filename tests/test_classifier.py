"""The evaluation classifier: learns, is the same every time, is kept by content."""

import numpy as np
import pytest
import torch
from measure_support import FakeStore, noise_store

from ganbench.errors import UserError
from ganbench.metrics.networks import classifier
from ganbench.metrics.networks.classifier import ClassifierRecipe, of_attributes, of_channels, of_classes

QUICK = ClassifierRecipe(images=6400, batch=64)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANBENCH_CACHE", str(tmp_path))
    return tmp_path


def quadrants(n=400, side=8, seed=0):
    """Class k: quadrant k is bright."""
    rng = np.random.default_rng(seed)
    labels, half = rng.integers(4, size=n), side // 2
    images = rng.integers(0, 120, size=(n, 1, side, side))
    for image, label in zip(images, labels, strict=True):
        y, x = divmod(label, 2)
        image[0, y * half:(y + 1) * half, x * half:(x + 1) * half] += 120
    return FakeStore(images.astype(np.uint8), labels, classes=4)


def test_learns_easy_classes_and_says_how_well():
    judge = of_classes(quadrants(), recipe=QUICK)
    fresh = quadrants(100, seed=1)
    right = (judge.classify(torch.from_numpy(fresh.images)) == fresh.labels).mean()
    assert judge.accuracy[0] > 0.97 and right > 0.97
    probabilities = judge.probabilities(torch.from_numpy(fresh.images).float() / 127.5 - 1)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(100))


def test_is_trained_once_for_a_content(cache, monkeypatch):
    first = of_classes(quadrants(), recipe=QUICK)
    again = classifier.train_classifier
    monkeypatch.setattr(classifier, "train_classifier", lambda *a: pytest.fail("trained again"))
    second = of_classes(quadrants(), recipe=QUICK)
    assert second.identity == first.identity and second.accuracy == first.accuracy
    for one, other in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(one, other)
    other_content = quadrants()
    other_content.content_hash = "1" * 64
    monkeypatch.setattr(classifier, "train_classifier", again)
    assert of_classes(other_content, recipe=QUICK).identity != first.identity
    assert len(list(cache.glob("classifiers/*.safetensors"))) == 2


def test_training_is_deterministic_and_leaves_torchs_stream_alone():
    store, before = quadrants(100), torch.get_rng_state()
    recipe = ClassifierRecipe(images=640, batch=64)
    runs = [classifier.train_classifier(store, store.labels, 4, True, 8, torch.device("cpu"), recipe) for _ in range(2)]
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(runs[0][0].parameters(), runs[1][0].parameters(), strict=True))


def test_training_uses_cudnn(monkeypatch):
    """Its `flags()` switches it off where it is not told otherwise."""
    enabled, loss = [], classifier._loss
    monkeypatch.setattr(classifier, "_loss", lambda *a: enabled.append(torch.backends.cudnn.enabled) or loss(*a))
    store, recipe = quadrants(100), ClassifierRecipe(images=64, batch=64)
    classifier.train_classifier(store, store.labels, 4, True, 8, torch.device("cpu"), recipe)
    assert enabled == [True]


def test_attributes_are_independent_answers():
    rng = np.random.default_rng(0)
    attributes = rng.integers(2, size=(300, 2)).astype(np.uint8)
    images = np.broadcast_to(np.where(attributes, 190, 60)[:, :, None, None], (300, 2, 8, 8))
    images = np.concatenate([images, np.full((300, 1, 8, 8), 9)], 1).astype(np.uint8)
    judge = of_attributes(FakeStore(images, attributes=attributes, attribute_names=["a", "b"]), recipe=QUICK)
    assert judge.names == ["a", "b"] and min(judge.accuracy) > 0.97 and len(judge.accuracy) == 2
    got = judge.probabilities(torch.from_numpy(images).float() / 127.5 - 1) > 0.5
    assert (got.numpy() == attributes).mean() > 0.97


def test_larger_images_are_averaged_down():
    store = quadrants(400, side=8)
    judge = of_classes(store, recipe=QUICK)
    big = torch.from_numpy(store.images).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert (judge.classify(big) == judge.classify(torch.from_numpy(store.images))).all()


def test_stacked_data_is_judged_channel_by_channel():
    base, rng = quadrants(600), np.random.default_rng(1)
    pick = rng.integers(600, size=(300, 3))
    images = base.images[pick, 0]
    labels = np.ravel_multi_index(tuple(base.labels[pick].T), (4, 4, 4))
    judge = of_channels(FakeStore(images, labels, classes=64), 4, recipe=QUICK)
    parts = [judge.classify(torch.from_numpy(images[:, c:c + 1])) for c in range(3)]
    assert (np.ravel_multi_index(tuple(parts), (4, 4, 4)) == labels).mean() > 0.95


def test_bad_input(cache):
    with pytest.raises(UserError, match="labels"):
        of_classes(noise_store())
    with pytest.raises(UserError, match="attributes"):
        of_attributes(noise_store())
    of_classes(quadrants(), recipe=QUICK)
    (kept,) = cache.glob("classifiers/*.safetensors")
    kept.write_bytes(b"rubbish")
    with pytest.raises(UserError, match="damaged: remove it"):
        of_classes(quadrants(), recipe=QUICK)
