"""What a run's numbers depend on besides its options and its data."""

import platform
import subprocess
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.utils import collect_env


def environment(device: torch.device) -> dict[str, Any]:
    """Returns the versions of Python, of the packages and of this code, the device, the threads, and the date."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # with the CUDA that it was built for, which its package's metadata leave out
        **{package: version(package) for package in ("lightning", "torchmetrics", "numpy")},
        **identity(device),
        "threads": torch.get_num_threads(),
        "date": datetime.now().astimezone().isoformat(" ", "seconds"),
        "git_commit": git_commit(Path(__file__)),
    }


def identity(device: torch.device) -> dict[str, Any]:
    """Returns the name of a device and what its numbers depend on: a CPU's vector instructions, CUDA's versions."""
    if device.type == "cpu":
        return {"device": f"{platform.machine()} CPU, {torch.backends.cpu.get_cpu_capability()}"}
    if device.type == "mps":
        return {"device": torch.backends.mps.get_name()}
    named = {"device": getattr(torch.get_device_module(device), "get_device_name", str)(device)}
    if device.type != "cuda":
        return named
    driver = collect_env.get_nvidia_driver_version(collect_env.run)
    return {**named, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "driver": driver}


def git_commit(code: Path) -> str | None:
    """Returns the commit of a file of code, with a plus sign when files were changed since, or None outside of git."""
    git = ["git", "-C", str(code.parent)]
    mine = [*git, "ls-files", "--error-unmatch", code.name]  # or it is installed within a repository of others
    commit = [*git, "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        subprocess.run(mine, capture_output=True, check=True)
        return subprocess.run(commit, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
