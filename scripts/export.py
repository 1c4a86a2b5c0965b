"""Exports a checkpoint as a model that needs nothing of this project: images in, probabilities out, any number."""

from pathlib import Path

from mnist_lightning.console.startup import importing

with importing():
    from mnist_lightning.checkpoints.provenance import data_for
    from mnist_lightning.checkpoints.read import read_checkpoint
    from mnist_lightning.console.messages import one_line_errors
    from mnist_lightning.console.parser import Parser
    from mnist_lightning.data.download import Source
    from mnist_lightning.deploy.export import InputName, export
    from mnist_lightning.deploy.formats import FormatName


def main() -> None:
    parser = Parser(description=__doc__, usage="%(prog)s CKPT --format FORMAT [--OPTION VALUE ...]")
    parser.add_argument("ckpt", help="A run's folder, for its best checkpoint, or a .ckpt file.")
    parser.add_argument("--format", type=FormatName, required=True, help="What to write: onnx, torchscript or pt2.")
    parser.add_argument(
        "--input",
        type=InputName,
        default="uint8",
        help="Images that onnx and pt2 take: uint8, or float, which is float32 from 0 to 1. A torchscript takes both.",
    )
    parser.add_argument(
        "--output", type=Path | None, help="File to write (default: .onnx, .torchscript.pt or .pt2 beside CKPT)."
    )
    parser.add_argument(
        "--data.data_dir", type=str | None, help="Folder of the digits to check on (default: those it was trained on)."
    )
    parser.add_argument("--data.source", type=Source | None, help="Where they come from, as for train.py.")
    args = parser.parse_args()
    checkpoint = read_checkpoint(args.ckpt)
    data = data_for(checkpoint, args.data.data_dir, args.data.source)
    print(export(checkpoint, args.format, data, args.output, args.input))


if __name__ == "__main__":
    with one_line_errors():
        main()
