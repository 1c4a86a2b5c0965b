"""Distortions: what each strength moves and how far, and that they are a function of the numbers that were drawn."""

import math

import pytest
import torch

from mnist_lightning.data.augment import Distortion
from mnist_lightning.data.sampler import seeded
from mnist_lightning.errors import UserError

PIXELS = torch.arange(28.0)
MIDDLE = 13.5
STRONG = {"rotation": 30.0, "scale": 0.3, "shear": 0.3, "shift": 3.0, "elastic": 1.5}
STRENGTHS = tuple(STRONG)


def distorted(images, *numbers, **strengths):
    """The images after a distortion whose random numbers are a function of the numbers."""
    distortion = Distortion(**strengths)
    return distortion(images, distortion.draw(len(images), seeded(*numbers or (0,))))


def noise(count, dtype=torch.float32):
    return torch.rand(count, 1, 28, 28, generator=seeded(1), dtype=dtype)


def copies(image, count=300):
    return image.expand(count, 1, 28, 28).contiguous()


def blob(wide, high):
    """A bell of these standard deviations in the middle; it ends before the edges, so that all of it stays."""
    down, across = (torch.exp(-(((PIXELS - MIDDLE) / size) ** 2) / 2) for size in (high, wide))
    return down[:, None] * across


def centres_and_moments(images):
    """Where the mass of each image lies, (N,) across and down, and how it spreads: the moments xx, yy and xy."""
    mass = images[:, 0] / images.sum((1, 2, 3))[:, None, None]
    across, down = (mass.sum(1) * PIXELS).sum(1), (mass.sum(2) * PIXELS).sum(1)
    x, y = PIXELS - across[:, None, None], (PIXELS - down[:, None])[:, :, None]
    return across - MIDDLE, down - MIDDLE, *((mass * moment).sum((1, 2)) for moment in (x * x, y * y, x * y))


def assert_reaches(values, bound, tolerance):
    """Both directions, up to the bound and nearly so, and never beyond."""
    assert -bound - tolerance <= values.min() < -0.9 * bound
    assert 0.9 * bound < values.max() <= bound + tolerance


