"""Times this project against other ways to train the same net: in one sitting, interleaved, medians and ratios."""

import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from functools import partial
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
    from mnist_lightning.environment import identity
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
    more = grown(data, scratch / "grown", GROWTH)
    trainings = {name: partial(run, data) for name, run in rivals.available(data).items()}
    trainings[f"ours, {GROWTH} times the data"] = partial(rivals.ours, more, epochs=1)
    nets = {name: partial(run, data) for name, run in rivals.larger_nets().items()}
    folder = data.folder.resolve()  # the processes run in the scratch folder
    train = ["train.py", "--data.data_dir", folder, "--data.source=files", "--max_epochs=3"]
    processes = {
        "train.py, 3 epochs and test": [train],
        "the guide's script, the same": [["guide.py", folder, "3"]],
        "train.py, two at once, each": [train, train],
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in (*trainings, *nets, *processes)}
    for counted in tqdm([False] + [True] * repeats, desc="rounds"):
        for name, run in (trainings | nets).items():
            with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
                runs[name] += [run()._asdict()][:counted]
        for name, commands in processes.items():
            runs[name] += [run_processes(commands, scratch)][:counted]
    return {
        "machine": f"{os.cpu_count()} cores, {identity(torch.device('cpu'))['device']}, PyTorch {torch.__version__}",
        "dataset": data.dataset_name,
        "images": len(data.train_set),
        "epochs": {name: runs[name] for name in trainings},
        "nets": {name: runs[name] for name in nets},
        "processes": {name: runs[name] for name in processes},
    }


def grown(data: MNISTDataModule, folder: Path, times: int) -> MNISTDataModule:
    """Writes and reads a dataset with the training images so many times over."""
    folder.mkdir()
    for name in FILES:
        array = read_idx(find(data.folder, name))
        if name.startswith("train"):
            array = np.resize(array, (times * len(array), *array.shape[1:]))
        write_idx(folder / name, array)
    other = MNISTDataModule(str(folder), "files")
    other.setup("fit")
    return other


def run_processes(commands: list[list[Any]], scratch: Path) -> dict[str, float]:
    """Runs scripts at once, to their ends, and returns their mean figures: see measure_process.py."""
    measured = [sys.executable, SCRIPTS / "benchmark" / "measure_process.py", sys.executable]
    processes = []
    for script, *arguments in commands:
        command = [*measured, SCRIPTS / script, *map(str, arguments)]
        processes.append(subprocess.Popen(command, cwd=tempfile.mkdtemp(dir=scratch), stdout=subprocess.PIPE))
    outputs = [process.communicate()[0] for process in processes]
    for process, (script, *arguments) in zip(processes, commands, strict=True):
        if process.returncode:
            raise UserError(f"python scripts/{script} {shlex.join(map(str, arguments))} failed; see why by hand")
    figures = [json.loads(output) for output in outputs]
    return {name: statistics.mean(each[name] for each in figures) for name in figures[0]}


if __name__ == "__main__":
    with one_line_errors():
        main()
