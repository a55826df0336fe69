"""Perceptual path length against closed forms, with a distance whose values are known."""

import numpy as np
import pytest
import torch
from measure_support import Call, Known, Linear, noise_store, subject_of
from scipy import stats
from torch import nn

from ganbench.errors import UserError
from ganbench.metrics.maths.uncertainty import of_trimmed_mean
from ganbench.metrics.measures.ppl import Ppl, face
from ganbench.metrics.networks.classifier import averaged
from ganbench.pictures.walks import lerp, natural_path, slerp


def squared(a, b):
    """Sum of squared differences: a path's length is then the squared norm of the image's speed."""
    return (a.double() - b.double()).square().flatten(1).sum(1)


def levels(scores):
    return {s.level: s for s in scores}


def measure(family, n=400, **options):
    options.setdefault("distance", squared)
    return levels(Ppl(n=n, batch=100, distance_name="squared", **options).measure(subject_of(family)))


@pytest.fixture
def matrix():
    return torch.randn(64, 6, generator=torch.Generator().manual_seed(0))


def test_a_linear_generator_on_a_straight_line_has_its_closed_form(matrix):
    # |A (z2 - z1)|^2 with z2 - z1 ~ N(0, 2I): mean 2 tr(A'A), whatever t. With a large step nothing is rounded away.
    family = Known(Linear(matrix, 1, 8), latent=6)
    got = measure(family, n=4000, path="lerp", epsilon=0.5)
    random = np.random.default_rng(0)
    draws = 2 * np.square(random.normal(size=(400_000, 6)) @ matrix.numpy().astype(float).T).sum(1)
    kept = draws[(draws >= np.percentile(draws, 1)) & (draws <= np.percentile(draws, 99))].mean()
    assert draws.mean() == pytest.approx(2 * float(matrix.square().sum()), rel=0.01)
    for level in ("z_full", "z_end"):
        assert got[level].value == pytest.approx(kept, rel=0.04)
        assert got[level].ci_low < kept < got[level].ci_high


def test_the_published_step_gives_the_same_as_a_large_one(matrix):
    family = Known(Linear(matrix, 1, 8), latent=6)
    fine, coarse = measure(family, path="lerp"), measure(family, path="lerp", epsilon=0.5)
    assert fine["z_end"].value == pytest.approx(coarse["z_end"].value, rel=2e-3)


def test_a_great_circle_has_the_speed_of_its_angle():
    # For G = identity the image moves along an arc of unit-norm latents at speed theta: length theta^2 (float64 angle).
    class Sphere(Known):
        def latents(self, n, random):
            return nn.functional.normalize(random.normal(n, self.latent))

    family = Sphere(Call(lambda z: z.reshape(-1, 1, 8, 8)), latent=64)
    got = measure(family, path="slerp", epsilon=1e-2)
    from ganbench.metrics.subjects import stream
    random, angles = stream(subject_of(family), "ppl/z_end"), []
    for _ in range(4):
        a, b = (family.latents(100, random).double().numpy() for _ in range(2))
        angles.append(np.arccos((a * b).sum(1)))
    angle = np.concatenate(angles)
    chord = (2 * np.sin(1e-2 * angle / 2) / 1e-2) ** 2
    assert got["z_end"].value == pytest.approx(of_trimmed_mean(chord)[0], rel=1e-4)
    assert chord.mean() == pytest.approx(np.square(angle).mean(), rel=1e-3)


def test_a_constant_generator_has_length_zero_in_every_space():
    class Styled(nn.Module):
        def mapping(self, z):
            return z

        def synthesis(self, w):
            return torch.ones(len(w), 1, 8, 8)

        def forward(self, z):
            return self.synthesis(self.mapping(z))

    got = measure(Known(Styled()))
    assert set(got) == {"z_full", "z_end", "w_full", "w_end"}
    assert all((s.value, s.ci_low, s.ci_high) == (0, 0, 0) for s in got.values())


def test_w_is_a_straight_line_through_the_mapping():
    # mapping doubles, synthesis is linear: in w the length is four times that of a straight line in z.
    class Styled(nn.Module):
        def mapping(self, z):
            return 2 * z

        def synthesis(self, w):
            return w[:, :, None, None].expand(-1, -1, 8, 8)

        def forward(self, z):
            return self.synthesis(self.mapping(z))

    got = measure(Known(Styled(), latent=3, channels=3), n=4000, path="lerp", epsilon=0.1)
    assert got["w_end"].value == pytest.approx(4 * 2 * 3 * 64, rel=0.05)  # E|z2-z1|^2 = 2 * 3, on 64 pixels; twice w
    assert got["w_full"].ci_low < got["w_full"].value < got["w_full"].ci_high


