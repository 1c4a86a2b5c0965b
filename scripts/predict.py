"""Reads digits: in pictures of any kind, in folders of them, and in IDX files."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from mnist_lightning.console.startup import importing

with importing():
    import numpy as np
    from tqdm import tqdm

    from mnist_lightning.console.messages import one_line_errors
    from mnist_lightning.console.parser import Parser
    from mnist_lightning.data.format import SIDE
    from mnist_lightning.errors import UserError
    from mnist_lightning.handwriting.read import KINDS, Picture, read
    from mnist_lightning.model.base import BATCH, BaseClassifier
    from mnist_lightning.model.checkpoint import load_classifier


class Answer(NamedTuple):
    """What a file holds; nothing but its name where no digit was found, and what is wrong with it where it is bad."""

    file: str
    digit: int | None = None
    probability: float | None = None
    runner_up: int | None = None
    runner_up_probability: float | None = None
    error: str | None = None

    def __str__(self) -> str:
        if self.digit is None:
            return "no digit found"
        return f"{self.digit:5} {self.probability:12.2%} {self.runner_up:10} {self.runner_up_probability:12.2%}"


def main() -> None:
    parser = Parser(description=__doc__, usage="%(prog)s CKPT IMAGE [IMAGE ...] [--json | --csv]")
    parser.add_argument("ckpt", help="A .ckpt file that scripts/train.py wrote.")
    parser.add_argument("image", nargs="+", help=f"Pictures ({KINDS}), folders of them, or IDX files.")
    parser.add_argument("--json", action="store_true", help="Print a JSON list, for machines.")
    parser.add_argument("--csv", action="store_true", help="Print CSV, for tables.")
    args = parser.parse_args()
    if args.json and args.csv:
        raise UserError("expected one of --json and --csv, got both")
    model = load_classifier(args.ckpt)
    pictures = tqdm(read(args.image), unit=" pictures", leave=False, disable=None)  # a bar on terminals only
    found = list(answers(model, pictures))
    show = show_json if args.json else show_csv if args.csv else show_text
    show(found)
    errors = [answer.error for answer in found if answer.error]
    for error in errors:
        print("error:", error, file=sys.stderr)
    if errors:
        raise SystemExit(1)


def answers(model: BaseClassifier, pictures: Iterable[Picture]) -> Iterator[Answer]:
    """What a model takes pictures for, many at a time."""
    pictures = iter(pictures)
    while chunk := list(islice(pictures, BATCH)):
        digits = np.array([picture.digit for picture in chunk if picture.digit is not None], np.uint8)
        rows = iter(model.predict(digits.reshape(-1, SIDE, SIDE))[1])
        for picture in chunk:
            if picture.digit is None:
                yield Answer(picture.file, error=picture.error)
            else:
                row = next(rows)
                *_, second, first = row.argsort().tolist()
                yield Answer(picture.file, first, float(row[first]), second, float(row[second]))


def show_text(found: Sequence[Answer]) -> None:
    width = max(len(answer.file) for answer in found)
    print(f"{'file':{width}}  digit  probability  runner-up  probability")
    for answer in found:
        if not answer.error:
            print(f"{answer.file:{width}}  {answer}")


def show_json(found: Sequence[Answer]) -> None:
    json.dump([answer._asdict() for answer in found], sys.stdout, indent=2)
    print()


def show_csv(found: Sequence[Answer]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(Answer._fields)
    writer.writerows(found)


if __name__ == "__main__":
    with one_line_errors():
        main()
