"""Runs that are killed, stopped, spread over processes or short of disk. Real processes, real signals."""

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
import yaml
from helpers import ROOT, Script, ok, refused, run_script, scalars, write_dataset

from mnist_lightning.data.format import FILES, find
from mnist_lightning.data.idx import read_idx
from mnist_lightning.errors import UserError
from mnist_lightning.reporting import report
from mnist_lightning.training.cli import MNISTCLI
from mnist_lightning.training.run_folder import new_run

OPTIONS = ("--data.batch_size=16", "--model.dropout=0.3", "--steps_per_execution=8", "--accelerator=cpu")
OPTIONS += ("--model.hidden=[400,200]", "--model.step_size=20", "--checkpoint.every_n_steps=10")
LAST = "checkpoints/last.ckpt"


FIRST = r"epoch +1/"  # an epoch is over, and its checkpoints are written


def start(cwd, dataset, *options, until=FIRST, **how):
    """Starts a run of 35 steps to the epoch, and returns when it has printed something (or has ended)."""
    return Script("train.py", "--data.data_dir", dataset, *OPTIONS, *options, cwd=cwd, **how).wait_for(until)


def stopped(script, signum):
    """Sends a signal, waits for the end, and returns the exit code and what was printed."""
    result = script.send_signal(signum).result()
    assert result.stderr == ""
    return result.returncode, result.stdout


def finished(script):
    """Waits for the end of a run that has nothing to complain of."""
    return ok(script.result())


def state(run):
    return torch.load(run / LAST, weights_only=True)


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def assert_same_run(first, second):
    """The same weights, optimizer, schedule and random state, bit for bit; the same curves, and no step twice."""
    a, b = state(first), state(second)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "rng_state", "global_step", "epoch"):
        assert equal(a[part], b[part]), part
    one, other = scalars(first), scalars(second)
    for name in ("train/loss_step", "train/accuracy", "train/loss", "val/accuracy", "val/loss", "test/accuracy"):
        steps = [step for step, _ in other[name]]
        assert steps == sorted(set(steps)), name
        assert one[name] == other[name], name
    results = [json.loads((run / "test" / "metrics.json").read_text()) for run in (first, second)]
    assert min(result["training"].pop("seconds") for result in results) > 0
    assert results[0] == results[1]


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """The folder of a run of 50 epochs that nothing happened to."""
    cwd = tmp_path_factory.mktemp("whole")
    finished(start(cwd, dataset, "--max_epochs=50"))
    return cwd / "lightning_logs" / "version_0"


def saved(cwd):
    """When the newest states of the runs were written."""
    return [path.stat().st_mtime_ns for path in cwd.glob(f"lightning_logs/*/{LAST}")]


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_as_if_it_had_not_been(dataset, tmp_path, whole):
    options = ("--max_epochs=50", "--ckpt_path=last")
    moments = random.Random(0)
    reached = []
    for _ in range(20):
        before = saved(tmp_path)
        script = start(tmp_path, dataset, *options, until="")
        while saved(tmp_path) == before and script.exit_code is None:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.12))
        killed = script.send_signal(signal.SIGKILL).result()
        assert killed.returncode == -signal.SIGKILL, "it ended before it was killed: give it more epochs"
        reached += [state(run)["global_step"] for run in tmp_path.glob("lightning_logs/*") if (run / LAST).exists()]
    assert len(set(reached)) > 10
    assert any(step % 35 for step in reached), "no kill left a state from the middle of an epoch"
    finished(start(tmp_path, dataset, *options))
    (run,) = [path.parents[1] for path in tmp_path.glob("lightning_logs/*/test/metrics.json")]
    assert_same_run(whole, run)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_asked_to_stop_saves_says_how_to_go_on_and_goes_on_exactly(dataset, tmp_path, whole, signum, code):
    script = start(tmp_path, dataset, "--max_epochs=50")
    time.sleep(0.3)  # well into the run, wherever that is
    ended, out = stopped(script, signum)
    assert ended == code
    run = tmp_path / "lightning_logs" / "version_0"
    assert f"stopped by {signal.Signals(signum).name} at optimizer step {state(run)['global_step']:,}" in out
    resume = out.strip().splitlines()[-1].split()
    assert resume[:2] == ["python", "scripts/train.py"]
    ok(run_script("train.py", *resume[2:], cwd=tmp_path))
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]
    assert_same_run(whole, run)


