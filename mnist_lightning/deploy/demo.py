"""What the page shows of a drawing, or a picture: what is in it, and of one of these why the net answers as it does."""

import io
import math
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnist_lightning.checkpoints.read import Checkpoint
from mnist_lightning.checkpoints.runs import load_json, run_of, stands_for_run
from mnist_lightning.data.format import IMAGE_SHAPE
from mnist_lightning.data.images import ImageDataset
from mnist_lightning.deploy.explain import Kind, Neighbours, evidence, kind, seen, units
from mnist_lightning.deploy.predict import sureness
from mnist_lightning.errors import UserError
from mnist_lightning.handwriting.to_image import find_images
from mnist_lightning.handwriting.to_mnist import Found, TooSmallError
from mnist_lightning.model.classifier import MNISTClassifier
from mnist_lightning.reporting.plots import RIGHT, WRONG, data_url, png

LARGEST = 1_000_000  # pixels of a drawing; the page's have 172,800, and its pictures at most four times as many
UNITS, ALIKE = 8, 3  # shown at a time
# What the page says of the units, by what they are
BARS: dict[Kind, str] = {
    "labels": "Each is a label; the one that is most awake is the answer.",
    "voters": "The bar is how awake it is, the number its vote on {asked}.",
    "kernels": "The bar is how awake it is; it looks at every part of the drawing.",
    "others": "The bar is how awake it is; what it says for an answer, the layers after it decide.",
}


class Demo:
    """Answers the drawings of the page.

    Args:
        model: Reads the digits that are drawn.
    """

    def __init__(self, model: MNISTClassifier) -> None:
        self.model = model.eval().requires_grad_(False)
        self.training: ImageDataset | None = None
        self.neighbours: Neighbours | None = None
        self.alike = "The training images are being looked through."
        self.lock = threading.Lock()  # two answers at a time would take as long as one after the other

    def remember(self, training: ImageDataset | None) -> None:
        """Looks through training images, so that those most like a drawing can be shown from then on."""
        if training is None:
            self.alike = "Its training images are not on this machine."
            return
        self.training, self.neighbours = training, Neighbours(self.model, training.tensors[0].numpy())
        images = f"its {len(training):,} training and validation images"
        self.alike = f"The nearest of {images}, in what the last layer makes of them."

    def answer(self, drawing: bytes, asked: Mapping[str, str]) -> dict[str, Any]:
        """Reads a drawing.

        Args:
            drawing: A PNG.
            asked: ``x`` and ``y``, a place in the drawing: the digit there is explained. ``label``: why that label, or
                why not; by default, the answer's.

        Returns:
            What the page shows, for JSON.

        Raises:
            UserError: The drawing is no PNG, or too large.
        """
        try:
            digits = find_images(open_drawing(drawing), self.model.image_shape, sureness(self.model))
        except TooSmallError:
            return {"message": "That is too small to read. Draw larger."}
        if not digits:
            return {"message": "Nothing to read yet."}
        with self.lock:
            labels, probabilities = self.model.predict(np.stack([digit.image for digit in digits]))
            chosen = _nearest(digits, _number(asked.get("x")), _number(asked.get("y")))
            label = int(_number(asked.get("label"), labels[chosen]))
            if not 0 <= label < probabilities.shape[1]:
                raise UserError(f"expected a label from 0 to {probabilities.shape[1] - 1}, got {label}")
            return {
                "digits": [
                    {**digit.place._asdict(), "label": int(its), "share": float(row[its])}
                    for digit, its, row in zip(digits, labels, probabilities, strict=True)
                ],
                "chosen": chosen,
                "answer": int(labels[chosen]),
                "shares": probabilities[chosen].tolist(),
                "asked": label,
                **self._explained(digits[chosen].image, label),
            }

    def _explained(self, image: NDArray[np.uint8], label: int) -> dict[str, Any]:
        says = evidence(self.model, image)
        pixels = says.pixels[label]
        sums = {"for": pixels.clip(0).sum(), "against": pixels.clip(None, 0).sum(), "rest": says.rest[label]}
        shown = seen(self.model, image[None])[0].movedim(0, -1).squeeze(-1).numpy()
        return {
            "seen": data_url(png(Image.fromarray((255 * shown).round().astype(np.uint8)))),
            "evidence": {"picture": signed(pixels), "exact": says.exact, **{k: float(v) for k, v in sums.items()}},
            "units": self._units(image, label),
            "alike": self._alike(image),
        }

    def _units(self, image: NDArray[np.uint8], label: int) -> dict[str, Any]:
        """The units that say most about the label; where they do not vote themselves, those that are most awake."""
        weights, outputs, votes = units(self.model, image)
        what, names = kind(self.model), self.model.classes
        strength = abs(outputs if votes is None else votes[label])
        if what == "labels":  # the answer is among them, though all should be below 0
            strength = outputs - outputs.min()
        return {
            "awake": int((outputs > 0).sum()),
            "count": len(outputs),
            "note": "Blue pixels wake a unit, orange ones put it to sleep. " + BARS[what].format(asked=names[label]),
            "shown": [
                {
                    "picture": signed(weights[unit]),
                    "label": unit if what == "labels" else None,
                    "output": float(outputs[unit]),
                    "vote": None if votes is None else float(votes[label, unit]),
                }
                for unit in strength.argsort()[::-1][:UNITS].tolist()
                if strength[unit] > 0
            ],
        }

    def _alike(self, image: NDArray[np.uint8]) -> dict[str, Any]:
        if self.training is None or self.neighbours is None:
            return {"shown": [], "note": self.alike}
        images, labels = self.training.tensors
        nearest = self.neighbours.nearest(image, ALIKE)
        pictures = (data_url(png(Image.fromarray(images[index].numpy()))) for index in nearest)
        shown = [{"picture": url, "label": int(labels[i])} for url, i in zip(pictures, nearest, strict=True)]
        return {"shown": shown, "note": self.alike}


