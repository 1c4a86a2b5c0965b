"""Makes of a folder of pictures, in folders by class, a dataset to train on: four IDX files and classes.txt."""

import sys
from pathlib import Path

from mnist_lightning.console.startup import importing

with importing():
    from tqdm import tqdm

    from mnist_lightning.console.messages import one_line_errors
    from mnist_lightning.console.parser import Parser
    from mnist_lightning.console.terminal import command
    from mnist_lightning.errors import UserError
    from mnist_lightning.handwriting.folders import make_idx


def main() -> None:
    parser = Parser(description=__doc__, usage="%(prog)s FOLDER_OF_FOLDERS --output DIR [--OPTION VALUE ...]")
    parser.add_argument("folder", type=Path, help="Has a folder for each class, named by it, with the pictures of it.")
    parser.add_argument("--output", type=Path, required=True, help="Folder to write to.")
    parser.add_argument(
        "--size", type=int | list[int], default=64, help="Pixels of an image's sides: 64, or [48,64] for 48 high."
    )
    parser.add_argument(
        "--colour",
        type=bool,
        default=True,
        help="Whether images are in colour. In grey, of size 28, they are made as MNIST's were: ink, centred.",
    )
    parser.add_argument("--test_size", type=float, default=0.2, help="Share of each class that is held out to test on.")
    args = parser.parse_args()
    sides = args.size if isinstance(args.size, list) else [args.size, args.size]
    if len(sides) != 2:
        raise UserError(f"expected one --size or two, such as 64 or [48,64], got {sides}")
    shape = [*sides, 3] if args.colour else sides
    made = make_idx(
        args.folder,
        args.output,
        shape,
        args.test_size,
        lambda files: tqdm(files, unit=" pictures", leave=False, disable=None),
    )
    for reason in made.skipped:
        print("skipped:", reason, file=sys.stderr)
    width = max(map(len, (*made.train, "class")))
    print(f"{'class':{width}}   train    test")
    for name, count in made.train.items():
        print(f"{name:{width}}  {count:6,}  {made.test[name]:6,}")
    skipped = f"; {len(made.skipped):,} skipped" if made.skipped else ""
    kind = f"{'x'.join(map(str, sides))} {'in colour' if args.colour else 'in grey'}"
    print(
        f"\nwritten to {args.output}: {sum(made.train.values()):,} images of {kind} to train on, "
        f"{sum(made.test.values()):,} to test{skipped}\n\nnext\n"
        f"  train  {command('train.py', '--data.data_dir', args.output, '--model.net', 'convnet')}"
    )


if __name__ == "__main__":
    with one_line_errors():
        main()
