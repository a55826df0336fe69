"""Pictures from a model: the right thing in the right cell."""

import numpy as np
import pytest
import torch
from measure_support import Call, Known, Linear
from torch import nn

from ganbench.errors import UserError
from ganbench.pictures import sheets as pictures
from ganbench.pictures.grids import save_png

SIDE, GAP = 8, 2


def cells(picture, rows, columns, gap=GAP):
    """The mean colour of each cell, (rows, columns, 3)."""
    height, width = ((picture.shape[i] + gap) // k for i, k in ((0, rows), (1, columns)))
    assert picture.dtype == np.uint8 and picture.shape == (rows * height - gap, columns * width - gap, 3)
    return np.array([[picture[y * height:(y + 1) * height - gap, x * width:(x + 1) * width - gap].mean((0, 1))
                      for x in range(columns)] for y in range(rows)])


def grey_of(values):
    """The uint8 grey that a constant image of these values in [-1,1] has."""
    return np.round(np.clip(np.asarray(values, dtype=float) * 127.5 + 127.5, 0, 255))


class Styled(nn.Module):
    """w = 2 z in four layers; the picture's red, green and blue are the means of layers 0-1, of 2-3, and noise."""

    layers = 4

    def __init__(self, noisy: float = 0.0):
        super().__init__()
        self.register_buffer("w_average", torch.tensor([0.1]))
        self.noisy = noisy

    def mapping(self, z):
        return 2 * z

    def synthesis(self, w):
        w = w if w.dim() == 3 else w[:, None].repeat(1, 4, 1)
        colour = torch.stack([w[:, :2].mean((1, 2)), w[:, 2:].mean((1, 2)), torch.zeros(len(w))], 1)
        images = colour[:, :, None, None].expand(-1, -1, SIDE, SIDE)
        return images + self.noisy * torch.randn(len(w), 3, SIDE, SIDE)

    def forward(self, z):
        return self.synthesis(self.mapping(z))


def first_of(z):
    return z[:, :1, None, None].expand(-1, 1, SIDE, SIDE)


@pytest.fixture
def plain():
    return Known(Call(first_of), latent=1, uniform=True)


@pytest.fixture
def styled():
    return Known(Styled(), latent=1, channels=3)


def test_interpolation_in_z_goes_in_even_steps(plain):
    a, b = torch.tensor([[-1.0], [0.0]]), torch.tensor([[1.0], [0.5]])
    got = cells(pictures.interpolation(plain, plain.generator, a, b, steps=5), 2, 5)
    np.testing.assert_array_equal(got[0, :, 0], grey_of([-1, -0.5, 0, 0.5, 1]))
    np.testing.assert_array_equal(got[1, :, 0], grey_of([0, 0.125, 0.25, 0.375, 0.5]))


def test_gaussian_latents_go_round_a_great_circle():
    family = Known(Call(first_of), latent=2)
    a, b = torch.tensor([[0.8, 0.0]]), torch.tensor([[0.0, 0.8]])
    got = cells(pictures.interpolation(family, family.generator, a, b, steps=3), 1, 3)
    np.testing.assert_allclose(got[0, :, 0], grey_of([0.8, 0.8 * 0.5 ** 0.5, 0]), atol=1)  # 0 falls between two greys


def test_interpolation_in_w_is_straight_behind_the_mapping(styled):
    got = cells(pictures.interpolation(styled, styled.generator, torch.tensor([[-0.4]]), torch.tensor([[0.4]]),
                                       space="w", steps=3), 1, 3)
    np.testing.assert_array_equal(got[0, :, 0], grey_of([-0.8, 0, 0.8]))


def test_a_walk_passes_its_stops(plain):
    stops = torch.tensor([[-1.0], [0.0], [1.0]])
    got = cells(pictures.walk(plain, plain.generator, stops, steps=4), 2, 5)
    np.testing.assert_array_equal(got[:, [0, -1], 0], grey_of([[-1, 0], [0, 1]]))


def test_arithmetic_is_the_arithmetic_of_means(plain):
    plus, minus, other = (torch.tensor(v).view(3, 1) for v in ([0.3, 0.4, 0.5], [0.1, 0.2, 0.3], [-0.5, -0.4, -0.3]))
    got = cells(pictures.arithmetic(plain, plain.generator, plus, minus, other), 4, 9)[..., 0]
    np.testing.assert_array_equal(got[0, :4], grey_of([0.3, 0.4, 0.5, 0.4]))
    np.testing.assert_array_equal(got[1, :4], grey_of([0.1, 0.2, 0.3, 0.2]))
    assert got[3, 0] == grey_of(0.4 - 0.2 - 0.4)
    neighbours = got[3, 1:]
    assert len(set(neighbours)) > 4 and (np.abs(neighbours - got[3, 0]) <= 0.25 * 127.5 + 1).all()


def test_real_images_are_embedded_where_their_error_is_least():
    matrix = torch.randn(SIDE * SIDE, 3, generator=torch.Generator().manual_seed(0)) / 4
    family = Known(Linear(matrix, 1, SIDE), latent=3, uniform=True)
    truth = torch.tensor([[0.5, -0.3, 0.1], [-0.2, 0.4, 0.6]])
    images = family.generator(truth)
    z = pictures.embed(family, family.generator, images, torch.zeros(2, 3))
    torch.testing.assert_close(z, truth, atol=0.02, rtol=0)
    picture = pictures.embedding(family, family.generator, images, torch.zeros(2, 3), steps=3)
    got = cells(picture, 1, 5)[0, :, 0]
    assert got[0] == pytest.approx(got[1], abs=2) and got[4] == pytest.approx(got[3], abs=2)
    assert got[2] == pytest.approx((got[1] + got[3]) / 2, abs=2)
    assert matrix.grad is None


def test_classes_stand_in_rows_and_latents_in_columns():
    family = Known(Call(lambda z, y: first_of(z) / 10 + y.view(-1, 1, 1, 1) / 2 - 0.5), needs_labels=True, classes=3,
                   latent=1)
    got = cells(pictures.class_rows(family, family.generator, torch.tensor([[0.0], [1.0]])), 3, 2)[..., 0]
    np.testing.assert_array_equal(got, grey_of([[-0.5, -0.4], [0, 0.1], [0.5, 0.6]]))
    with pytest.raises(UserError, match="no labels"):
        pictures.class_rows(Known(nn.Identity()), nn.Identity(), torch.zeros(1, 4))


def test_truncation_pulls_w_to_its_mean(styled):
    z = torch.tensor([[0.4], [-0.2]])
    got = cells(pictures.truncation_sweep(styled, styled.generator, z, None, (1, 0.5, 0, -1)), 2, 4)
    np.testing.assert_array_equal(got[0, :, 0], grey_of([0.8, 0.45, 0.1, -0.6]))
    np.testing.assert_array_equal(got[1, :, 0], grey_of([-0.4, -0.15, 0.1, 0.6]))


def test_a_mixing_sheet_crosses_rows_with_columns(styled):
    rows, columns = torch.tensor([[0.1], [0.2], [0.3]]), torch.tensor([[-0.1], [-0.2]])
    got = cells(pictures.mixing_sheet(styled, styled.generator, rows, columns, cut=(0, 2)), 4, 3)
    np.testing.assert_array_equal(got[0, 0], [255] * 3)
    np.testing.assert_array_equal(got[0, 1:, 0], grey_of([-0.2, -0.4]))
    np.testing.assert_array_equal(got[1:, 0, 0], grey_of([0.2, 0.4, 0.6]))
    red, green = np.broadcast_to(grey_of([-0.2, -0.4]), (3, 2)), np.broadcast_to(grey_of([[0.2], [0.4], [0.6]]), (3, 2))
    np.testing.assert_array_equal(got[1:, 1:, 0], red)  # the column's
    np.testing.assert_array_equal(got[1:, 1:, 1], green)  # the row's


def test_noise_variation_shows_draws_and_their_deviation():
    family = Known(Styled(noisy=0.1), latent=1, channels=3)
    picture = pictures.noise_variation(family, family.generator, torch.tensor([[0.1]]), draws=3)
    width = SIDE + GAP
    draws = [picture[:, i * width:i * width + SIDE] for i in range(4)]
    assert picture.shape == (SIDE, 4 * width - GAP, 3)
    assert not np.array_equal(draws[0], draws[1]) and draws[3].max() == 255
    again = pictures.noise_variation(family, family.generator, torch.tensor([[0.1]]), draws=3)
    assert np.array_equal(picture, again)
    quiet = Known(Styled(), latent=1, channels=3)
    with pytest.raises(UserError, match="no noise"):
        pictures.noise_variation(quiet, quiet.generator, torch.tensor([[0.1]]))


def test_filters_share_one_scale_and_zero_is_grey():
    weight = torch.zeros(2, 3, 2, 2)
    weight[0, 0], weight[1, 1] = 0.5, -1.0
    got = cells(pictures.filters(weight, columns=2), 1, 2, gap=1)
    np.testing.assert_allclose(got[0], [[191, 128, 128], [128, 0, 128]])
    with pytest.raises(UserError, match="has 64 inputs"):
        pictures.filters(torch.zeros(2, 64, 3, 3))


def test_the_first_filters_are_those_of_the_first_real_convolution():
    critic = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 4, 3), nn.Conv2d(4, 5, 3))
    assert torch.equal(pictures.first_filters(Known(nn.Identity(), critic)), critic[1].weight)
    with pytest.raises(UserError, match="no critic"):
        pictures.first_filters(Known(nn.Identity()))
    with pytest.raises(UserError, match="no convolution"):
        pictures.first_filters(Known(nn.Identity(), nn.Flatten()))


