"""A folder of pictures in folders by class becomes a dataset: what is in it, what is left out, and what is refused."""

import shlex
import shutil

import numpy as np
import pytest
from helpers import ok, refused, run_script
from PIL import ExifTags, Image

from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.data.format import FILES
from mnist_lightning.data.idx import read_idx
from mnist_lightning.errors import UserError
from mnist_lightning.handwriting.folders import make_idx
from mnist_lightning.handwriting.read import read
from mnist_lightning.handwriting.to_image import to_image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "class 10²": (30, 30, 220), "class 9": (240, 240, 240)}
ORDER = ["class 9", "class 10²", "green", "red"]


@pytest.fixture
def pictures(tmp_path):
    """Ten pictures of each of four colours, of several kinds and sizes, some of them in folders of folders."""
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        folder = tmp_path / "pictures" / name
        (folder / "more").mkdir(parents=True)
        for number in range(10):
            pixels = random.normal(colour, 12, (60 + number, 80, 3)).clip(0, 255).astype(np.uint8)
            place = folder / "more" if number > 7 else folder
            Image.fromarray(pixels).save(place / f"{number}.{('png', 'jpg', 'webp', 'bmp')[number % 4]}")
    (tmp_path / "pictures" / ".git").mkdir()
    return tmp_path / "pictures"


def test_each_picture_is_an_image_of_its_class_and_a_share_of_each_class_is_held_out(pictures, tmp_path):
    made = make_idx(pictures, tmp_path / "made", (20, 24, 3), test_size=0.3)
    assert made == (dict.fromkeys(ORDER, 7), dict.fromkeys(ORDER, 3), [])
    data = MNISTDataModule(str(tmp_path / "made"), val_size=0)
    assert (data.classes, data.image_shape) == (ORDER, [20, 24, 3])
    for dataset in (data.train_images, data.test_set):
        images, labels = dataset.tensors
        means = images.float().mean((1, 2))
        for mean, label in zip(means.tolist(), labels.tolist(), strict=True):
            assert np.allclose(mean, COLOURS[ORDER[label]], atol=12)
        assert len(set(labels[:8].tolist())) > 1  # not class by class


