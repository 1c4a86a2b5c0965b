"""Draws what distortions do to digits: each kind alone, then all together."""

from dataclasses import asdict, replace
from inspect import signature
from pathlib import Path

from mnist_lightning.console.startup import importing

with importing():
    import torch

    from mnist_lightning.console.messages import one_line_errors
    from mnist_lightning.console.parser import Parser, Seed
    from mnist_lightning.data.augment import Distortion
    from mnist_lightning.data.datamodule import MNISTDataModule
    from mnist_lightning.data.download import DEFAULT_DATA_DIR
    from mnist_lightning.data.images import channels_first
    from mnist_lightning.data.sampler import seeded
    from mnist_lightning.reporting.plots import digits

COLUMNS = 10


def main() -> None:
    parser = Parser(description=__doc__, usage="%(prog)s [--OPTION VALUE ...]")
    others = signature(MNISTDataModule).parameters.keys() - asdict(Distortion()).keys()
    parser.add_class_arguments(MNISTDataModule, "data", as_group=False, skip=others)  # the flags that train.py takes
    strongest = {"rotation": 10.0, "scale": 0.1, "shear": 0.1, "shift": 1.5, "elastic": 0.7}
    parser.set_defaults({f"data.{name}": value for name, value in strongest.items()})
    parser.add_argument("--seed", type=Seed, default=0, help="Seed of the distortions.")
    parser.add_argument("--data_dir", type=str, default=DEFAULT_DATA_DIR, help="Folder of the four IDX files.")
    parser.add_argument("--output", type=Path, default=Path("distortions.png"), help="The plot to write.")
    args = parser.parse_args()
    everything = Distortion(**args.data)
    nothing = Distortion(smoothness=everything.smoothness)
    kinds = {"as they are": nothing} | {
        f"{name} {value:g}": replace(nothing, **{name: value})
        for name, value in asdict(everything).items()
        if name != "smoothness"
    }
    data = MNISTDataModule(args.data_dir)
    data.prepare_data()
    data.setup("fit")
    images = channels_first(data.train_images.tensors[0][:COLUMNS], colour=len(data.image_shape) == 3) / 255
    generator = seeded(args.seed)
    rows = [kind(images, kind.draw(len(images), generator)) for kind in [*kinds.values(), everything, everything]]
    pixels = (255 * torch.cat(rows).movedim(1, -1).squeeze(-1)).round().byte().numpy()
    digits(pixels, columns=len(images), labels=[*kinds, "all", "all, once more"]).save(args.output, "PNG")
    print(f"written to {args.output}")


if __name__ == "__main__":
    with one_line_errors():
        main()
