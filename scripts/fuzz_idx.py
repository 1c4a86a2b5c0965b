"""Fuzzes the IDX reader: libFuzzer changes bytes, sees which lines of idx.py they reach, and keeps what reaches more.

    pip install -e ".[fuzz]"
    python scripts/fuzz_idx.py -runs=1000000
    python scripts/fuzz_idx.py -max_total_time=60 corpus/   # keeps what it finds, and begins there the next time
    python scripts/fuzz_idx.py crash-...                    # one input again, as libFuzzer left it

The options are libFuzzer's own (-help=1). Any bytes must give an array or an IDXError, the same when they are gzipped,
and an array must be written as the bytes it was read from. The first input that fails is left in the current folder.
"""

import gzip
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

try:
    import atheris
except ImportError:
    print('error: fuzzing needs atheris, which is not installed; run pip install -e ".[fuzz]"', file=sys.stderr)
    sys.exit(2)

with atheris.instrument_imports(include=["mnist_lightning.data.idx"]):
    from mnist_lightning.data.idx import DTYPES, GZIP_MAGIC, IDXError, read_idx, write_idx

MEMORY = Path("/dev/shm")  # a file in memory takes a tenth of the time of one on a disk


def main() -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        child = os.fork()
        if child == 0:
            fuzz(Path(name))
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the child, which reports what it has done
        _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


def fuzz(folder: Path) -> None:
    """Does not return: libFuzzer ends the process, cleaning up nothing, which is why it has a process of its own."""
    arguments = sys.argv
    if all(argument.startswith("-") for argument in sys.argv[1:]):
        write_seeds(folder / "corpus")
        arguments = [*sys.argv, str(folder / "corpus")]
    atheris.Setup(arguments, lambda data: check(data, folder))
    atheris.Fuzz()


def write_seeds(folder: Path) -> None:
    """Writes a small valid file for every type, raw and gzipped, and for ranks from 0 to 64."""
    folder.mkdir()
    shapes = [(), (0,), (3,), (2, 3), (2, 2, 2), (1,) * 64]
    arrays = [np.arange(6).reshape(2, 3).astype(dtype.newbyteorder("=")) for dtype in DTYPES.values()]
    arrays += [np.ones(shape, np.uint8) for shape in shapes]
    for number, array in enumerate(arrays):
        write_idx(folder / f"{number}", array)
        write_idx(folder / f"{number}.gz", array)


def check(data: bytes, folder: Path) -> None:
    """Fails on what must not happen; an IDXError may."""
    array = read(data, folder / "input")
    gzipped = data.startswith(GZIP_MAGIC)
    if not gzipped:  # changed bytes rarely pass gzip's checksum, so they are given a right one
        assert same(array, read(gzip.compress(data, 1), folder / "input"))
    if array is not None:
        for name in ("written", "written.gz"):
            write_idx(folder / name, array)
            assert same(array, read_idx(folder / name))
        assert (folder / "written").read_bytes() == (gzip.decompress(data) if gzipped else data)


def read(data: bytes, path: Path) -> np.ndarray[Any, Any] | None:
    path.write_bytes(data)
    try:
        return read_idx(path)
    except IDXError:
        return None


def same(one: np.ndarray[Any, Any] | None, other: np.ndarray[Any, Any] | None) -> bool:
    """Compares bits, where == would say that NaN differs from NaN."""
    if one is None or other is None:
        return one is other
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


if __name__ == "__main__":
    main()
