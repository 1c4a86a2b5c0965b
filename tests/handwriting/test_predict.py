"""scripts/predict.py: pictures in, digits out, for people and for machines."""

import csv
import io
import json

import numpy as np
import pytest
from drawings import draw, photograph
from helpers import make_digits, refused, run_script, save_classifier
from PIL import Image

from mnist_lightning.data.idx import write_idx

NONE = dict.fromkeys(("digit", "probability", "runner_up", "runner_up_probability", "x", "y", "width", "height"))


@pytest.fixture(scope="module")
def folder(reader, tmp_path_factory):
    """A checkpoint, and pictures of every kind: good, blank and bad."""
    folder = tmp_path_factory.mktemp("predict")
    save_classifier(reader, folder / "best.ckpt")
    pictures = folder / "pictures"
    (pictures / "more").mkdir(parents=True)
    draw(7).save(pictures / "7.png")
    photograph(2, 502).save(pictures / "2.JPG", quality=80)
    draw(4, 0, 255).save(pictures / "more" / "4.webp", lossless=True)
    Image.new("L", (60, 60), 255).save(pictures / "blank.gif")
    (pictures / "._7.png").write_text("which macOS leaves beside a picture on other disks")
    (pictures / "notes.txt").write_text("not a picture, and not taken for one")
    (folder / "half.png").write_bytes((pictures / "7.png").read_bytes()[:300])
    (folder / "text.png").write_text("not a picture")
    (folder / "empty").mkdir()
    write_idx(folder / "images", make_digits(3)[0])
    write_idx(folder / "labels.gz", make_digits(3)[1])
    return folder


def predict(folder, *args):
    return run_script("predict.py", "best.ckpt", *args, cwd=folder)


def test_a_folder_is_answered_in_the_order_of_its_names_in_aligned_lines(folder):
    result = predict(folder, "pictures")
    assert (result.returncode, result.stderr) == (0, "")
    header, *lines = result.stdout.splitlines()
    assert header.split() == ["file", "digit", "probability", "runner-up", "probability", "x", "y", "width", "height"]
    assert [line.split()[:2] for line in lines] == [
        ["pictures/2.JPG", "2"],
        ["pictures/7.png", "7"],
        ["pictures/blank.gif", "no"],
        ["pictures/more/4.webp", "4"],
    ]
    assert lines[2].endswith("no digit found")
    assert {len(line) for line in [header, *lines[:2], lines[3]]} == {len(header)}


def test_json_and_csv_say_the_same_for_machines(folder, reader):
    told = json.loads(predict(folder, "pictures", "images", "--json").stdout)
    rows = list(csv.DictReader(io.StringIO(predict(folder, "pictures", "images", "--csv").stdout)))
    for answer, row in zip(told, rows, strict=True):
        assert {name: "" if value is None else str(value) for name, value in answer.items()} == row
    assert [answer["file"] for answer in told[4:]] == ["images[0]", "images[1]", "images[2]"]
    assert told[2] == {"file": "pictures/blank.gif", **NONE, "error": None}
    labels, probabilities = reader.predict(make_digits(3)[0])  # an IDX file's images are taken as they are
    assert [told[4][side] for side in ("x", "y", "width", "height")] == [0, 0, 28, 28]
    for answer, label, row in zip(told[4:], labels, probabilities, strict=True):
        assert (answer["digit"], answer["runner_up"]) == (str(label), str(row.argsort()[-2]))
        assert answer["probability"] == pytest.approx(float(row.max()), abs=1e-5)
        assert answer["runner_up_probability"] == pytest.approx(float(np.sort(row)[-2]), abs=1e-5)


def test_a_bad_file_is_a_line_and_the_others_are_answered(folder):
    write_idx(folder / "none", np.zeros((0, 28, 28), np.uint8))
    long = "x" * 300  # which no file system looks for
    bad = ("half.png", "text.png", "missing.png", "labels.gz", "empty", "none", long)
    result = predict(folder, *bad, "pictures/7.png")
    assert result.returncode == 1
    assert [line.split()[:2] for line in result.stdout.splitlines()[1:]] == [["pictures/7.png", "7"]]
    half, text, missing, labels, empty, none, too_long = result.stderr.splitlines()
    assert "half.png: expected a whole picture" in half
    assert "text.png: expected a picture (PNG, JPEG" in text
    assert "missing.png: No such file" in missing
    assert "labels.gz: expected uint8 images of shape (N, 28, 28), got uint8 of shape (3,)" in labels
    assert "empty: expected pictures in this folder" in empty
    assert "none: expected images, got none" in none
    assert "x: File name too long" in too_long
    nothing = predict(folder, "text.png", "none", "--json")
    assert nothing.returncode == 1
    assert json.loads(nothing.stdout) == [
        {"file": "text.png", **NONE, "error": text.removeprefix("error: ")},
        {"file": "none", **NONE, "error": none.removeprefix("error: ")},
    ]


