"""Anything can be scored: how each kind of thing becomes a set of images."""

import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ganbench.errors import UserError
from ganbench.metrics.images.opening import open_images
from ganbench.metrics.images.sets import Statistics, StoreSet, shuffled
from ganbench.metrics.images.source_set import SourceSet

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 16, 16), dtype=np.uint8)


def whole(images, size=4):
    return torch.cat(list(images.batches(size))).numpy()


def pictures(folder, **options):
    images = open_images(str(folder), **options)
    assert isinstance(images, SourceSet)
    return images


def write_pngs(folder, pixels=PIXELS):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(pixels):
        Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(folder / f"{i:03d}.png")
    return folder


class FakeStore:
    name, split, crop, mirror, classes, content_hash = "made", "train", None, True, [], "abc"
    side, width, channels = 16, 16, 3
    remarks: tuple[str, ...] = ()

    def __init__(self, n=10):
        self.n = n
        self.pixels = np.arange(n, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 16, 16), np.uint8)

    def level(self, side):
        assert side == 16
        return self.pixels


# --- pictures ---------------------------------------------------------------------------------------------------------

def test_folder_and_zip_give_the_same_bytes(tmp_path):
    folder = write_pngs(tmp_path / "a" / "sub").parent
    (folder / "notes.txt").write_text("not a picture")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in sorted((folder / "sub").iterdir()):
            archive.write(file, f"x/{file.name}")
    from_folder, from_zip = open_images(str(folder)), open_images(str(tmp_path / "a.zip"))
    for images in (from_folder, from_zip):
        assert (images.n, images.side, images.channels) == (6, 16, 3)
        np.testing.assert_array_equal(whole(images), PIXELS)
        assert images.warnings == [] and images.decoded == 6
    assert from_folder.content_hash == from_zip.content_hash


def test_content_hash_follows_content_not_names(tmp_path):
    first = pictures(write_pngs(tmp_path / "first"))
    (tmp_path / "first").rename(tmp_path / "second")
    second = pictures(tmp_path / "second")
    changed = PIXELS.copy()
    changed[3, 0, 0, 0] ^= 1
    third = pictures(write_pngs(tmp_path / "third", changed))
    assert second.content_hash == pictures(write_pngs(tmp_path / "first")).content_hash == first.content_hash
    assert third.content_hash != first.content_hash
    assert pictures(tmp_path / "second", side=32).content_hash != first.content_hash


def test_grey_stays_grey_and_mixed_becomes_colour(tmp_path):
    grey = pictures(write_pngs(tmp_path / "grey", PIXELS[:, :1]))
    assert grey.channels == 1
    np.testing.assert_array_equal(whole(grey), PIXELS[:, :1])
    Image.fromarray(PIXELS[0].transpose(1, 2, 0)).save(tmp_path / "grey" / "z.png")
    mixed = pictures(tmp_path / "grey")
    assert (mixed.channels, mixed.n) == (3, 7)
    np.testing.assert_array_equal(whole(mixed)[0], np.repeat(PIXELS[0, :1], 3, 0))


