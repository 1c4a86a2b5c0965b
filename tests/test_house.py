"""The house: who may import whom, what can be torn off, what is installed, and how large rooms may get."""

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from helpers import ROOT, train_checkpoint

LIBRARY = ROOT / "mnist_lightning"
WINGS = ("mnist_lightning/handwriting", "mnist_lightning/deploy", "tests/handwriting", "tests/deploy")
WINGS += tuple(f"scripts/{name}.py" for name in ("predict", "demo", "export"))


def run(*command, cwd, **env):
    """Runs a command of this environment, and returns what it printed."""
    result = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def tracked():
    """The files of the project, as git knows them or would."""
    git = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    return [path for path in map(Path, run(*git, cwd=ROOT).splitlines()) if (ROOT / path).is_file()]


def test_rooms_import_one_way():
    assert "0 broken" in run(Path(sys.executable).with_name("lint-imports"), "--no-cache", cwd=ROOT)


@pytest.mark.slow
def test_the_wings_can_be_torn_off(tmp_path):
    for path in tracked():
        if not str(path).startswith(WINGS):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, tmp_path / path)
    modules = [path.relative_to(tmp_path).with_suffix("") for path in tmp_path.rglob("mnist_lightning/**/*.py")]
    names = [".".join(path.parts).removesuffix(".__init__") for path in modules]
    env = {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    code = f"from importlib import import_module\nprint([import_module(name).__file__ for name in {sorted(names)}])"
    assert f"['{tmp_path}/mnist_lightning/" in run(sys.executable, "-c", code, cwd=tmp_path, **env)
    # every test is collected, and of each room that is left some run; the README and this file speak of the wings
    pytest_ = (
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "--ignore=tests/test_readme.py",
    )
    run(*pytest_, "--ignore=tests/test_house.py", "--collect-only", cwd=tmp_path, **env)
    chosen = ("data/test_sampler.py", "model/test_ensemble.py", "training/test_tensorboard.py", "scripts/test_train.py")
    run(*pytest_, *(f"tests/{name}" for name in chosen), cwd=tmp_path, **env)


@pytest.mark.slow
def test_it_installs_with_its_pages_and_reads_digits_from_anywhere(dataset, tmp_path):
    for path in tracked():
        if path.parts[0] == "mnist_lightning" or path.name in ("pyproject.toml", "README.md", "LICENSE"):
            (tmp_path / "clone" / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, tmp_path / "clone" / path)
    pip = (sys.executable, "-m", "pip", "-q")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, tmp_path / "clone", cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("mnist_lightning/")}
    assert packed == {str(path) for path in tracked() if path.parts[0] == "mnist_lightning"}
    run(*pip, "install", "--no-deps", "--target", tmp_path / "site", wheel, cwd=tmp_path)
    checkpoint = train_checkpoint(tmp_path / "best.ckpt", dataset)
    code = (
        "import numpy as np, mnist_lightning\nprint(mnist_lightning.__file__)\n"
        "from mnist_lightning.model.checkpoint import load_classifier\n"
        f"labels, probabilities = load_classifier({str(checkpoint)!r}).predict(np.zeros((3, 28, 28), np.uint8))\n"
        "print(labels.shape, probabilities.shape)"
    )
    (tmp_path / "elsewhere").mkdir()
    printed = run(sys.executable, "-c", code, cwd=tmp_path / "elsewhere", PYTHONPATH=str(tmp_path / "site"))
    assert printed.splitlines() == [str(tmp_path / "site/mnist_lightning/__init__.py"), "(3,) (3, 10)"]


def lines(path):
    return len(path.read_text().splitlines())


def functions(path):
    """The functions of a file, and how many lines each has."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {f"{path.name}:{n.name}": n.end_lineno - n.lineno + 1 for n in nodes if isinstance(n, ast.FunctionDef)}


def test_rooms_files_and_functions_stay_small_enough_to_read():
    code = sorted(LIBRARY.rglob("*.py"))
    files = [path for path in LIBRARY.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {room: count for room, count in Counter(path.parent.name for path in files).items() if count > 8} == {}
    assert {path.name: lines(path) for path in code if lines(path) > 250} == {}
    assert {name: size for path in code for name, size in functions(path).items() if size > 40} == {}
    heart = [path for path in code if path.parent.name in ("data", "model")]
    assert sum(map(lines, heart)) <= 1700