def test_the_same_pictures_give_the_same_files(pictures, tmp_path):
    for name in ("one", "two"):
        make_idx(pictures, tmp_path / name, (16, 16))
    for name in (*FILES, "classes.txt"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_bad_pictures_are_named_and_left_out(pictures, tmp_path):
    whole = (pictures / "red" / "0.png").read_bytes()
    (pictures / "red" / "half.png").write_bytes(whole[: len(whole) // 2])
    (pictures / "green" / "notes.txt").write_text("not a picture")
    (pictures / "green" / ".DS_Store").write_text("hidden")
    for name in (".thumbnails", ".ipynb_checkpoints"):  # copies, which could be tested on
        shutil.copytree(pictures / "red" / "more", pictures / "red" / name)
    made = make_idx(pictures, tmp_path / "made", (16, 16, 3))
    assert [reason.split(":")[0] for reason in made.skipped] == [
        str(pictures / "green" / "notes.txt"),
        str(pictures / "red" / "half.png"),
    ]
    assert sum(made.train.values()) + sum(made.test.values()) == 40


def test_a_picture_that_one_may_not_read_is_left_out_too(pictures, tmp_path, monkeypatch):
    opens = Image.open

    def refuse(path, *args, **kwargs):
        if path.name == "3.bmp":
            raise PermissionError(13, "Permission denied", str(path))
        return opens(path, *args, **kwargs)

    monkeypatch.setattr(Image, "open", refuse)
    made = make_idx(pictures, tmp_path / "made", (16, 16, 3))
    assert made.skipped == [f"{pictures / name / '3.bmp'}: cannot be read: Permission denied" for name in ORDER]


def test_a_picture_is_upright_opaque_and_cut_in_the_middle():
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, :20], wide[:, 20:40], wide[:, 40:60], wide[:, 60:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)
    image = to_image(Image.fromarray(wide), (8, 8, 3))
    assert np.allclose(image[4, 0], (0, 255, 0), atol=20)
    assert np.allclose(image[4, -1], (0, 0, 255), atol=20)
    picture = Image.fromarray(wide)
    picture.getexif()[0x0112] = 6  # it was taken with the camera turned
    assert np.allclose(to_image(picture, (8, 8, 3))[0, 4], (0, 255, 0), atol=20)
    glass = Image.new("RGBA", (30, 30), (0, 0, 0, 0))
    assert to_image(glass, (8, 8)).min() == 255


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_place_of_a_picture_is_that_of_the_upright_one(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (80, 60), "red").save(tmp_path / f"photograph.{suffix}", exif=exif)
    (picture,) = read([str(tmp_path)], image_shape=(8, 8, 3))
    assert picture.place == (0, 0, *((60, 80) if orientation > 4 else (80, 60)))


def test_grey_pictures_of_mnists_size_are_made_as_mnists_were(tmp_path):
    for name, foot in (("one", 55), ("ell", 80)):
        (tmp_path / "drawn" / name).mkdir(parents=True)
        for number in range(2):
            picture = Image.new("L", (100, 100), 230)
            picture.paste(20, (45, 20, 55, 80))
            picture.paste(20, (45, 70, foot, 80))
            picture.save(tmp_path / "drawn" / name / f"{number}.png")
    Image.new("L", (100, 100), 230).save(tmp_path / "drawn" / "one" / "blank.png")
    made = make_idx(tmp_path / "drawn", tmp_path / "made", (28, 28))
    assert ["blank.png: expected a digit" in reason for reason in made.skipped] == [True]
    image = read_idx(tmp_path / "made" / FILES[0])[0]
    assert image.max() == 255
    assert not image[[0, -1]].any()
    assert max(np.ptp(axis) for axis in np.nonzero(image)) == 19  # MNIST's box


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": (0, 8)}, r"expected the shape \(1 to 1024"),
        ({"image_shape": (8, 8, 4)}, "expected the shape"),
        ({"test_size": 1.0}, "above 0 and below 1, got 1.0"),
        ({"output": "pictures/made"}, "a new folder outside of"),
        ({"folder": "none"}, "none: expected a folder with a folder of pictures"),
        ({"folder": "pictures/red"}, "2 to 256 classes .* got 1"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(pictures, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    paths = {name: tmp_path / options.pop(name, default) for name, default in (("folder", "pictures"), ("output", "o"))}
    with pytest.raises(UserError, match=message):
        make_idx(**paths, **options)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_class_without_two_pictures_is_named(pictures, tmp_path):
    (pictures / "lonely").mkdir()
    with pytest.raises(UserError, match="lonely: expected at least 2 pictures of each class that can be read, got 0"):
        make_idx(pictures, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_from_a_folder_of_pictures_to_answers_in_their_words(pictures, tmp_path):
    (pictures / "red" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    result = run_script("make_idx.py", "pictures", "--output=my data/colours", "--size=[16,20]", cwd=tmp_path)
    assert "broken.jpg" in result.stderr
    assert "written to my data/colours: 32 images of 16x20 in colour to train on, 8 to test; 1 skipped" in result.stdout
    assert "class 10²       8       2" in result.stdout
    train = shlex.split(result.stdout.splitlines()[-1])[3:]  # what follows "train  python scripts/train.py"
    assert train == ["--data.data_dir", "my data/colours", "--model.net", "convnet"]
    refused(run_script("make_idx.py", "pictures", "--output=data/x", "--size=[16]", cwd=tmp_path), "--size", "[16]")
    again = run_script("make_idx.py", "pictures", "--output=my data/colours", cwd=tmp_path)
    refused(again, "my data/colours: expected a new folder")
    options = ("--data.data_dir=my data/colours", "--max_epochs=20", "--data.batch_size=8", "--accelerator=cpu")
    assert "test accuracy 100.00%" in ok(run_script("train.py", *options, cwd=tmp_path))
    asked = ("lightning_logs/version_0", "pictures/green/1.jpg", "pictures/class 9/0.png")
    lines = ok(run_script("predict.py", *asked, cwd=tmp_path)).splitlines()
    assert [line[23:33].strip() for line in lines] == ["class", "green", "class 9"]
    assert "class 10²" in ok(run_script("test.py", "lightning_logs/version_0", cwd=tmp_path))
    assert "class 10²" in (tmp_path / "lightning_logs/version_0/test/report.html").read_text()
