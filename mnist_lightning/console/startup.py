"""Starting a process fast and quietly.

Importing PyTorch and Lightning makes a million objects that live as long as the process. Python's collector looks
through them for garbage while they are made (0.5 s of the 4 that a start takes), in training, and at exit (0.8 s).

PyTorch's threads (OpenMP's) spin while they wait for one another. On cores of their own that is fast, but two runs on
the same cores slow each other fifty-fold. With a thousand turns they are as fast alone, and share fairly.
"""

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from mnist_lightning.console.imports import import_lightning


@contextmanager
def importing() -> Iterator[None]:
    """Imports without the collector, which then passes over what was made for good; Ctrl-C ends without a traceback.

    Lightning is imported first, without what it does not need, and OpenMP's threads are told to wait quietly.
    """
    if "OMP_WAIT_POLICY" not in os.environ:  # the user's own word on it
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # GNU's, which PyTorch for Linux brings
    gc.disable()
    interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        import_lightning()
        yield
    finally:
        signal.signal(signal.SIGINT, interrupt)
        gc.freeze()
        gc.enable()
