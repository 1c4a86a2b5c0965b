"""Times this project against other ways to train the same net: in one sitting, interleaved, medians and ratios."""

import json
import os
import platform
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from mnist_lightning.console.startup import importing

with importing():
    import numpy as np
    import rivals
    import torch
    from table import GROWTH, table
    from tqdm import tqdm

    from mnist_lightning.console.messages import one_line_errors
    from mnist_lightning.console.parser import Parser
    from mnist_lightning.data.datamodule import MNISTDataModule
    from mnist_lightning.data.download import DEFAULT_DATA_DIR
    from mnist_lightning.data.format import FILES, find
    from mnist_lightning.data.idx import read_idx, write_idx
    from mnist_lightning.errors import UserError

SCRIPTS = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = Parser(description=__doc__, usage="%(prog)s [--OPTION VALUE ...]")
    parser.add_argument("--data_dir", type=str, default=DEFAULT_DATA_DIR, help="Folder of the four IDX files.")
    parser.add_argument("--repeats", type=int, default=5, help="Counted runs of each; one more warms up.")
    parser.add_argument("--json", type=Path | None, help="File to write every figure into.")
    args = parser.parse_args()
    if args.repeats < 1:
        raise UserError(f"expected --repeats to be at least 1, got {args.repeats}")
    data = MNISTDataModule(args.data_dir)
    data.prepare_data()
    data.setup("fit")
    with tempfile.TemporaryDirectory() as scratch:
        results = measure(data, args.repeats, Path(scratch))
    print(table(results))
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


def measure(data: MNISTDataModule, repeats: int, scratch: Path) -> dict[str, Any]:
    """Runs everything once to warm up, then ``repeats`` times in turn."""
    trainings = {name: (run, data) for name, run in rivals.available(data).items()}
    trainings[f"ours, {GROWTH} times the data"] = (rivals.ours, grown(data, scratch / "grown"))
    folder = data.folder.resolve()  # the processes run in the scratch folder
    options = ["--data.data_dir", folder, "--data.source=files", "--max_epochs=3"]
    processes = {
        "train.py, 3 epochs and test": ["train.py", *options],
        "the guide's script, the same": ["guide.py", folder, "3"],
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in (*trainings, *processes)}
    for counted in tqdm([False] + [True] * repeats, desc="rounds"):
        for name, (train, dataset) in trainings.items():
            with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
                runs[name] += [train(dataset)._asdict()][:counted]
        for name, command in processes.items():
            runs[name] += [run_process(command, scratch)][:counted]
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, PyTorch {torch.__version__}",
        "dataset": data.dataset_name,
        "images": len(data.train_set),
        "epochs": {name: runs[name] for name in trainings},
        "processes": {name: runs[name] for name in processes},
    }


def grown(data: MNISTDataModule, folder: Path) -> MNISTDataModule:
    """Writes and reads a dataset with the training images ``GROWTH`` times over."""
    folder.mkdir()
    for name in FILES:
        array = read_idx(find(data.folder, name))
        write_idx(folder / name, np.concatenate([array] * GROWTH) if name.startswith("train") else array)
    large = MNISTDataModule(str(folder), "files")
    large.setup("fit")
    return large


def run_process(command: list[Any], folder: Path) -> dict[str, float]:
    """Runs a script to its end: seconds to the first epoch's first step, seconds in all, and peak memory (MiB)."""
    script, *arguments = map(str, command)
    measured: list[str | Path] = [
        sys.executable,
        SCRIPTS / "benchmark" / "measure_process.py",
        sys.executable,
        SCRIPTS / script,
        *arguments,
    ]
    process = subprocess.run(measured, cwd=folder, stdout=subprocess.PIPE, check=False)
    if process.returncode:
        raise UserError(f"python scripts/{script} {' '.join(arguments)} failed; run it by hand to see why")
    figures: dict[str, float] = json.loads(process.stdout)
    return figures


if __name__ == "__main__":
    with one_line_errors():
        main()
