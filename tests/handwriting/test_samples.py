"""Several digits in one picture: the samples that come with the project, and what is on forms besides digits."""

import drawings
import numpy as np
import pytest
from drawings import draw
from helpers import ROOT
from PIL import Image, ImageChops, ImageDraw

from mnist_lightning.deploy.predict import sureness
from mnist_lightning.handwriting.read import read
from mnist_lightning.handwriting.to_mnist import TooSmallError, find_digits

SAMPLES = sorted((ROOT / "samples").iterdir())


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name[:20])
def test_a_sample_is_read_as_its_name_says(path, reader):
    pictures = list(read([str(path)]))
    labels, _ = reader.predict(np.stack([picture.image for picture in pictures]))
    assert "".join(map(str, labels)) == path.stem.split("_")[1]
    width, height = Image.open(path).size
    for place in (picture.place for picture in pictures):
        assert 0 <= place.x < place.x + place.width <= width
        assert 0 <= place.y < place.y + place.height <= height


def test_the_samples_are_small():
    assert len(SAMPLES) == 5
    assert sum(path.stat().st_size for path in SAMPLES) < 30_000


def row(digits, paint=lambda brush: None, size=(100, 140), height=80, gap=0):
    """A row of digits, a hundred pixels for each, and what is painted besides."""
    parts = [np.asarray(draw(digit, size=size, height=height, place=(22, 30))) for digit in digits]
    image = Image.fromarray(np.concatenate(parts, axis=1))
    paint(ImageDraw.Draw(image))
    return image


def boxes(brush):
    for index in range(4):
        brush.rectangle((5 + 95 * index, 15, 100 + 95 * index, 125), outline=0, width=3)


def ruled(brush):
    for y in (8, 111, 132):  # the digits stand on the second
        brush.line((0, y, 400, y), 0, 2)


def squared(brush):
    for at in range(-1, 400, 20):
        brush.line((at, 0, at, 140), 170)
        brush.line((0, at, 400, at), 170)


def crossed(brush):
    for x in (22, 122, 222, 322):  # strokes cross these
        brush.rectangle((x - 10, 2, x + 62, 106), outline=0, width=2)


BESIDES = {
    "nothing": lambda brush: None,
    "boxes": boxes,
    "boxes that strokes cross": crossed,
    "ruled paper": ruled,
    "squared paper": squared,
    "an underline": lambda brush: brush.line((10, 118, 390, 118), 0, 4),
    "a dash": lambda brush: brush.line((186, 70, 206, 70), 0, 5),
    "specks": lambda brush: [brush.point((x, 5), 0) for x in range(5, 400, 40)],
    "a margin": lambda brush: brush.line((6, 0, 6, 140), 0, 2),
}


@pytest.mark.parametrize("digits", [(4, 7, 1, 5), (2, 0, 8, 3), (9, 6, 4, 1)], ids=str)
@pytest.mark.parametrize("kind", BESIDES)
def test_boxes_and_rules_are_no_digits(kind, digits, reader):
    found = find_digits(row(digits, BESIDES[kind]))
    assert [round(digit.place.x / 100) for digit in found] == [0, 1, 2, 3]
    assert reader.predict(np.stack([digit.image for digit in found]))[0].tolist() == list(digits)


@pytest.mark.parametrize("gap", [0.06, 0.1, 0.15])
def test_the_bar_of_a_5_that_is_apart_is_a_stroke_of_it(gap, reader, monkeypatch):
    body, bar = drawings.STROKES[5]
    monkeypatch.setattr(
        drawings, "STROKES", (*drawings.STROKES[:5], [body, bar + np.array((gap, 0))], *drawings.STROKES[6:])
    )
    found = find_digits(row((5, 5, 5)))
    assert reader.predict(np.stack([digit.image for digit in found]))[0].tolist() == [5, 5, 5]


@pytest.mark.parametrize("digit", range(10))
@pytest.mark.parametrize("broken", [0.3, 0.5, 0.7])
def test_a_digit_that_is_broken_in_two_is_one(digit, broken):
    image = draw(digit)
    cut = 90 + round(150 * broken)
    image.paste(255, (0, cut, 400, cut + 8))
    assert len(find_digits(image)) == 1