TWO_SIGNALS = """
import signal, sys
import lightning.pytorch as L
from mnist_lightning.training.cli import MNISTCLI

class InOneStep(L.Callback):
    works_with_chunks = True

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 45:
            signal.raise_signal(signal.SIGINT)
            print("one", flush=True)
            signal.raise_signal(signal.SIGINT)

cli = MNISTCLI(sys.argv[1:])
cli.trainer.callbacks.append(InOneStep())
cli.fit()
"""


def test_a_second_ctrl_c_ends_at_once_and_leaves_whole_files(dataset, tmp_path):
    (tmp_path / "two_signals.py").write_text(TWO_SIGNALS)
    result = run_script(tmp_path / "two_signals.py", f"--data.data_dir={dataset}", *OPTIONS, cwd=tmp_path)
    assert "one" in result.stdout, result.stderr
    assert result.returncode == -signal.SIGINT
    checkpoints = list(tmp_path.glob("lightning_logs/version_0/checkpoints/*.ckpt"))
    assert sorted(path.name for path in checkpoints) == ["best.ckpt", "last.ckpt"]
    assert [torch.load(path, weights_only=True)["global_step"] for path in sorted(checkpoints)] == [35, 45]


def test_a_run_goes_on_where_its_folder_was_moved_to_and_remembers_its_best(dataset, tmp_path):
    stopped(start(tmp_path, dataset, "--max_epochs=50"), signal.SIGINT)
    moved = (tmp_path / "lightning_logs").rename(tmp_path / "moved") / "version_0"
    best = torch.load(moved / "checkpoints/best.ckpt", weights_only=True)
    options = ("--data.data_dir", dataset, *OPTIONS, "--max_epochs", state(moved)["epoch"] + 1)
    ok(run_script("train.py", *options, "--ckpt_path", moved / LAST, cwd=tmp_path))
    (callback,) = [value for key, value in state(moved)["callbacks"].items() if key.startswith("BestCheckpoint")]
    (before,) = [value for key, value in best["callbacks"].items() if key.startswith("BestCheckpoint")]
    assert callback["best_model_path"] == str(moved / "checkpoints/best.ckpt")
    assert callback["best_model_score"] >= before["best_model_score"] > 0


def test_last_begins_from_the_start_when_there_is_nothing_of_this_experiment(dataset, tmp_path):
    options = ("--data.data_dir", dataset, *OPTIONS, "--max_epochs=1", "--ckpt_path=last")
    for lr in ("0.001", "0.002"):  # another learning rate is another experiment
        result = run_script("train.py", *options, f"--model.lr={lr}", cwd=tmp_path)
        assert result.returncode == 0
        assert "no checkpoint of this experiment" in result.stderr
    ok(run_script("train.py", *options, "--model.lr=0.001", "--max_epochs=2", cwd=tmp_path))
    assert state(tmp_path / "lightning_logs" / "version_0")["global_step"] == 70
    assert len(list(tmp_path.glob("lightning_logs/*"))) == 2


DISTORTED = ("--data.elastic=0.7", "--data.rotation=10", "--model.scheduler=onecycle")
CONVNET = ("--model.net=convnet", "--model.channels=[4,4]", "--model.hidden=[16]")


# what the scripts silence too: see quiet() in console.py
ignoring_that_the_run_was_begun = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


class StopsItself(L.Callback):
    """Has the process ask itself to stop, as a chunk begins: the same moment each time."""

    works_with_chunks = True

    def __init__(self, chunk):
        self.left = chunk

    def on_train_batch_start(self, *_):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def train_and_test(run, dataset, *options, stop=0):
    """What train.py does, in this process: three epochs of nine chunks, on in its folder if there is one."""
    cli = MNISTCLI([f"--data.data_dir={dataset}", *OPTIONS, "--max_epochs=3", *options])
    cli.trainer.callbacks.append(StopsItself(stop))
    cli.fit(run)
    training = cli.training
    data = cli.datamodule
    results = report.metrics(cli.test(), data.dataset_name, data.test_sha256)
    report.write_json(results | {"training": training}, run / "test")