def test_guided_shows_the_most_exciting_images_first():
    critic = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU())
    nn.init.ones_(critic[0].weight)
    images = torch.tensor([-0.5, 0.9, 0.1, 0.5]).view(4, 1, 1, 1).repeat(1, 1, SIDE, SIDE)
    family = Known(nn.Identity(), critic)
    picture = pictures.guided(family, images, top=2, channels=3, control=family)
    got = cells(picture, 3, 2)[..., 0]
    np.testing.assert_array_equal(got[0], grey_of([0.9, 0.5]))
    assert (got[1] >= 127).all() and np.array_equal(got[1], got[2])
    second_row = picture[SIDE + GAP:2 * SIDE + GAP, :SIDE, 0]
    assert (second_row == 255).sum() + (second_row > 128).sum() > 0  # units send back what made them positive


def test_growth_strip_takes_grids_evenly_from_first_to_last(tmp_path):
    paths = [save_png(np.full((16, 16, 3), 10 * i, np.uint8), tmp_path / f"{i:03d}.png") for i in range(9)]
    got = cells(pictures.growth_strip(paths, columns=3), 1, 3)
    np.testing.assert_array_equal(got[0, :, 0], [0, 40, 80])
    with pytest.raises(UserError, match="no sample grids"):
        pictures.growth_strip([])