def test_both_images_of_a_pair_get_the_same_noise_and_torchs_own_stream_is_left_alone():
    noisy = Known(Call(lambda z: torch.randn(len(z), 1, 8, 8)))
    torch.manual_seed(7)
    got = measure(noisy, n=10)
    after = torch.rand(1)
    torch.manual_seed(7)
    assert got["z_full"].value == 0 and torch.equal(after, torch.rand(1))


def test_the_same_seed_gives_the_same_value_and_another_seed_another(matrix):
    family = Known(Linear(matrix, 1, 8), latent=6)

    def value(seed):
        subject = subject_of(family, seed=seed)
        return Ppl(n=20, distance=squared).measure(subject)[0].value

    assert value(0) == value(0) != value(1)


@pytest.mark.parametrize(("declared", "crop", "cropped"),
                         [(True, None, True), (False, None, False), (True, False, False), (False, True, True)])
def test_aligned_faces_are_cropped_where_the_data_set_declares_them(matrix, declared, crop, cropped):
    """As the authors' code does it for CelebA-HQ and FFHQ always."""
    store, seen = noise_store(channels=1), []
    store.aligned_faces = declared

    def watched(a, b):
        seen.append(a.shape[-1])
        return squared(a, b)

    measure = Ppl(n=4, crop=crop, distance=watched)
    measure.measure(subject_of(Known(Linear(matrix, 1, 8), latent=6), store))
    assert set(seen) == {4 if cropped else 8}
    assert f"crop={'face' if cropped else 'none'};" in measure.protocol()


def test_data_sets_declare_aligned_faces(tmp_path):
    from ganbench.data import Store, open_dataset
    from ganbench.data.source import Source
    from ganbench.plugins import load_plugin
    declared = {name for name in ("celeba", "celeba-hq", "celeba-wild", "ffhq", "lsun", "digits", "folder")
                if load_plugin("dataset", name, Source).aligned_faces}
    assert declared == {"celeba", "celeba-hq", "ffhq"}
    store = open_dataset("digits")
    assert store.aligned_faces is False
    del store.manifest["aligned_faces"]  # of a store from before it was kept, the source is asked
    assert store.aligned_faces is False
    store.manifest["source"] = "ffhq"
    assert store.aligned_faces is True
    assert isinstance(store, Store)


def test_face_crop_and_averaging():
    rows = torch.arange(16.0).view(1, 1, 16, 1).expand(1, 1, 16, 16)
    assert face(rows)[0, 0, :, 0].tolist() == list(range(6, 14))  # c = 2: rows 6 to 13
    assert face(rows.transpose(2, 3))[0, 0, 0].tolist() == list(range(4, 12))  # columns 4 to 11
    big = torch.arange(1024.0).view(1, 1, 1, 1024).expand(1, 1, 1024, 1024)
    assert averaged(big, 256).shape[-1] == 256 and averaged(big, 256)[0, 0, 0, :2].tolist() == [1.5, 5.5]
    assert averaged(rows, 256) is rows


def test_trimming_keeps_the_percentiles_themselves():
    values = np.arange(1000.0)
    values[-1] = 1e9
    mean, low, high = of_trimmed_mean(values)
    kept = np.arange(9, 991)  # 1st percentile by the lower rule is 9, 99th by the higher rule 990
    assert mean == pytest.approx(kept.mean()) and low < mean < high
    winsorised = np.clip(values, 9, 990)
    half = stats.norm.ppf(0.975) * winsorised.std(ddof=1) / (len(kept) / 1000 * np.sqrt(1000))
    assert high - mean == pytest.approx(half)


def test_paths():
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert slerp(a, b, 0.5)[0].tolist() == pytest.approx([0.5 ** 0.5] * 2)
    assert lerp(a, b, 0.5)[0].tolist() == [0.5, 0.5]
    assert slerp(2 * a, 4 * b, 0.5).norm().item() == pytest.approx(3)  # the norm goes linearly
    assert torch.equal(slerp(a, a, 0.3), a)
    t = torch.tensor([0.0, 1.0])
    torch.testing.assert_close(slerp(torch.cat([a, a]), torch.cat([b, b]), t), torch.cat([a, b]))
    assert natural_path(Known(nn.Identity())) == "slerp"
    assert natural_path(Known(nn.Identity(), uniform=True)) == "lerp"


def test_what_cannot_be_measured_is_refused():
    assert "interpolate" in Ppl().applies(Known(nn.Identity(), pixel_latents=True))
    assert Ppl().applies(Known(nn.Identity())) == ""
    with pytest.raises(UserError, match="epsilon"):
        Ppl(epsilon=0)
    with pytest.raises(UserError, match="interpolate"):
        natural_path(Known(nn.Identity(), pixel_latents=True))