@pytest.fixture(scope="module", params=[DISTORTED, CONVNET], ids=["distorted-onecycle", "batch norm"])
def uninterrupted(request, dataset, tmp_path_factory):
    """Options with more to remember, and the folder of a run with them that nothing happened to."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    train_and_test(run, dataset, *request.param)
    return request.param, run


@ignoring_that_the_run_was_begun
@pytest.mark.parametrize("chunk", [1, 12, 18, 27])  # the first, one in an epoch, the last of an epoch and of the run
def test_distortions_schedules_by_the_step_and_batch_norm_go_on_exactly_too(dataset, tmp_path, uninterrupted, chunk):
    options, whole = uninterrupted
    run = tmp_path / "run"
    with pytest.raises(SystemExit, match="143"):
        train_and_test(run, dataset, *options, stop=chunk)
    assert state(run)["global_step"] == {1: 8, 12: 35 + 16, 18: 70, 27: 105}[chunk]
    train_and_test(run, dataset, *options)
    assert_same_run(whole, run)
    assert scalars(run)["lr"] == scalars(whole)["lr"]


@ignoring_that_the_run_was_begun
def test_onecycle_cannot_go_on_for_another_number_of_epochs(dataset, tmp_path):
    run = tmp_path / "lightning_logs" / "version_0"
    with pytest.raises(SystemExit, match="143"):
        train_and_test(run, dataset, *DISTORTED, stop=12)
    before = [(run / name).read_bytes() for name in (LAST, "config.yaml")]
    with pytest.raises(UserError, match=r"the 105 optimizer steps .* got 70; .*--max_epochs"):
        train_and_test(run, dataset, *DISTORTED, "--max_epochs=2")
    options = (f"--data.data_dir={dataset}", *OPTIONS, *DISTORTED, "--max_epochs=4", "--ckpt_path=last")
    refused(run_script("train.py", *options, cwd=tmp_path), "error: expected the 105 optimizer steps", "got 140")
    assert [(run / name).read_bytes() for name in (LAST, "config.yaml")] == before


@ignoring_that_the_run_was_begun
def test_cosine_cannot_go_on_for_another_number_of_epochs(dataset, tmp_path):
    run = tmp_path / "lightning_logs" / "version_0"
    with pytest.raises(SystemExit, match="143"):
        train_and_test(run, dataset, "--model.scheduler=cosine", "--max_epochs=3", stop=2)
    with pytest.raises(UserError, match=r"the 3 epochs of .* got 4; .*--max_epochs"):
        train_and_test(run, dataset, "--model.scheduler=cosine", "--max_epochs=4")


def test_a_run_that_goes_on_for_longer_says_so_in_its_config(dataset, tmp_path):
    options = ("--data.data_dir", dataset, *OPTIONS)
    for epochs in (1, 2):
        more = ("--max_epochs", epochs, "--ckpt_path=last")
        run_script("train.py", *options, *more, cwd=tmp_path).check_returncode()
    run = tmp_path / "lightning_logs" / "version_0"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["trainer"]["max_epochs"], config["ckpt_path"]) == (2, None)
    ok(run_script("train.py", "--config", run / "config.yaml", cwd=tmp_path))
    assert equal(state(run)["state_dict"], state(run.with_name("version_1"))["state_dict"])


def test_options_that_the_checkpoint_would_undo_are_refused(dataset, tmp_path):
    options = ("--data.data_dir", dataset, "--max_epochs=1")
    ok(run_script("train.py", *options, cwd=tmp_path))
    checkpoint = Path("lightning_logs", "version_0", LAST)
    before = sorted(tmp_path.rglob("*"))
    result = run_script("train.py", *options, "--model.lr=0.01", f"--ckpt_path={checkpoint}", cwd=tmp_path)
    refused(result, "expected --model.lr 0.001, which its optimizer resumes with, got 0.01")
    assert sorted(tmp_path.rglob("*")) == before


class Watches(L.Callback):
    """Looks after each chunk which step the newest state of a run is of."""

    works_with_chunks = True

    def __init__(self, run):
        self.run, self.steps = run, []

    def on_train_batch_end(self, *_):
        self.steps.append(state(self.run)["global_step"] if (self.run / LAST).exists() else None)


@pytest.mark.parametrize(
    ("minutes", "steps"), [(1e-9, [5, 10, 15, 20, 25, 30, 34, 34]), (60, [None] * 8), (0, [None] * 8)]
)
def test_checkpoints_come_every_so_many_minutes_too(dataset, tmp_path, minutes, steps):
    options = ("--checkpoint.every_n_steps=0", f"--checkpoint.every_n_minutes={minutes}")
    options += ("--steps_per_execution=5", "--max_epochs=1")
    cli = MNISTCLI([f"--data.data_dir={dataset}", *OPTIONS, *options])
    watches = Watches(tmp_path / "run")
    cli.trainer.callbacks.append(watches)
    cli.fit(tmp_path / "run")
    assert watches.steps == steps
    assert state(tmp_path / "run")["global_step"] == 35


def test_a_full_disk_ends_in_a_line(dataset, tmp_path):
    refused(start(tmp_path, dataset, "--max_epochs=2", max_file_size=800_000).result(), "cannot use", ".ckpt")


def test_a_disk_that_fills_up_leaves_the_last_checkpoint_whole(dataset, tmp_path):
    script = start(tmp_path, dataset, "--max_epochs=2000")
    resource.prlimit(script.pid, resource.RLIMIT_FSIZE, (800_000, 800_000))
    refused(script.result(), "cannot use", ".ckpt")
    run = tmp_path / "lightning_logs" / "version_0"
    step = state(run)["global_step"]
    assert [path.name for path in (run / "checkpoints").iterdir() if path.suffix != ".ckpt"] == []
    options = ("--config", run / "config.yaml", "--max_epochs", step // 35 + 2, "--ckpt_path=last")
    ok(run_script("train.py", *options, cwd=tmp_path))


def test_a_run_whose_folder_vanishes_ends_in_a_line(dataset, tmp_path):
    script = start(tmp_path, dataset, "--max_epochs=2000")
    (tmp_path / "lightning_logs" / "version_0").rename(tmp_path / "elsewhere")
    refused(script.result(), "lightning_logs/version_0")
    state(tmp_path / "elsewhere")


def test_a_logs_folder_that_cannot_be_is_an_error(dataset, tmp_path):
    (tmp_path / "file").touch()
    refused(start(tmp_path, dataset, "--trainer.default_root_dir=file").result(), "file")


def test_two_runs_at_once_get_a_folder_each_and_do_not_disturb_each_other(dataset, tmp_path):
    options = ("--max_epochs=1", "--model.hidden=[32]")
    both = [start(tmp_path, dataset, *options, until="") for _ in range(2)]
    for script in both:
        finished(script)
    assert_same_run(tmp_path / "lightning_logs" / "version_0", tmp_path / "lightning_logs" / "version_1")


def test_any_number_of_runs_at_once_get_a_folder_each(tmp_path):
    together = threading.Barrier(8)

    def one(_):
        together.wait()
        return new_run(tmp_path)

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(one, range(8))) == [tmp_path / f"version_{number}" for number in range(8)]


def test_a_run_records_what_its_numbers_depend_on(dataset, whole):
    record = json.loads((whole / "environment.json").read_text())
    assert record["torch"] == torch.__version__
    assert record["python"] == sys.version.split()[0]
    assert record["device"]
    assert record["threads"] == 1
    data = b"".join(read_idx(find(dataset, name)).tobytes() for name in FILES)
    assert record["dataset_sha256"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("changed", [False, True])
def test_a_run_records_the_commit_of_its_code(dataset, tmp_path, changed):
    code = tmp_path / "code"
    for folder in ("mnist_lightning", "scripts"):
        shutil.copytree(ROOT / folder, code / folder, ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", code, "-c", "user.name=A", "-c", "user.email=a@example.com"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "All"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    if changed:
        (code / "mnist_lightning" / "errors.py").open("a").write("# changed")
    command = [sys.executable, "-B", code / "scripts" / "train.py", "--data.data_dir", dataset, "--max_epochs=1"]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(code)}, check=True, capture_output=True)
    record = json.loads((tmp_path / "lightning_logs" / "version_0" / "environment.json").read_text())
    assert record["git_commit"] == head + "+" * changed


DDP = ("--devices=2", "--trainer.strategy=ddp", "--steps_per_execution=auto")


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Sizes that two processes cannot share evenly: 551 to train on in batches of 17, 50, and 101 in batches of 10."""
    return write_dataset(tmp_path_factory.mktemp("uneven") / "digits", train=601, test=101)