def test_no_strength_leaves_images_as_they_are():
    assert Distortion().is_identity
    images = noise(64)
    assert torch.allclose(distorted(images), images, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", STRENGTHS)
def test_any_strength_changes_images(name):
    assert not Distortion(**{name: STRONG[name]}).is_identity
    images = noise(8)
    assert (distorted(images, **{name: STRONG[name]}) - images).abs().amax((1, 2, 3)).min() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype_stay_and_values_stay_in_0_to_1(dtype):
    images = noise(50, dtype)
    images[:10] = 1  # where rounding would show first
    result = distorted(images, **STRONG)
    assert (result.shape, result.dtype) == (images.shape, dtype)
    assert result.min() >= 0
    assert result.max() <= 1 + 1e-6
    assert torch.equal(images[:10], torch.ones_like(images[:10])), "the images that came in were written to"


def test_double_precision_gives_the_same_images():
    images = noise(50)
    assert torch.allclose(distorted(images, **STRONG).double(), distorted(images.double(), **STRONG), rtol=0, atol=1e-4)


def test_bfloat16_images_are_read_at_exact_places():
    images = noise(50).bfloat16()
    result = distorted(images, **STRONG)
    assert result.dtype == torch.bfloat16
    assert torch.allclose(result.float(), distorted(images.float(), **STRONG), rtol=0, atol=1 / 256)


def test_a_distortion_is_a_function_of_seed_epoch_and_step():
    images = noise(8)
    torch.manual_seed(1)
    first = distorted(images, 0, 0, 0, **STRONG)
    torch.manual_seed(2)  # what else is drawn must not matter
    torch.rand(3)
    assert torch.equal(first, distorted(images, 0, 0, 0, **STRONG))
    others = [distorted(images, *numbers, **STRONG) for numbers in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert all(not torch.equal(a, b) for a in [first, *others] for b in [first, *others] if a is not b)


@pytest.mark.parametrize("piece", [1, 7, 32, 50])
def test_a_batch_in_pieces_gives_exactly_the_same(piece):
    images, distortion = noise(64), Distortion(**STRONG)
    drawn = distortion.draw(64, seeded(0))
    pieces = [distortion(part, numbers) for part, numbers in zip(images.split(piece), drawn.split(piece), strict=True)]
    assert torch.equal(torch.cat(pieces), distortion(images, drawn))


@pytest.mark.parametrize("name", STRENGTHS)
def test_the_images_of_a_batch_are_distorted_each_in_its_own_way(name):
    result = distorted(copies(noise(1), 20), **{name: STRONG[name]}).flatten(1)
    assert torch.cdist(result, result).fill_diagonal_(math.inf).min() > 0.01


def test_an_empty_share_of_a_batch_stays_empty():
    assert distorted(noise(0), **STRONG).shape == (0, 1, 28, 28)


def test_shift_moves_by_at_most_its_pixels_along_each_axis():
    across, down, *moments = centres_and_moments(distorted(copies(blob(2, 2)), shift=3.0))
    assert_reaches(across, 3, 0.01)
    assert_reaches(down, 3, 0.01)
    assert abs(torch.corrcoef(torch.stack([across, down]))[0, 1]) < 0.2
    assert torch.allclose(torch.stack(moments[:2]), torch.tensor(4.0), atol=0.3)  # and changes no size


def test_what_moves_in_is_black():
    result = distorted(copies(torch.ones(28, 28)), shift=3.0)
    assert result[..., 4:-4, 4:-4].min() > 1 - 1e-5
    assert result[..., 0].min() == result[..., -1].min() == result[..., 0, :].min() == result[..., -1, :].min() == 0


def test_rotation_turns_by_at_most_its_degrees_about_the_middle():
    across, down, xx, yy, xy = centres_and_moments(distorted(copies(blob(5, 1)), rotation=30.0))
    assert_reaches(torch.rad2deg(torch.atan2(2 * xy, xx - yy) / 2), 30, 0.5)
    assert torch.stack([across, down]).abs().max() < 0.01


def test_scale_changes_width_and_height_by_at_most_its_ratio():
    across, down, xx, yy, xy = centres_and_moments(distorted(copies(blob(3, 3)), scale=0.25))
    wide, high = (moment.sqrt().log() - math.log(3) for moment in (xx, yy))
    assert_reaches(wide, math.log(1.25), 0.02)
    assert_reaches(high, math.log(1.25), 0.02)
    assert abs(torch.corrcoef(torch.stack([wide, high]))[0, 1]) < 0.2
    assert torch.stack([across, down, xy]).abs().max() < 0.05


def test_shear_slants_by_at_most_its_pixels_for_each_of_height():
    across, down, _, yy, xy = centres_and_moments(distorted(copies(blob(1, 4)), shear=0.5))
    assert_reaches(xy / yy, 0.5, 0.02)
    assert torch.allclose(yy, torch.tensor(16.0), atol=0.3)  # and changes no height
    assert torch.stack([across, down]).abs().max() < 0.01


def displacements(axis, count=1000, **strengths):
    """How far each pixel of each image was moved along an axis: read from images whose values are the coordinate."""
    ramp = PIXELS.expand(28, 28)
    ramp = ramp.T if axis == "y" else ramp
    moved = distorted(copies(ramp / 27, count), **strengths)[:, 0] * 27 - ramp
    return moved[:, 7:21, 7:21]  # at the border the ramp ends


@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize(("elastic", "smoothness"), [(0.5, 2.0), (0.5, 4.0), (1.4, 4.0), (1.0, 8.0)])
def test_elastic_is_the_deviation_and_smoothness_the_reach_of_displacements(axis, elastic, smoothness):
    moved = displacements(axis, elastic=elastic, smoothness=smoothness)
    assert moved.std(0).min() > 0.9 * elastic  # at every pixel
    assert moved.std(0).max() < 1.1 * elastic
    assert moved.mean().abs() < 0.1 * elastic
    # as noise that a Gaussian of that deviation has blurred: neighbours correlate by exp(-1 / (4 smoothness^2))
    step = elastic * math.sqrt(2 * (1 - math.exp(-1 / (4 * smoothness**2))))
    assert moved.diff(dim=1).std().item() == pytest.approx(step, rel=0.1)
    assert moved.diff(dim=2).std().item() == pytest.approx(step, rel=0.1)


def test_elastic_displacements_along_the_axes_have_nothing_to_do_with_each_other():
    across, down = (displacements(axis, elastic=1.0).flatten() for axis in ("x", "y"))
    assert abs(torch.corrcoef(torch.stack([across, down]))[0, 1]) < 0.1


@pytest.mark.parametrize("smoothness", [1.0, 2.0, 28.0])
def test_every_smoothness_gives_images(smoothness):
    assert distorted(noise(8), smoothness=smoothness, rotation=10.0, elastic=1.0).isfinite().all()


@pytest.mark.parametrize("smoothness", [0.0, 1e-3, 0.5, 100.0, 1e9])
def test_a_smoothness_that_would_blur_nothing_or_everything_is_refused(smoothness):
    with pytest.raises(UserError, match=f"expected smoothness to be from 1 to 28, got {smoothness}"):
        Distortion(elastic=1.0, smoothness=smoothness)


@pytest.mark.parametrize("name", [*STRENGTHS, "smoothness"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, -math.inf])
def test_strengths_that_cannot_be_are_refused_by_their_names(name, value):
    with pytest.raises(UserError, match=rf"^expected {name} to be .*, got {value}; .*--data\.{name}$"):
        Distortion(**{name: value})
