"""Plain functions that the tests share."""

import atexit
import functools
import multiprocessing
import os
import re
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import lightning.pytorch as L
import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnist_lightning.data.datamodule import MNISTDataModule
from mnist_lightning.data.format import FILES
from mnist_lightning.data.idx import write_idx
from mnist_lightning.model.classifier import MNISTClassifier
from mnist_lightning.training.chunks import StepsPerExecution
from mnist_lightning.training.resuming import CheckedStates

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = (path.relative_to(ROOT).with_suffix("") for path in ROOT.glob("mnist_lightning/**/*.py"))
MODULES = sorted(".".join(path.parts) for path in LIBRARY)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
CHROMIUM_FLAGS += ["--disable-background-networking", "--disable-component-update"]


def make_digits(count, seed=0):
    """Images (count, 28, 28) and labels (count,), uint8: one blocky pattern per class, the same for every seed, and
    noise. A small net learns them within an epoch or two; nothing learns them perfectly from one image."""
    templates = np.random.default_rng(0).integers(0, 2, (10, 7, 7)).repeat(4, axis=1).repeat(4, axis=2)
    random = np.random.default_rng((1, seed))
    labels = random.permutation(np.arange(count) % 10).astype(np.uint8)
    images = 120 * templates[labels] + random.integers(0, 136, (count, 28, 28))
    return images.astype(np.uint8), labels


def write_dataset(folder, train=600, test=100, seed=0, gz=False):
    """Writes four files in MNIST's format and returns their folder. Every class comes equally often."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = *make_digits(train, 2 * seed), *make_digits(test, 2 * seed + 1)
    for name, array in zip(FILES, arrays, strict=True):
        write_idx(folder / (f"{name}.gz" if gz else name), array)
    return folder


def save_classifier(model, path, data=None):
    """Writes a checkpoint of a classifier as it is, trained or not, on data that it then knows."""
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    checkpoint["datamodule_hyper_parameters"] = dict((data or MNISTDataModule()).hparams)
    if data:
        checkpoint[MNISTDataModule.__qualname__] = data.state_dict()
    torch.save(checkpoint, path)
    return path


def quiet_trainer(**options):
    """A Trainer on the CPU that logs, saves and shows nothing."""
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return L.Trainer(**{"accelerator": "cpu", "num_sanity_val_steps": 0, **dict.fromkeys(off, False), **options})


def train_checkpoint(path, data_dir, **model):
    """Writes a checkpoint of a classifier that was trained for an epoch."""
    torch.manual_seed(0)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(MNISTClassifier(**model), MNISTDataModule(str(data_dir)))
    trainer.save_checkpoint(path)
    return path


def fit(folder, *, steps="auto", seed=0, data=None, trainer=None, **model):
    """Returns a classifier that was trained for an epoch, or as the Trainer's options say, in chunks of as many steps.

    Each step is logged, where there is a logger.
    """
    L.seed_everything(seed, verbose=False)
    module = MNISTClassifier(**model)
    options = {"max_epochs": 1, "log_every_n_steps": 1, **(trainer or {})}
    callbacks = [StepsPerExecution(steps), CheckedStates(), *options.pop("callbacks", [])]
    quiet_trainer(callbacks=callbacks, **options).fit(module, MNISTDataModule(str(folder), **(data or {})))
    return module


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Script:
    """A script that runs as a user would run it from the folder ``cwd``.

    Its process is forked from a server that has imported what scripts import and has run none of it: 0.1 s in place of
    4. Its signals, limits, environment, exit code and output are its own. ``real`` starts Python anew.
    """

    FORKS = multiprocessing.get_context("forkserver")
    FORKS.set_forkserver_preload(["helpers", *MODULES])

    def __init__(self, name, *args, cwd, env=None, real=False, max_file_size=None):
        self.args = [str(ROOT / "scripts" / name), *map(str, args)]
        self._out, self._err = (tempfile.NamedTemporaryFile("r") for _ in range(2))  # noqa: SIM115  # as long as this
        streams = (os.devnull, self._out.name, self._err.name)
        job = (self.args, str(cwd), {**os.environ, **(env or {})}, streams, real, max_file_size)
        self._process = self.FORKS.Process(target=_become, args=job)
        self._process.start()
        self.pid = self._process.pid

    @property
    def exit_code(self):
        """None while it runs, and a signal's negative number if one ended it."""
        return self._process.exitcode

    @property
    def printed(self):
        return Path(self._out.name).read_text()

    def wait_for(self, pattern):
        """Waits until it has printed that, or has ended; or for two minutes, as :meth:`result` does."""
        end = time.monotonic() + 120
        while self.exit_code is None and not re.search(pattern, self.printed):
            time.sleep(0.001)
            assert time.monotonic() < end, f"{self.args} has not printed {pattern} within 120 s, but {self.printed}"
        return self

    def send_signal(self, signum):
        os.kill(self.pid, signum)
        return self

    def kill(self):
        self._process.kill()

    def result(self, timeout=120):
        """Waits for its end, and returns a CompletedProcess."""
        self._process.join(timeout)
        if self.exit_code is None:
            self._process.kill()
            raise TimeoutError(f"{self.args} has not ended within {timeout} s; it printed {self.printed}")
        return subprocess.CompletedProcess(self.args, self.exit_code, self.printed, self._err.read())