@pytest.mark.parametrize("more", [(), DISTORTED], ids=["", "distorted-onecycle"])
def test_two_processes_train_and_test_like_one(uneven, tmp_path, more):
    options = ("--data.data_dir", uneven, "--data.batch_size=17", "--data.eval_batch_size=10", "--accelerator=cpu")
    options += ("--max_epochs=2", "--trainer.log_every_n_steps=1", *more)
    for ddp in ((), DDP):
        out = ok(Script("train.py", *options, *ddp, cwd=tmp_path, real=bool(ddp)).result())
        assert out.count("test accuracy") == 1
    one, two = (tmp_path / "lightning_logs" / f"version_{number}" for number in (0, 1))
    assert sorted(path.name for path in tmp_path.glob("lightning_logs/*")) == ["version_0", "version_1"]
    a, b = state(one), state(two)
    assert a["global_step"] == b["global_step"] == 66
    for name, weight in a["state_dict"].items():
        if name.startswith("net."):
            assert (weight - b["state_dict"][name]).norm() <= 1e-5 * weight.norm()
    logged, again = scalars(one), scalars(two)
    for name in ("train/loss_step", "train/loss", "train/accuracy", "val/loss", "val/accuracy"):
        assert [step for step, _ in logged[name]] == [step for step, _ in again[name]]
        assert [value for _, value in again[name]] == pytest.approx([value for _, value in logged[name]], rel=1e-4)
    first, second = (json.loads((run / "test" / "metrics.json").read_text()) for run in (one, two))
    assert first["confusion_matrix"] == second["confusion_matrix"]
    assert (first["num_samples"], second["num_samples"]) == (101, 101)