def in_a_row(digits, **options):
    """A picture of digits side by side."""
    parts = [np.asarray(draw(digit, **options)) for digit in digits]
    return Image.fromarray(np.concatenate(parts, axis=1))


def test_every_digit_of_a_picture_is_a_row_with_its_place_and_one_is_the_largest(folder):
    in_a_row((4, 2), size=(200, 240), height=150, place=(50, 40)).save(folder / "42.png")
    told = json.loads(predict(folder, "42.png", "--json").stdout)
    assert [answer["digit"] for answer in told] == ["4", "2"]
    for left, answer in zip((50, 250), told, strict=True):
        assert (answer["x"], answer["y"]) == (pytest.approx(left, abs=16), pytest.approx(40, abs=8))
        assert (answer["width"], answer["height"]) == (pytest.approx(90, abs=20), pytest.approx(150, abs=15))
    draw(7, size=(200, 240), height=70, place=(50, 40)).save(folder / "small.png")
    both = [np.asarray(Image.open(folder / name)) for name in ("small.png", "42.png")]
    Image.fromarray(np.concatenate(both, axis=1)[:, :400]).save(folder / "74.png")
    told = [json.loads(predict(folder, "74.png", "--json", *one).stdout) for one in ((), ("--one",))]
    assert [[answer["digit"] for answer in answers] for answers in told] == [["7", "4"], ["4"]]


def test_a_drawing_that_is_too_small_and_a_picture_that_is_too_large_are_told_so(folder):
    draw(3, size=(60, 60), height=5, pen=1, place=(20, 20)).save(folder / "tiny.png")
    Image.new("1", (8000, 8000)).save(folder / "vast.png")  # a kilobyte or two
    Image.new("1", (16000, 16000)).save(folder / "bomb.png")
    result = predict(folder, "tiny.png", "vast.png", "bomb.png")
    assert result.returncode == 1
    tiny, vast, bomb = result.stderr.splitlines()
    assert "tiny.png: expected a digit at least 8 pixels high" in tiny
    assert "vast.png: expected at most 50,000,000 pixels, got 8,000x8,000" in vast
    assert "bomb.png: expected at most 50,000,000 pixels, got far more" in bomb


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp", "avif", "ppm"])
def test_no_damage_to_a_file_ends_in_a_traceback(folder, suffix, tmp_path):
    from mnist_lightning.handwriting.read import read

    draw(3, size=(40, 40), height=30, pen=4, place=(10, 5)).save(tmp_path / f"whole.{suffix}")
    (good,) = read([str(tmp_path / f"whole.{suffix}")])
    assert 28 <= good.place.height <= 40 and 16 <= good.place.width <= 30
    assert good.image.max() > 200
    whole = np.frombuffer((tmp_path / f"whole.{suffix}").read_bytes(), np.uint8)
    random = np.random.default_rng(0)
    for number in range(60):
        damaged = whole.copy()
        damaged[random.integers(0, len(whole), 1 + number % 4)] = random.integers(0, 256)
        (tmp_path / f"{number:02}.{suffix}").write_bytes(damaged[: len(whole) - number % 3 * 20].tobytes())
    pictures = list(read([str(tmp_path)]))
    for picture in pictures:
        assert picture.image is None or picture.image.shape == (28, 28)
        assert picture.error is None or "\n" not in picture.error
    assert {picture.error is None for picture in pictures} == {False, True}


def test_ten_thousand_images_are_one_answer_each(folder, tmp_path):
    write_idx(folder / "many", np.tile(make_digits(100)[0], (100, 1, 1)))
    told = predict(folder, "many", "--csv").stdout.splitlines()
    assert len(told) == 10_001
    assert told[1].split(",")[1:] == told[101].split(",")[1:] == told[9901].split(",")[1:]


def test_what_cannot_be_asked_is_said_in_a_line(folder):
    for args, words in (
        (["--json", "--csv", "pictures"], "one of --json and --csv"),
        ([], "expected IMAGE"),
    ):
        result = predict(folder, *args)
        assert result.stdout == ""
        refused(result, words)
    refused(run_script("predict.py", "none.ckpt", "pictures", cwd=folder), "none.ckpt")
