"""Batches: every image once an epoch, exact resume, shares of several processes, values."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from ganbench.data import Stream, open_dataset
from ganbench.errors import UserError
from ganbench.random import Random, derived_seed


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    images = np.random.default_rng(0).integers(0, 256, (23, 8, 8, 3), dtype=np.uint8)
    images[:, 0, 0] = np.arange(23)[:, None]
    images[:, 0, -1] = np.arange(23)[:, None]  # the number stays in the corner, mirrored or not
    np.savez(folder / "some.npz", images=images, labels=np.arange(23))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANBENCH_CACHE", str(folder))
        return open_dataset(str(folder / "some.npz"), split="all")


def numbers(batch):
    return ((batch.images[:, 0, 0, 0] + 1) * 127.5).round().long()


def test_values_are_exactly_those_of_the_store(store):
    stream = Stream(store, seed=1)
    batch = stream.next(8, 5)
    stored = torch.from_numpy(store.level(8)[batch.labels.numpy()])
    assert batch.images.dtype == torch.float32 and torch.equal(batch.images, stored.float() / 127.5 - 1)
    assert torch.equal(numbers(batch), batch.labels) and stream.images == 5
    assert Stream(store, seed=1).next(4, 5).images.shape == (5, 3, 4, 4)


def test_what_a_family_looks_at_first_is_a_sample_and_not_the_stores_beginning(store):
    stream = Stream(store, seed=1, rank=1, world=2)  # the store is sorted by its numbers
    some = stream.first(8, 6)
    assert stream.images == 0 and torch.equal(some, Stream(store, seed=1, mirror=False).next(8, 6).images)
    assert not torch.equal(some[:, 0, 0, 0], some[:, 0, 0, 0].sort().values) and len(stream.first(8, 99)) == 23
    assert torch.equal(stream.next(8, 4).images, Stream(store, seed=1, rank=1, world=2).next(8, 4).images)


def test_each_epoch_shows_every_image_once_in_another_order(store):
    stream = Stream(store, seed=1)
    drawn = torch.cat([stream.next(8, 6).labels for _ in range(23)])  # six epochs, batches reach over their borders
    epochs = drawn.view(6, 23)
    assert all(sorted(e.tolist()) == list(range(23)) for e in epochs) and not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(Stream(store, seed=2).next(8, 23).labels, epochs[0])


def test_a_batch_may_be_larger_than_the_data(store):
    assert Stream(store, seed=1).next(8, 60).labels.bincount().tolist() == pytest.approx([60 / 23] * 23, abs=1)


def test_mirroring_follows_its_named_stream(store):
    flips = Random(derived_seed(5, "mirror")).uniform(64) < 0.5
    plain, mirrored = Stream(store, 5, mirror=False).next(8, 64), Stream(store, 5, mirror=True).next(8, 64)
    assert 10 < flips.sum() < 54 and torch.equal(plain.labels, mirrored.labels)
    assert torch.equal(mirrored.images[flips], plain.images[flips].flip(3))
    assert torch.equal(mirrored.images[~flips], plain.images[~flips])


@pytest.mark.parametrize("mirror", [False, True])
def test_resume_is_exact_even_when_sides_and_batches_change(store, mirror):
    plan = [(4, 6), (4, 6), (8, 10), (8, 3), (4, 30), (8, 8)]
    whole = Stream(store, 7, mirror=mirror)
    expected = [whole.next(*step) for step in plan]
    first = Stream(store, 7, mirror=mirror)
    for step in plan[:3]:
        first.next(*step)
    state = first.state()
    second = Stream(store, 999, mirror=mirror)
    second.restore(state)
    for step, batch in zip(plan[3:], expected[3:]):
        got = second.next(*step)
        assert torch.equal(got.images, batch.images) and torch.equal(got.labels, batch.labels)
    assert second.images == whole.images


@pytest.mark.parametrize("world", [2, 3])
def test_shares_of_processes_are_the_single_process_batch(store, world):
    alone = Stream(store, 3, mirror=True)
    ranks = [Stream(store, 3, mirror=True, rank=r, world=world) for r in range(world)]
    for side, batch in ((8, 12), (4, 6), (8, 36)):
        whole, parts = alone.next(side, batch), [rank.next(side, batch) for rank in ranks]
        assert torch.equal(torch.cat([p.images for p in parts]), whole.images)
        assert torch.equal(torch.cat([p.labels for p in parts]), whole.labels)
    with pytest.raises(UserError, match="does not divide"):
        ranks[0].next(8, 7)


def test_another_data_set_s_state_is_refused(store):
    state = Stream(store, 1).state()
    state["json"]["content_hash"] = "something else"
    with pytest.raises(UserError, match="not those"):
        Stream(store, 1).restore(state)


@pytest.mark.parametrize("hold", [lambda images: images, lambda images: images[1:, :1], lambda images: images.numpy(),
                                  lambda images: (images * torch.ones(1, requires_grad=True)).grad_fn])
def test_a_batch_s_memory_is_used_again_only_when_nobody_holds_it(store, hold):
    """Neither the tensor, nor a view, nor an array of it, nor a graph that will need it for its gradient."""
    stream = Stream(store, 5)
    first = stream.next(8, 6).images
    place, held = first.data_ptr(), hold(first)
    del first
    others = [stream.next(8, 6).images for _ in range(4)]
    assert place not in [images.data_ptr() for images in others] and len({i.data_ptr() for i in others}) == 4
    del held
    assert stream.next(8, 6).images.data_ptr() == place
    assert stream.next(4, 6).images.shape == (6, 3, 4, 4) and stream.next(8, 5).images.shape == (5, 3, 8, 8)


def test_a_level_is_brought_to_the_device_in_parts(store, monkeypatch, recwarn):
    """The same batches, and no warning that the file's memory cannot be written."""
    monkeypatch.setattr("ganbench.data.stream.UPLOAD_BYTES", 5 * 3 * 8 * 8)  # five images at once, of 23
    kept, read = Stream(store, 4, mirror=True), Stream(store, 4, mirror=True)
    monkeypatch.setattr(kept, "_keeps", lambda side: True)
    for side, batch in [(8, 6), (8, 23), (4, 30)]:
        assert torch.equal(kept.next(side, batch).images, read.next(side, batch).images)
    assert np.array_equal(kept._resident[1], store.level(4)) and not recwarn.list


