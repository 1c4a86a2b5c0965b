"""Makes pages, forms and numbers of a checkpoint's test digits, as a camera sees them, and says how many it reads."""

from collections.abc import Callable, Sequence

from mnist_lightning.console.startup import importing

with importing():
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image, ImageDraw, ImageFilter

    from mnist_lightning.checkpoints.provenance import data_for
    from mnist_lightning.checkpoints.read import read_checkpoint
    from mnist_lightning.console.messages import one_line_errors
    from mnist_lightning.console.parser import Parser, Seed
    from mnist_lightning.deploy.predict import sureness
    from mnist_lightning.errors import UserError
    from mnist_lightning.handwriting.to_mnist import find_digits
    from mnist_lightning.model.base import BaseClassifier

Draw = Callable[[np.random.Generator, Sequence[NDArray[np.uint8]]], Image.Image]

INK, PAPER, DESK, LINE = (28, 34, 105), (245, 240, 222), (92, 66, 44), (120, 120, 130)
CELL = 112  # pixels of a box
TALL = 72  # of a digit


def in_cells(
    columns: int, boxes: bool, random: np.random.Generator, images: Sequence[NDArray[np.uint8]]
) -> Image.Image:
    """A page with a digit in each cell, not quite in its middle; around the cells there may be lines."""
    rows = len(images) // columns
    page = Image.new("RGB", (CELL * (columns + 1), CELL * (rows + 1)), PAPER)
    brush = ImageDraw.Draw(page)
    if boxes:
        thick = int(random.integers(2, 6))
        near, right, bottom = CELL // 2, CELL // 2 + columns * CELL, CELL // 2 + rows * CELL
        for y in range(near, bottom + 1, CELL):
            brush.line((near, y, right, y), LINE, thick)
        for x in range(near, right + 1, CELL):
            brush.line((x, near, x, bottom), LINE, thick)
    for index, image in enumerate(images):
        x, y = CELL + index % columns * CELL, CELL + index // columns * CELL
        write(page, image, x + int(random.integers(-10, 11)), y + int(random.integers(-10, 11)))
    return page


def close_together(random: np.random.Generator, images: Sequence[NDArray[np.uint8]]) -> Image.Image:
    """A row of digits, half of which touch the one before."""
    page = Image.new("RGB", (CELL * (len(images) + 1), 2 * CELL), PAPER)
    masks = [np.asarray(sized(image)) > 100 for image in images]
    side = masks[0].shape[0]
    left, before = CELL // 2, None
    for image, mask in zip(images, masks, strict=True):
        if before is not None:
            apart = -3 if random.random() < 0.5 else 14
            left += side - min(gaps(before, mask)) + apart
        write(page, image, left + side // 2, CELL)
        before = mask
    return page


def gaps(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> list[int]:
    """The paper in each row, and in the next, between two images of one size, side by side."""
    near = np.pad(other, ((1, 1), (0, 0)))
    near = near[:-2] | near[1:-1] | near[2:]
    both = one.any(1) & near.any(1)
    ends, starts = one[:, ::-1].argmax(1), near.argmax(1)
    return (ends + starts)[both].tolist() or [0]


def sized(image: NDArray[np.uint8]) -> Image.Image:
    side = round(TALL * 28 / 20)  # MNIST's digits are 20 pixels of 28
    return Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)


def write(page: Image.Image, image: NDArray[np.uint8], x: int, y: int) -> None:
    """Writes a digit around a place."""
    mask = sized(image)
    page.paste(INK, (x - mask.width // 2, y - mask.height // 2), mask)


def photographed(page: Image.Image, random: np.random.Generator) -> Image.Image:
    """A page on a desk: aslant, in uneven light and half in a shadow, blurred and with a camera's noise."""
    wide, high = page.size
    size = round(1.1 * wide + 0.1 * high), round(1.1 * high + 0.1 * wide)
    corners = np.array([(0, 0), (wide, 0), (wide, high), (0, high)], float)
    moved = corners + np.subtract(size, page.size) / 2 + random.uniform(-0.03, 0.03, (4, 2)) * max(page.size)
    seen = page.transform(
        size, Image.Transform.PERSPECTIVE, between(moved, corners), Image.Resampling.BICUBIC, fillcolor=DESK
    )
    seen = seen.filter(ImageFilter.GaussianBlur(random.uniform(0, 2)))
    y, x = np.mgrid[: size[1], : size[0]] / max(size) - 0.5
    angle = random.uniform(0, 2 * np.pi)
    across = x * np.cos(angle) + y * np.sin(angle)
    light = (1 - random.uniform(0, 0.3) * (across + 0.5)) * (1 - random.uniform(0, 0.4) / (1 + np.exp(-across / 0.02)))
    pixels = np.asarray(seen, float) * light[..., None] + random.normal(0, random.uniform(1, 6), (*size[::-1], 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def between(to: NDArray[np.float64], of: NDArray[np.float64]) -> list[float]:
    """The eight numbers of the perspective that takes four corners to four others."""
    rows = [
        ([x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y])
        for (x, y), (u, v) in zip(to, of, strict=True)
    ]
    return [float(number) for number in np.linalg.solve(np.reshape(rows, (8, 8)), of.ravel())]


KINDS: dict[str, tuple[int, Draw]] = {
    "a page of 36 in boxes": (36, lambda random, images: photographed(in_cells(6, True, random, images), random)),
    "a form of 7 boxes": (7, lambda random, images: photographed(in_cells(7, True, random, images), random)),
    "a page of 36": (36, lambda random, images: photographed(in_cells(6, False, random, images), random)),
    "a number of 10": (10, lambda random, images: photographed(in_cells(10, False, random, images), random)),
    "4 close together": (4, close_together),
}


def score(
    kind: str, count: int, seed: int, model: BaseClassifier, images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> tuple[int, int, int]:
    """In how many pictures all digits are found, in how many they are read right, and would be as MNIST has them."""
    digits, draw = KINDS[kind]
    found = right = alone = 0
    for number in range(count):
        random = np.random.default_rng((seed, number))
        chosen = random.choice(len(images), digits, replace=False)
        answers = find_digits(draw(random, list(images[chosen])), sureness(model))
        found += len(answers) == digits
        alone += bool((model.predict(images[chosen])[0] == labels[chosen]).all())
        if len(answers) == digits:
            right += bool((model.predict(np.stack([each.image for each in answers]))[0] == labels[chosen]).all())
    return found, right, alone


def main() -> None:
    parser = Parser(description=__doc__, usage="%(prog)s CKPT [--OPTION VALUE ...]")
    parser.add_argument("ckpt", help="A run's folder, for its best checkpoint, or a .ckpt file.")
    parser.add_argument("--count", type=int, default=50, help="Pictures of each kind.")
    parser.add_argument("--seed", type=Seed, default=0, help="Of the pictures.")
    args = parser.parse_args()
    if args.count < 1:
        raise UserError(f"expected --count to be at least 1, got {args.count}")
    checkpoint = read_checkpoint(args.ckpt)
    model, (images, labels) = checkpoint.classifier(), data_for(checkpoint).test_set.tensors
    if len(images) < (most := max(digits for digits, _ in KINDS.values())):
        raise UserError(f"expected at least {most} test images for a page, got {len(images)}; give a net of more data")
    print(f"{'':24}all found  all right  as MNIST has them")
    for kind in KINDS:
        found, right, alone = score(kind, args.count, args.seed, model, images.numpy(), labels.numpy())
        print(f"{kind:24}{found:9}  {right:9}  {alone:17}  of {args.count}", flush=True)


if __name__ == "__main__":
    with one_line_errors():
        main()
