"""CelebA-HQ's geometry against a hand computation in float64 with complex numbers, and what the pixels show."""

import numpy as np
import pytest
from PIL import Image

from ganbench.data.sources._face_crop import cropped, cut_out, enlarged, fade, find_face, padded, shrunk


def landmarks(eye_distance=40.0, drop=44.0, angle=0.0, at=(200.0, 210.0)):
    """A symmetric face: eyes, nose, corners of the mouth; turned about the middle of the eyes."""
    flat = np.array([-eye_distance / 2, eye_distance / 2, 0.5j * drop, -12 + 1j * drop, 12 + 1j * drop])
    turned = flat * np.exp(1j * np.deg2rad(angle)) + complex(*at)
    return np.stack([turned.real, turned.imag], 1)


def by_hand(points):
    """Centre, half-side vector, corners and zoom, with points as complex numbers: turning by 90 degrees is times i."""
    z = [complex(*p) + 0.5 + 0.5j for p in points]
    eye, mouth = (z[0] + z[1]) / 2, (z[3] + z[4]) / 2
    across, down = z[1] - z[0], mouth - eye
    x = across - 1j * down
    x = x / abs(x) * max(2 * abs(across), 1.8 * abs(down))
    c = eye + 0.1 * down
    corners = [c - x - 1j * x, c - x + 1j * x, c + x + 1j * x, c + x - 1j * x]
    return np.array([[q.real, q.imag] for q in corners]), 1024 / (2 * abs(x))


@pytest.mark.parametrize("face", [{}, {"angle": 25}, {"angle": -70}, {"angle": 180}, {"drop": 90.0}, {"at": (3.0, 5.0)},
                                  {"eye_distance": 300.0, "drop": 280.0, "angle": 11}])
def test_corners_and_zoom(face):
    quad, zoom = find_face(landmarks(**face))
    corners, expected = by_hand(landmarks(**face))
    np.testing.assert_allclose(quad, corners, rtol=0, atol=1e-10)
    assert zoom == pytest.approx(expected, rel=1e-12)


def test_an_upright_face_in_numbers():
    """Eyes 40 apart around (200, 210), mouth 44 below: half-side 80, centre (200.5, 214.9)."""
    quad, zoom = find_face(landmarks())
    np.testing.assert_allclose(quad, [[120.5, 134.9], [120.5, 294.9], [280.5, 294.9], [280.5, 134.9]], atol=1e-10)
    assert zoom == pytest.approx(6.4)


def test_the_steps_before_the_drawing():
    """Worked out by hand from an image of 400x420: border max(round(102.4/6.4), 3) = 16."""
    image = Image.new("RGB", (400, 420))
    quad, zoom = find_face(landmarks())
    same, _, _ = shrunk(image, quad, zoom)
    assert same.size == (400, 420)
    part, moved, border = cropped(image, quad, zoom)
    assert border == 16 and part.size == (297 - 104, 311 - 118)  # 120-16..281+16, 134-16..295+16
    np.testing.assert_allclose(moved, quad - [104, 118])
    big, grown, left = enlarged(part, moved, zoom)
    assert big.size == (193 * 8, 193 * 8) and left == pytest.approx(0.8)
    np.testing.assert_allclose(grown, moved * 8)
    assert padded(big, grown, left, border)[0] is big  # nothing sticks out


def test_a_face_much_too_large_is_shrunk_first():
    """Half-side 2200: zoom 1024/4400 = 0.2327, so n = floor(2.148) = 2."""
    quad, zoom = find_face(landmarks(eye_distance=1100.0, drop=900.0, at=(2600.0, 2500.0)))
    image, smaller, larger = shrunk(Image.new("RGB", (5001, 5200)), quad, zoom)
    assert image.size == (2500, 2600) and larger == pytest.approx(2 * 1024 / 4400)
    np.testing.assert_allclose(smaller, quad / 2)


def test_padding_of_a_face_at_the_border():
    """Centre at (10.5, 14.9): the quad begins at -69.5, -65.1 and the crop is clipped to the image at 0."""
    image = Image.new("RGB", (300, 300), (10, 20, 30))
    quad, zoom = find_face(landmarks(at=(10.0, 10.0)))
    part, moved, border = cropped(image, quad, zoom)
    assert part.size == (107, 111)  # to 91+16, 95+16
    big, grown, left = enlarged(part, moved, zoom)
    out, shifted = padded(big, grown, left, border)
    # left: 16 + ceil(8 * 69.5) = 572, top: 16 + ceil(8 * 65.1) = 537; at least round(0.3 * 1024 / 0.8) = 384 all round
    assert out.size == (107 * 8 + 572 + 384, 111 * 8 + 537 + 384)
    np.testing.assert_allclose(shifted, grown + [572, 537])
    assert (np.asarray(out) == [10, 20, 30]).all()  # one colour stays one colour


def test_the_fade_is_one_at_the_edge_and_zero_where_the_padding_ends():
    mask = fade(40, 60, left=10, top=8, right=20, bottom=5)
    assert (mask[0] == 1).all() and (mask[:, -1] == 1).all() and mask[20, 10] == 0 and mask[8, 30] == 0
    assert mask[20, 39] == 0 and mask[34, 30] == 0 and mask[20, 5] == 0.5 and mask[20, 25] < 0


@pytest.mark.parametrize("angle", [0, 30, -75])
def test_the_drawing_puts_the_landmarks_where_they_belong(angle):
    """Bright spots on the eyes of a dark photograph come out at the places that the geometry says, to within a pixel of
    it.
    """
    points = landmarks(angle=angle)
    y, x = np.mgrid[:420, :400]
    pixels = sum(255 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 1.5 ** 2)) for px, py in points[:2])
    image = Image.fromarray(np.repeat(pixels.clip(0, 255).astype(np.uint8)[..., None], 3, -1))
    drawn = np.asarray(cut_out(image, points)).astype(float)[..., 0]
    assert drawn.shape == (1024, 1024)
    corners, zoom = by_hand(points)
    frame = np.array([corners[3] - corners[0], corners[1] - corners[0]]) / 1024
    for eye, half in zip(points[:2], (drawn[:, :512], drawn[:, 512:])):
        expected = (eye + 0.5 - corners[0]) @ np.linalg.inv(frame)
        weight = half / half.sum()
        found = [(weight.sum(0) * np.arange(512)).sum() + (512 if half is not None and expected[0] > 512 else 0),
                 (weight.sum(1) * np.arange(1024)).sum()]
        assert np.abs(np.array(found) - expected).max() < 0.75 * zoom  # three quarters of a pixel of the photograph


def test_landmarks_in_one_point_are_no_face():
    with pytest.raises(ValueError, match="span a face"), np.errstate(all="ignore"):
        cut_out(Image.new("RGB", (50, 50)), np.full((5, 2), 20.0))


def test_landmarks_outside_the_image_are_no_face():
    with pytest.raises(ValueError, match="outside the image"):
        cut_out(Image.new("RGB", (50, 50)), landmarks(at=(5000.0, 5000.0)))
