"""The held-out split: None where the data has none, an error where it has one that cannot be read."""

import shutil
from types import SimpleNamespace

import pytest
from data_support import noise, write_png

from ganbench.data import open_dataset
from ganbench.data.source import NoSplit
from ganbench.errors import UserError
from ganbench.runs.scoring import held_out_split
from ganbench.training import session


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=["scoring", "session"])
def held_out(request):
    """The places that ask for the held-out images; each called as (store, spec) -> store or None."""
    def in_session(store, spec):
        options = SimpleNamespace(dataset=spec, crop=None, root=None, skip_bad=False, seed=0)
        stream = session._held_out(options, SimpleNamespace(watches_held_out=True), store, {})
        return stream and stream.store

    return {"scoring": held_out_split, "session": in_session}[request.param]


def write_both(home):
    for split, count in (("train", 3), ("test", 2)):
        for i in range(count):
            write_png(home / split / f"{i}.png", noise(16, 16, i))
    return str(home)


def test_the_test_split_is_found(tmp_path, held_out):
    spec = write_both(tmp_path / "both")
    test = held_out(open_dataset(spec), spec)
    assert (test.split, test.n) == ("test", 2)


def test_where_there_is_none_it_is_none(tmp_path, held_out):
    write_png(tmp_path / "ffhq" / "00000.png", noise(16, 16))  # FFHQ's test images are those from 60,000 on
    spec = f"ffhq:{tmp_path / 'ffhq'}"
    store = open_dataset(spec, side=16)
    assert held_out(store, spec) is None and held_out(store, str(store.path)) is None
    with pytest.raises(NoSplit, match="no images in split 'test'"):
        open_dataset(spec, side=16, split="test")
    with pytest.raises(NoSplit, match="holds the split 'train' alone"):
        open_dataset(str(store.path), split="test")


def test_images_that_were_trained_on_are_not_held_out(tmp_path, held_out):
    spec = write_both(tmp_path / "both")
    assert held_out(open_dataset(spec, split="all"), spec) is None
    assert held_out(open_dataset(spec, split="test"), spec) is None


def test_a_damaged_one_is_an_error(tmp_path, held_out):
    spec = write_both(tmp_path / "both")
    (tmp_path / "both" / "test" / "1.png").write_bytes(b"no picture")
    says = r"1 of 2 images of both cannot be read: test/1.png: not a picture file"
    with pytest.raises(UserError, match=says) as caught:
        held_out(open_dataset(spec), spec)
    assert not isinstance(caught.value, NoSplit)


def test_when_the_files_are_gone_a_split_that_was_not_prepared_is_none(tmp_path, held_out):
    spec = write_both(tmp_path / "both")
    store = open_dataset(spec, side=16)
    shutil.rmtree(tmp_path / "both")
    assert held_out(store, spec) is None
