"""Reads digits: in pictures of any kind, in folders of them, and in IDX files."""

import csv
import json
import sys
from collections.abc import Sequence

from mnist_lightning.console.startup import importing

with importing():
    from tqdm import tqdm

    from mnist_lightning.checkpoints.read import load_classifier
    from mnist_lightning.console.messages import one_line_errors
    from mnist_lightning.console.parser import Parser
    from mnist_lightning.data.format import DIGITS
    from mnist_lightning.deploy.predict import Answer, predict, sureness
    from mnist_lightning.errors import UserError
    from mnist_lightning.handwriting.read import KINDS, read


def main() -> None:
    parser = Parser(description=__doc__, usage="%(prog)s CKPT IMAGE [IMAGE ...] [--one] [--json | --csv]")
    parser.add_argument("ckpt", help="A run's folder, for its best checkpoint, or a .ckpt file.")
    parser.add_argument("image", nargs="+", help=f"Pictures ({KINDS}), folders of them, or IDX files.")
    parser.add_argument("--one", action="store_true", help="Read only the most prominent digit of each picture.")
    parser.add_argument("--json", action="store_true", help="Print a JSON list, for machines.")
    parser.add_argument("--csv", action="store_true", help="Print CSV, for tables.")
    args = parser.parse_args()
    if args.json and args.csv:
        raise UserError("expected one of --json and --csv, got both")
    model = load_classifier(args.ckpt)
    found = read(args.image, args.one, model.image_shape, sureness(model))
    pictures = tqdm(found, unit=" digits", leave=False, disable=None)  # a bar on terminals only
    answers = list(predict(model, pictures))
    show = show_json if args.json else show_csv if args.csv else show_text
    show(answers)
    errors = [answer.error for answer in answers if answer.error]
    for error in errors:
        print("error:", error, file=sys.stderr)
    if errors:
        raise SystemExit(1)


def show_text(answers: Sequence[Answer]) -> None:
    if all(answer.error for answer in answers):
        return
    width = max(len(answer.file) for answer in answers)
    names = [name for answer in answers for name in (answer.digit, answer.runner_up) if name is not None]
    title, wide = "digit" if set(names) <= set(DIGITS) else "class", max(map(len, ["class", *names]))
    columns = f"{title:>{wide}}  probability  {'runner-up':>{max(9, wide)}}  probability"
    print(f"{'file':{width}}  {columns}      x      y  width  height")
    for answer in answers:
        if answer.digit is not None:
            first = f"{answer.digit:>{wide}} {answer.probability:12.2%}"
            second = f" {answer.runner_up:>{max(9, wide)}} {answer.runner_up_probability:12.2%}"
            place = f"{answer.x:6} {answer.y:6} {answer.width:6} {answer.height:7}"
            print(f"{answer.file:{width}}  {first} {second} {place}")
        elif not answer.error:
            print(f"{answer.file:{width}}  no digit found")


def show_json(answers: Sequence[Answer]) -> None:
    json.dump([answer._asdict() for answer in answers], sys.stdout, indent=2)
    print()


def show_csv(answers: Sequence[Answer]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(Answer._fields)
    writer.writerows(answers)


if __name__ == "__main__":
    with one_line_errors():
        main()
