"""Runs a command and prints, as JSON: seconds until it printed "epoch", seconds until it ended, and peak memory (MiB).

A process of its own, and a small one: a child's peak memory, as Linux counts it, begins with its parent's.
"""

import json
import os
import subprocess
import sys
import time


def main() -> None:
    start = time.perf_counter()
    process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
    assert process.stdout is not None
    printed = b""
    while b"epoch" not in printed and (piece := os.read(process.stdout.fileno(), 1 << 16)):
        printed += piece
    first_epoch = time.perf_counter() - start
    while os.read(process.stdout.fileno(), 1 << 16):
        pass
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    memory = usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)  # macOS counts bytes
    print(json.dumps({"seconds": seconds, "first_step": first_epoch, "memory": memory}))
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
