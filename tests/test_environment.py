import subprocess

import torch

from mnist_lightning.environment import git_commit, identity


def test_a_record_says_which_device_and_which_versions_of_its_libraries(monkeypatch):
    for name, value in {
        "torch.cuda.get_device_name": lambda device: "NVIDIA A100",
        "torch.xpu.get_device_name": lambda device: "Intel Max 1550",
        "torch.backends.mps.get_name": lambda: "Apple M3",
        "torch.backends.cudnn.version": lambda: 90100,
        "torch.utils.collect_env.get_nvidia_driver_version": lambda run: "550.54.15",
        "torch.version.cuda": "12.4",
        "torch.backends.cpu.get_cpu_capability": lambda: "AVX512",
        "platform.machine": lambda: "x86_64",
    }.items():
        monkeypatch.setattr(name, value)
    versions = {"cuda": "12.4", "cudnn": 90100, "driver": "550.54.15"}
    assert identity(torch.device("cuda", 0)) == {"device": "NVIDIA A100", **versions}
    assert identity(torch.device("cpu")) == {"device": "x86_64 CPU, AVX512"}
    assert identity(torch.device("xpu")) == {"device": "Intel Max 1550"}
    assert identity(torch.device("mps")) == {"device": "Apple M3"}


def test_the_commit_is_that_of_the_repository_that_the_code_belongs_to(tmp_path):
    code, installed = (tmp_path / name / "it.py" for name in ("clone", "clone/.venv"))
    installed.parent.mkdir(parents=True)
    code.touch()
    assert git_commit(code) is None
    git = ["git", "-C", code.parent, "-c", "user.name=A", "-c", "user.email=a@example.com"]
    for command in (["init", "-q"], ["add", "it.py"], ["commit", "-q", "-m", "All"]):
        subprocess.run([*git, *command], check=True)
    installed.touch()
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert (git_commit(code), git_commit(installed)) == (head, None)
    code.write_text("# changed")
    assert (git_commit(code), git_commit(installed)) == (head + "+", None)