def _become(args, cwd, env, streams, real, max_file_size):
    """Makes a forked process what ``python ARGS`` in that folder would be."""
    os.chdir(cwd)
    for number, path in enumerate(streams):
        os.dup2(os.open(path, os.O_RDWR), number)
    if max_file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_size, max_file_size))
    if real:
        os.execve(sys.executable, [sys.executable, *args], env)
    subprocess.Popen = _Popen
    try:
        _run(args, env, str(Path(args[0]).parent), *filter(None, env.get("PYTHONPATH", "").split(":")))
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out


def _run(args, env, *path):
    """Runs a file in this process, as a Python with this environment would that looks for modules there first."""
    os.environ.clear()
    os.environ.update(env)
    sys.stdout = os.fdopen(1, "w", closefd=False)  # the server's may be a terminal's
    sys.argv, sys.path[:1] = args, path
    runpy.run_path(args[0], run_name="__main__")


class _Popen(subprocess.Popen):
    """A process that a forked script starts: its sweep's workers are forked too, others start as they are."""

    def __init__(self, command, *args, env=None, **options):
        worker = "mnist_lightning.sweeps.worker" in command
        fork = {"preexec_fn": functools.partial(_work, command, env)} if worker else {}
        super().__init__(command, *args, env=env, **options, **fork)


def _work(command, env):
    """Makes a forked process what ``python -P -m mnist_lightning.sweeps.worker ...`` would be, to its end."""
    _, _, _, module, *args = command
    os.closerange(3, 1024)  # the script's own, and the pipe in which Popen waits for a new Python
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.stdin = os.fdopen(0, closefd=False)
    code = 0
    try:
        _run([sys.modules[module].__file__, *args], env)
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        code = 1
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def run_script(name, *args, cwd, env=None, real=None, timeout=120):
    """Runs ``scripts/NAME`` from the folder ``cwd`` to its end; with an environment of its own, in a new Python."""
    return Script(name, *args, cwd=cwd, env=env, real=env is not None if real is None else real).result(timeout)


def ok(result):
    """What a script that had nothing to complain of printed."""
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def refused(result, *words):
    """The one line of a script that was asked for what cannot be: exit code 2, no traceback."""
    assert result.returncode == 2, result.stdout + result.stderr
    (line,) = result.stderr.splitlines()
    for word in ("error: ", *words):
        assert word in line
    return line


def scalars(log_dir):
    """What TensorBoard would show of a run: {tag: [(step, value), ...]}, in the order it was written.

    It reads files in the order of their names, which end in the time and in the process's count of them. Tests that
    write more than ten in a second would have the tenth read before the ninth, so they are read by other names.
    """
    files = sorted(Path(log_dir).glob("events.*"), key=lambda path: path.stat().st_mtime_ns)
    with tempfile.TemporaryDirectory() as folder:
        for number, path in enumerate(files):
            Path(folder, f"tfevents.{number:03}").symlink_to(path.resolve())
        events = EventAccumulator(folder, size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
