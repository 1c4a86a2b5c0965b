"""Compares one's own runs: best first by validation, with the options in which they differ."""

import json
from pathlib import Path

from mnist_lightning.console.arguments import Arguments, one_line
from mnist_lightning.console.terminal import columns
from mnist_lightning.sweeps import compare


def main() -> None:
    parser = Arguments(description=__doc__)
    parser.add_argument(
        "folder", nargs="*", type=Path, default=[Path("lightning_logs")], help="Runs, or folders of runs, however deep."
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="Print JSON.")
    form.add_argument("--csv", action="store_true", help="Print CSV.")
    args = parser.parse_args()
    runs = compare.find(args.folder)
    if args.json:
        print(json.dumps(compare.rows(runs), indent=2))
    elif args.csv:
        print(compare.as_csv(runs), end="")
    else:
        print(compare.table(runs, columns() or compare.WIDE))


if __name__ == "__main__":
    with one_line():
        main()
