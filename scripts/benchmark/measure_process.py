"""Runs a command and prints, as JSON: seconds until it printed "epoch", until it ended, and between; peak memory (MiB).

The command has a terminal, where train.py shows a bar as soon as the first epoch begins.
A process of its own, and a small one: a child's peak memory, as Linux counts it, begins with its parent's.
"""

import json
import os
import pty
import subprocess
import sys
import time
from contextlib import suppress


def main() -> None:
    start = time.perf_counter()
    terminal, inside = pty.openpty()
    process = subprocess.Popen(sys.argv[1:], stdout=inside)
    os.close(inside)
    printed, first_epoch = b"", None
    with suppress(OSError):  # how a terminal says that nobody writes to it any more
        while piece := os.read(terminal, 1 << 16):
            printed += piece
            if first_epoch is None and b"epoch" in printed:
                first_epoch = time.perf_counter() - start
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    memory = usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)  # macOS counts bytes
    after = seconds - (first_epoch or 0.0)
    print(json.dumps({"seconds": seconds, "first_step": first_epoch, "after": after, "memory": memory}))
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