def test_what_a_family_lacks_is_said_in_one_line(plain):
    z = torch.zeros(2, 1)
    for make, says in ((lambda: pictures.interpolation(plain, plain.generator, z, z, space="w"), "w .*: choose z"),
                       (lambda: pictures.truncation_sweep(plain, plain.generator, z), "--truncation-sweep .*: leave"),
                       (lambda: pictures.mixing_sheet(plain, plain.generator, z, z), "--mixing-sheet .*: leave it")):
        with pytest.raises(UserError, match=f"^{says}") as caught:
            make()
        assert "needs a generator with a mapping network" in str(caught.value)
    with pytest.raises(UserError, match="choose z or w"):
        pictures.interpolation(plain, plain.generator, z, z, space="q")
    with pytest.raises(UserError, match="two stops"):
        pictures.walk(plain, plain.generator, z[:1])
    with pytest.raises(UserError, match="three concepts"):
        pictures.arithmetic(plain, plain.generator, z, z, z[:1])


@pytest.mark.parametrize("name", ["pggan", "stylegan", "dcgan"])
def test_filters_are_those_that_meet_the_image(name):
    """fromRGB of the progressive critics is 1x1: its colours are shown."""
    from ganbench.family import create
    family = create(name, side=16, channels=3, preset="smoke")
    weight = pictures.first_filters(family)
    assert weight.shape[1] == 3 and weight.shape[-1] == (1 if name != "dcgan" else weight.shape[-1])
    assert pictures.filters(weight).shape[2] == 3


def test_guided_backpropagation_passes_over_dead_units():
    critic = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU())
    with torch.no_grad():
        critic[0].weight.copy_(torch.tensor([-1.0, 0, 1, 2]).view(4, 1, 1, 1))
        critic[0].bias.copy_(torch.tensor([-9.0, 1, 0, 0]))  # dead, the same for all, two that are alive
    images = torch.tensor([-0.5, 0.9, 0.1, 0.5]).view(4, 1, 1, 1).repeat(1, 1, SIDE, SIDE)
    family = Known(nn.Identity(), critic)
    got = cells(pictures.guided(family, images, top=2, channels=3), 4, 2)  # two units, two rows each
    np.testing.assert_array_equal(got[0, :, 0], grey_of([0.9, 0.5]))
    assert (got[1] > 128).any() and (got[3] > 128).any()
    critic[0].bias.data.fill_(-99)
    with pytest.raises(UserError, match=r"no unit of .* answers to any of 4 images"):
        pictures.guided(family, images)