def test_a_process_that_dies_ends_the_run_with_an_error(uneven, tmp_path):
    script = start(tmp_path, uneven, "--max_epochs=2000", *DDP, real=True)
    children = subprocess.run(["pgrep", "-P", str(script.pid)], capture_output=True, text=True, check=True)
    os.kill(int(children.stdout), signal.SIGKILL)
    result = script.result()
    assert result.returncode != 0
    assert result.stderr.strip()


def test_ctrl_c_stops_all_processes_and_saves(uneven, tmp_path):
    code, out = stopped(start(tmp_path, uneven, "--max_epochs=2000", *DDP, real=True), signal.SIGINT)
    assert code == 130
    assert out.count("stopped by SIGINT") == 1
    run = tmp_path / "lightning_logs" / "version_0"
    step = state(run)["global_step"]
    assert step > 0
    epochs = step // 35 + 1
    options = ("--config", run / "config.yaml", "--max_epochs", epochs, "--ckpt_path=last")
    ok(Script("train.py", *options, cwd=tmp_path, real=True).result())
    assert state(run)["global_step"] == 35 * epochs
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]


@pytest.mark.slow
def test_torchrun_starts_the_processes_too(uneven, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    options = ["--data.data_dir", uneven, "--accelerator=cpu", *DDP, "--max_epochs=1"]
    command = [*launcher, ROOT / "scripts" / "train.py", *options]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("cpu, 2 processes") == result.stdout.count("test accuracy") == 1
    assert [path.name for path in tmp_path.glob("lightning_logs/*")] == ["version_0"]