def test_reading_ahead_gives_the_same_batches(store, monkeypatch):
    """As for a GPU too small for the level, but for the pinning; also when the plan changes and after a resume."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, pin_memory=False, **kind: empty(*shape, **kind))
    ahead, plain = Stream(store, 4, mirror=True), Stream(store, 4, mirror=True)
    ahead._reader = ThreadPoolExecutor(1)
    for side, batch in [(8, 6)] * 5 + [(4, 6), (4, 10), (8, 10), (8, 10)]:
        there, here = ahead.next(side, batch), plain.next(side, batch)
        assert torch.equal(there.images, here.images) and torch.equal(there.labels, here.labels)
        assert ahead._ahead[0] == (ahead.images, side, batch)
    ahead.restore(state := plain.state())
    plain.restore(state)
    assert torch.equal(ahead.next(8, 10).images, plain.next(8, 10).images)


def test_the_thread_that_reads_ahead_is_on_the_stream_s_gpu(store, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append((threading.get_ident(), device)))
    thread = Stream(store, 4, device="cuda:3")._reader.submit(threading.get_ident).result()
    assert calls == [(thread, torch.device("cuda:3"))] and thread != threading.get_ident()
    assert Stream(store, 4)._reader is None and len(calls) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("resident", [True, False])
def test_a_gpu_gives_the_same_batches(store, resident, monkeypatch):
    """Whether the level is kept there or read ahead through pinned memory, and when the plan changes."""
    monkeypatch.setattr("ganbench.data.stream.RESIDENT_SHARE", 0.5 if resident else 0.0)
    gpu, cpu = Stream(store, 4, device="cuda", mirror=True), Stream(store, 4, mirror=True)
    for side, batch in [(8, 6)] * 10 + [(4, 6), (4, 10), (8, 10), (8, 10)]:
        there, here = gpu.next(side, batch), cpu.next(side, batch)
        # a card divides by 127.5 by multiplying: the last bit may be another
        assert there.images.is_cuda and torch.allclose(there.images.cpu(), here.images, rtol=0, atol=2.0 ** -23)
        assert torch.equal(there.labels.cpu(), here.labels)
    assert (gpu._resident is not None) == resident