def open_drawing(drawing: bytes) -> Image.Image:
    """Opens what somebody posted as a drawing: a PNG, and no more pixels than anybody draws.

    Raises:
        UserError: It is something else.
    """
    try:
        picture = Image.open(io.BytesIO(drawing), formats=["PNG"])  # others have more code, or run programs
        if math.prod(picture.size) > LARGEST:  # before they are decoded
            raise UserError(f"expected a drawing of at most {LARGEST:,} pixels, got {math.prod(picture.size):,}")
        picture.load()
    except UserError:
        raise
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes them
        raise UserError("expected a drawing as a PNG, got something else") from error
    return picture


def signed(values: NDArray[np.float32]) -> str:
    """Values (H, W) as a picture for any paper: blue above 0, orange below, and the stronger the less transparent."""
    strength = np.round(255 * abs(values) / max(1e-12, float(abs(values).max())))
    colours = np.where(values[..., None] > 0, RIGHT, WRONG)
    return data_url(png(Image.fromarray(np.dstack([colours, strength]).astype(np.uint8))))


def about(checkpoint: Checkpoint, model: MNISTClassifier) -> dict[str, Any]:
    """What the page says of the model: what it is, and how well it tested, if its run's folder knows."""
    hidden, own = model.hparams["hidden"], kind(model)
    layers = [f"{' and '.join(map(str, hidden))} hidden units"] if hidden else ["no hidden units"] * (own == "labels")
    count = sum(parameter.numel() for parameter in model.parameters())
    return {
        "model": ", ".join([type(model.net).__name__, *layers, f"{count:,} parameters."]),
        "tested": _tested(checkpoint),
        "units": "Labels awake" if own == "labels" else "Hidden units awake",
        "names": model.classes,
        "several": tuple(model.image_shape) == IMAGE_SHAPE,  # digits, or the like, are found in a picture
    }


def _tested(checkpoint: Checkpoint) -> str:
    with suppress(ValueError, TypeError, KeyError):
        if stands_for_run(checkpoint.path):  # of the run's checkpoints, the one that was tested
            results = load_json(run_of(checkpoint.path) / "test" / "metrics.json")
            count, name = results["num_samples"], results["dataset"]
            return f"It read {results['accuracy']:.2%} of {count:,} test images of {name} right."
    return "How well it tested is not known here."


def _nearest(digits: Sequence[Found], x: float, y: float) -> int:
    """The digit whose middle is nearest to a place."""
    middles = np.array([(d.place.x + d.place.width / 2, d.place.y + d.place.height / 2) for d in digits])
    return int(((middles - (x, y)) ** 2).sum(1).argmin())


def _number(text: str | None, default: float = 0) -> float:
    try:
        number = float(text) if text is not None else default
    except ValueError:
        number = default
    return number if math.isfinite(number) else default