def test_lines_are_read_from_the_left_also_where_they_climb():
    picture = Image.new("L", (700, 400), 255)
    for index in range(12):
        column, line_number = index % 6, index // 6
        one = draw(index % 10, size=(100, 110), height=70, place=(25, 20))
        picture.paste(one, (20 + 110 * column, 120 + 150 * line_number - 18 * column))
    places = [digit.place for digit in find_digits(picture)]
    assert [round((place.x - 30) / 110) for place in places] == [*range(6), *range(6)]
    assert [place.y > 170 - 0.17 * place.x for place in places] == [False] * 6 + [True] * 6


def test_a_page_of_many_small_digits_is_looked_at_in_full():
    picture = Image.new("L", (1000, 1000), 255)
    for index in range(400):
        one = draw(index % 10, size=(46, 46), height=26, pen=3, place=(10, 8))
        picture.paste(one, (index % 20 * 50, index // 20 * 50))
    assert len(find_digits(picture)) == 400


@pytest.mark.parametrize("height", [3, 5, 6])
def test_a_drawing_that_is_too_small_is_told_from_an_empty_one(height):
    with pytest.raises(TooSmallError, match="at least 8 pixels high"):
        find_digits(draw(3, size=(60, 60), height=height, pen=1, place=(20, 20)))
    blot = Image.new("L", (400, 300), 255)
    ImageDraw.Draw(blot).ellipse((200, 150, 220, 170), 0)
    with pytest.raises(TooSmallError):
        find_digits(blot)


def seen_from_the_side(picture, left, right):
    """A picture whose left and right sides are as much lower than high, and leant over, as a camera makes them."""
    wide, high = picture.size
    corners = (left, left, 0, high - left // 2, wide - right, high, wide, right)
    return picture.convert("RGB").transform(
        (wide, high), Image.Transform.QUAD, corners, Image.Resampling.BICUBIC, fillcolor="white"
    )


@pytest.mark.parametrize(("left", "right"), [(-20, 10), (-4, -30), (-8, -25)])
@pytest.mark.parametrize("thick", [2, 6])
def test_boxes_that_perspective_has_leaning_are_no_digits(left, right, thick, reader):
    digits = (4, 7, 1, 5)

    def frame(brush):
        for index in range(4):
            brush.rectangle((5 + 95 * index, 12, 100 + 95 * index, 125), outline=90, width=thick)

    picture = seen_from_the_side(row(digits, frame, height=76), left, right)
    found = find_digits(picture)
    assert reader.predict(np.stack([digit.image for digit in found]))[0].tolist() == list(digits)


def pushed_together(digits, apart):
    """Digits side by side, each so far from the one before: below 0, they touch."""
    picture = Image.new("L", (60 + 100 * len(digits), 200), 255)
    right = 30
    for digit in digits:
        one = draw(digit, size=(140, 200), height=100, pen=9, place=(30, 50))
        columns = np.flatnonzero((np.asarray(one) < 128).any(0))
        left = right + apart - int(columns[0])
        picture.paste(ImageChops.darker(picture.crop((left, 0, left + 140, 200)), one), (left, 0))
        right = left + int(columns[-1])
    return picture


@pytest.mark.parametrize("digits", [(2, 5), (5, 0), (2, 0, 3, 4)], ids=str)
def test_digits_that_touch_are_parted_where_a_net_is_surer_of_them(digits, reader):
    picture = pushed_together(digits, -3)
    assert len(find_digits(picture)) < len(digits)
    found = find_digits(picture, sureness(reader))
    assert reader.predict(np.stack([digit.image for digit in found]))[0].tolist() == list(digits)
    places = [digit.place.x for digit in found]
    assert places == sorted(places)


@pytest.mark.parametrize("digit", range(10))
def test_one_digit_however_wide_is_not_parted(digit, reader):
    one = draw(digit).resize((700, 320))
    assert len(find_digits(one, sureness(reader))) == 1
