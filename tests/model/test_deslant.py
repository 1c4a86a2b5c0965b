"""Normalized digits: upright, equally wide, and otherwise as they were."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mnist_lightning.errors import UserError
from mnist_lightning.model.classifier import MNISTClassifier
from mnist_lightning.model.deslant import Deslant


def bars(*slants, half_width=3):
    """Leaning bars (N, 1, 28, 28), 14 pixels high; a slant is in pixels to the side for each pixel of height."""
    y, x = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    lean = torch.tensor(slants)[:, None, None] * (y - 13.5)
    inside = (x - 13.5 + lean).abs() <= half_width
    return (inside & ((y - 13.5).abs() < 7)).float()[:, None]


def spread(images):
    """The covariance of the ink (N, 2, 2) across and down, in pixels, and its centre (N, 2)."""
    ink = images[:, 0] / images.sum((1, 2, 3))[:, None, None]
    at = torch.arange(28.0)
    points = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1)
    centre = torch.einsum("nyx,yxc->nc", ink, points)
    off = points - centre[:, None, None]
    return torch.einsum("nyx,nyxc,nyxd->ncd", ink, off, off), centre


def test_leaning_digits_stand_upright_at_their_place_and_height():
    images = F.pad(bars(-0.4, 0.0, 0.3), (3, -3, -2, 2))
    upright = Deslant(True, 0)(images)
    before, place = spread(images)
    after, new_place = spread(upright)
    assert before[[0, 2], 0, 1].abs().min() > 3
    assert after[:, 0, 1].abs().max() < 0.5
    torch.testing.assert_close(new_place, place, atol=0.1, rtol=0)
    torch.testing.assert_close(upright.sum(3), images.sum(3), atol=0.6, rtol=0)  # each row of pixels keeps its ink
    torch.testing.assert_close(upright[1], images[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("width", [2.0, 3.0])
def test_digits_become_as_wide_as_asked_and_lean_as_they_did(width):
    images = torch.cat([bars(0.0, 0.3, half_width=half_width) for half_width in (2.5, 4.5)])
    wide = Deslant(False, width)(images)
    after, place = spread(wide)
    torch.testing.assert_close(after[:, 0, 0].sqrt(), torch.full((4,), width), atol=0.25, rtol=0)
    torch.testing.assert_close(place, spread(images)[1], atol=0.1, rtol=0)
    assert after[1, 0, 1].abs() > 1


def test_a_stroke_is_not_made_a_blot():
    stroke = bars(0.0, half_width=0.6)
    assert spread(Deslant(True, 6.0)(stroke))[0][0, 0, 0].sqrt() < 2.5 * spread(stroke)[0][0, 0, 0].sqrt() + 0.5


def test_a_blank_stays_blank_and_images_do_not_mix():
    normalize = Deslant(True, 4.0)
    assert not normalize(torch.zeros(2, 1, 28, 28)).any()
    images = torch.rand(5, 1, 28, 28)
    torch.testing.assert_close(normalize(images)[3:4], normalize(images[3:4]))


def test_in_bfloat16_images_are_rounded_and_places_are_not():
    normalize, images = Deslant(True, 5.0), bars(-0.3, 0.0, 0.3)
    rounded = normalize.bfloat16()(images.bfloat16())
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), normalize(images), atol=0.02, rtol=0)


def test_a_classifier_normalizes_before_its_net_and_without_options_does_not():
    plain, normalized = MNISTClassifier(), MNISTClassifier(deslant=True, ink_width=5)
    assert [type(net.net[0]) for net in (plain, normalized)] == [nn.Flatten, Deslant]
    for parameter, value in zip(normalized.parameters(), plain.parameters(), strict=True):
        parameter.data.copy_(value)
    images = bars(0.3, 0.0)
    torch.testing.assert_close(normalized(images), plain(Deslant(True, 5.0)(images)))


@pytest.mark.parametrize("width", [-1.0, 29.0, float("nan")])
def test_a_width_that_cannot_be_is_refused(width):
    with pytest.raises(UserError, match="expected ink_width to be from 0 to 28"):
        MNISTClassifier(ink_width=width)