def test_other_sizes_are_cropped_and_resized_and_said(tmp_path):
    folder = write_pngs(tmp_path / "a")
    wide = np.zeros((40, 60, 3), np.uint8)
    wide[:, 10:50] = (10, 200, 30)  # exactly the centre square
    Image.fromarray(wide).save(folder / "wide.png")
    images = pictures(folder)
    assert images.side == 16
    assert "1 of 7 pictures are not 16x16" in images.warnings[0]
    np.testing.assert_array_equal(whole(images)[-1], np.broadcast_to(np.array([10, 200, 30])[:, None, None],
                                                                     (3, 16, 16)))
    expected = Image.fromarray(PIXELS[0].transpose(1, 2, 0)).resize((8, 8), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(whole(pictures(folder, side=8))[0], np.asarray(expected).transpose(2, 0, 1))


def test_odd_pictures_go_by_the_rules_of_the_data_room(tmp_path):
    Image.fromarray(np.full((16, 16), 40000, np.uint16)).save(tmp_path / "a.png")
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(tmp_path / "b.png")
    Image.new("CMYK", (16, 16), (0, 0, 0, 255)).save(tmp_path / "c.tif")
    images = whole(pictures(tmp_path))
    assert [image.reshape(3, -1).mean(1).tolist() for image in images] == [[156] * 3, [255] * 3, [0] * 3]


def test_lossy_pictures_are_warned_about(tmp_path):
    folder = write_pngs(tmp_path / "a")
    Image.fromarray(PIXELS[0].transpose(1, 2, 0)).save(folder / "x.jpg")
    assert "1 of 7 pictures are lossily compressed" in " ".join(pictures(folder).warnings)


def test_unreadable_pictures_are_refused_or_left_out_by_name(tmp_path):
    folder = write_pngs(tmp_path / "a")
    (folder / "000.png").write_text("this is text")
    with pytest.raises(UserError, match=r"000\.png.*--skip-bad"):
        open_images(str(folder))
    images = open_images(str(folder), skip_bad=True)
    assert images.n == 5 and "000.png" in images.warnings[0] and images.left_out == {"unreadable": 1}
    data = (folder / "001.png").read_bytes()
    (folder / "001.png").write_bytes(data[:len(data) // 2])  # its header is fine
    images = open_images(str(folder), skip_bad=True)
    assert images.n == len(whole(images)) == 4 and "000.png: not a picture file; 001.png: " in images.warnings[0]
    (folder / "000.png").unlink()
    with pytest.raises(UserError, match=r"cannot decode 001\.png"):
        whole(open_images(str(folder)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        open_images(str(tmp_path / "empty"))


# --- arrays -----------------------------------------------------------------------------------------------------------

def test_array_files(tmp_path):
    np.save(tmp_path / "a.npy", PIXELS)
    np.savez(tmp_path / "b.npz", images=PIXELS.transpose(0, 2, 3, 1), labels=np.arange(6))
    save_file({"images": torch.from_numpy(PIXELS)}, tmp_path / "c.safetensors")
    torch.save(torch.from_numpy(PIXELS), tmp_path / "d.pt")
    sets = [open_images(str(tmp_path / name)) for name in ("a.npy", "b.npz", "c.safetensors", "d.pt")]
    for images in sets:
        np.testing.assert_array_equal(whole(images), PIXELS)
    assert len({images.content_hash for images in sets}) == 1
    np.save(tmp_path / "grey.npy", PIXELS[:, 0])
    assert open_images(str(tmp_path / "grey.npy")).channels == 1


def test_fewer_images_are_a_sample_not_the_beginning(tmp_path):
    np.save(tmp_path / "a.npy", PIXELS)
    images = open_images(str(tmp_path / "a.npy"), n=3)
    np.testing.assert_array_equal(whole(images), PIXELS[np.sort(shuffled(6)[:3])])
    assert "6 images, 9 were asked for" in open_images(str(tmp_path / "a.npy"), n=9).warnings[0]


@pytest.mark.parametrize(("make", "says"), [
    (lambda p: np.save(p / "x.npy", PIXELS.astype(np.float32)), "images are float32"),
    (lambda p: np.save(p / "x.npy", np.zeros((2, 9, 16, 16), np.uint8)), "channels must be"),
    (lambda p: (p / "x.npy").write_bytes(b"junk"), "cannot be read"),
    (lambda p: np.save(p / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True), "cannot be read"),
])
def test_bad_arrays(tmp_path, make, says):
    make(tmp_path)
    with pytest.raises(UserError, match=says):
        open_images(str(tmp_path / "x.npy"))


def test_nothing_pickled_is_loaded(tmp_path):
    torch.save({"images": Evil()}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="neither TorchScript nor a plain tensor file"):
        open_images(str(tmp_path / "x.pt"))
    assert not Evil.awake


class Evil:
    awake = False

    def __reduce__(self):
        return (setattr, (Evil, "awake", True))


def test_statistics_files(tmp_path):
    mean, covariance = np.arange(3.0), np.eye(3)
    np.savez(tmp_path / "a.npz", mu=mean, sigma=covariance)
    torch.save({"mu": mean, "sigma": covariance}, tmp_path / "b.pt")
    save_file({"mean": torch.from_numpy(mean), "covariance": torch.from_numpy(covariance), "n": torch.tensor(7)},
              tmp_path / "c.safetensors")
    for name, n in (("a.npz", 0), ("b.pt", 0), ("c.safetensors", 7)):
        found = open_images(str(tmp_path / name), side=32)
        assert isinstance(found, Statistics) and found.n == n
        np.testing.assert_array_equal(found.mean, mean)
        np.testing.assert_array_equal(found.covariance, covariance)
    np.savez(tmp_path / "bad.npz", mu=mean, sigma=np.eye(4))
    with pytest.raises(UserError, match="covariance of shape"):
        open_images(str(tmp_path / "bad.npz"))


def test_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        open_images(str(tmp_path / "nothing.npz"))
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(UserError, match="no data source reads such a file"):
        open_images(str(tmp_path / "x.txt"))
    np.save(tmp_path / "a.npy", PIXELS)
    images = open_images(str(tmp_path / "a.npy"), side=32)  # arrays are brought to a side as pictures are
    assert whole(images).shape == (6, 3, 32, 32) and "6 of 6 pictures are not 32x32" in images.warnings[0]


# --- stores -----------------------------------------------------------------------------------------------------------

def test_store_sets():
    store = FakeStore()
    everything = StoreSet(store)
    np.testing.assert_array_equal(whole(everything), store.pixels)
    assert (everything.dataset, everything.split, everything.mirror) == ("made", "train", True)
    one, other = StoreSet(store, 5), StoreSet(store, 5, part=1)
    values = [whole(s)[:, 0, 0, 0].tolist() for s in (one, other)]
    assert sorted(values[0] + values[1]) == list(range(10)) and values[0] == sorted(values[0]) != list(range(5))
    assert len({everything.content_hash, one.content_hash, other.content_hash}) == 3
    with pytest.raises(UserError, match="at most 5"):
        StoreSet(store, 6, part=1)


# --- generators -------------------------------------------------------------------------------------------------------

class Toy(torch.nn.Module):
    latent_dim: int

    def __init__(self):
        super().__init__()
        self.latent_dim = 4
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, 4 * 768).reshape(768, 4))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(z @ self.weight.T).reshape(-1, 3, 16, 16)


def test_torchscript_generator(tmp_path):
    torch.jit.script(Toy()).save(str(tmp_path / "g.pt"))
    images = open_images(str(tmp_path / "g.pt"), n=70, seed=3)
    assert (images.n, images.side, images.channels) == (70, 16, 3)
    again, other = (open_images(str(tmp_path / "g.pt"), n=70, seed=seed) for seed in (3, 4))
    assert again.content_hash == images.content_hash != other.content_hash
    by_small, by_large = whole(images, 7), whole(images, 50)
    assert len(by_small) == 70
    np.testing.assert_array_equal(by_small, by_large)
    assert (whole(open_images(str(tmp_path / "g.pt"), n=70, seed=4)) != by_small).any()
    traced = torch.jit.trace(torch.nn.Sequential(torch.nn.Linear(5, 768), torch.nn.Unflatten(1, (3, 16, 16)),
                                                 torch.nn.Tanh()),
                             torch.zeros(1, 5))
    traced.save(str(tmp_path / "t.pt"))
    with pytest.raises(UserError, match="--latent"):
        open_images(str(tmp_path / "t.pt"), n=4)
    assert open_images(str(tmp_path / "t.pt"), n=4, latent=5).side == 16
    with pytest.raises(UserError, match=r"t\.pt gives no images for latents of 4x7 .*--latent") as caught:
        open_images(str(tmp_path / "t.pt"), n=4, latent=7)
    assert "\n" not in str(caught.value)
    (tmp_path / "t.pt").write_bytes((tmp_path / "t.pt").read_bytes()[:-200])
    with pytest.raises(UserError, match=r"cannot read .*t\.pt"):
        open_images(str(tmp_path / "t.pt"), n=4, latent=5)


def test_onnx_generator(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    torch.onnx.export(Toy(), (torch.zeros(1, 4),), str(tmp_path / "g.onnx"), dynamo=False,
                      input_names=["z"], dynamic_axes={"z": {0: "n"}})
    onnx = whole(open_images(str(tmp_path / "g.onnx"), n=20, seed=3))
    torch.jit.script(Toy()).save(str(tmp_path / "g.pt"))
    script = whole(open_images(str(tmp_path / "g.pt"), n=20, seed=3))
    assert np.abs(onnx.astype(int) - script).max() <= 1


def test_callable_generator(tmp_path, monkeypatch):
    (tmp_path / "my_generator.py").write_text(
        "import numpy as np\n"
        "def make(n, seed):\n    return np.random.default_rng(seed).integers(0, 256, (n, 1, 16, 16), dtype=np.uint8)\n"
        "def one(n):\n    return None\n"
        "def wild(n, seed):\n    return np.full((n, 3, 16, 16), 9.0, dtype=np.float32)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    images = open_images("my_generator:make", n=100)
    assert images.channels == 1 and images.content_hash is None  # what a callable gives is known once it gave it
    assert len(whole(images)) == 100
    again, other = (open_images("my_generator:make", n=100, seed=seed) for seed in (0, 1))
    whole(again), whole(other, 9)
    assert again.content_hash == images.content_hash != other.content_hash
    np.testing.assert_array_equal(whole(images, 9), whole(images, 64))
    with pytest.raises(UserError, match="nothing called 'other'"):
        open_images("my_generator:other")
    with pytest.raises(UserError, match="floats in"):
        open_images("my_generator:wild", n=4)
    with pytest.raises(UserError, match="cannot import"):
        open_images("no_such_module_here:make")
    (tmp_path / "broken_generator.py").write_text("1 / 0\n")
    with pytest.raises(UserError, match=r"cannot be imported: ZeroDivisionError: .*broken_generator\.py:1\)"):
        open_images("broken_generator:make")
    with pytest.raises(UserError, match=r"'my_generator:one' failed when .* TypeError: .*takes 1 positional"):
        open_images("my_generator:one", n=4)
