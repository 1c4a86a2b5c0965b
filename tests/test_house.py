"""The house: who may import whom, what can be torn off, what is installed, and how large rooms may get."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter

import pytest
from helpers import ROOT, train_checkpoint

LIBRARY = ROOT / "mnist_lightning"
ROOMS = ("handwriting", "deploy", "sweeps")  # that can be torn off
WINGS = tuple(f"{place}/{room}" for place in ("mnist_lightning", "tests") for room in ROOMS)
SCRIPTS = ("predict", "demo", "export", "compare", "sweep", "reproduce", "make_idx", "benchmark/pages")
WINGS += tuple(f"scripts/{name}.py" for name in SCRIPTS)


def run(*command, cwd, **env):
    """Runs Python with this environment, and returns what it printed."""
    command = [sys.executable, *map(str, command)]
    result = subprocess.run(command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def copy(folder, *parts):
    """Copies files and folders of the project, as a clone would have them."""
    folder.mkdir(exist_ok=True)
    for part in map(ROOT.joinpath, parts):
        if part.is_dir():
            shutil.copytree(part, folder / part.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(part, folder)


def files(folder):
    return {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def test_rooms_import_one_way():
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    assert "0 broken" in run("-c", code, cwd=ROOT)


@pytest.mark.slow
def test_the_wings_can_be_torn_off(tmp_path):
    copy(tmp_path, "mnist_lightning", "scripts", "configs", "tests", "pyproject.toml", "README.md")
    for wing in map(tmp_path.joinpath, WINGS):
        shutil.rmtree(wing) if wing.is_dir() else wing.unlink()
    modules = sorted(tmp_path.glob("mnist_lightning/**/*.py"))
    for wing in ROOMS:  # or an editable install of the project would give its own
        (tmp_path / f"mnist_lightning/{wing}.py").write_text("raise ImportError('it was torn off')")
    names = [".".join(path.relative_to(tmp_path).with_suffix("").parts) for path in modules]
    env = {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    imported = f"[__import__(name, fromlist=['']).__file__ for name in {names}] == {list(map(str, modules))}"
    (tmp_path / "tests/test_imports_of_all.py").write_text(f"def test_all():\n    assert {imported}\n")
    # all are collected, or it is an error; of each room that is left some run; README and this file name the wings
    rooms = ("imports_of_all", "sampler", "nets", "charts", "ensemble")
    chosen = " or ".join((*(f"test_{name}.py" for name in rooms), "checkpoint_is_all_that_test_needs"))
    options = ("-q", "-n0", "-p", "no:cacheprovider", "-m", "not slow", "-k", chosen)
    ignored = (f"--ignore=tests/test_{name}.py" for name in ("readme", "house"))
    assert "passed" in run("-m", "pytest", *options, *ignored, cwd=tmp_path, **env)


@pytest.mark.slow
def test_it_installs_with_its_pages_and_reads_digits_from_anywhere(dataset, tmp_path):
    copy(tmp_path / "clone", "mnist_lightning", "pyproject.toml", "README.md", "LICENSE")
    pip = ("-m", "pip", "-q")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, tmp_path / "clone", cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("mnist_lightning/")}
    assert packed == {str(path.relative_to(ROOT)) for path in files(LIBRARY)}
    run(*pip, "install", "--no-deps", "--target", tmp_path / "site", wheel, cwd=tmp_path)
    train_checkpoint(tmp_path / "lightning_logs/version_0/checkpoints/best.ckpt", dataset)
    example = re.search(r"^## From Python\n.*?```python\n(.*?)```", (ROOT / "README.md").read_text(), re.M | re.S)[1]
    begin = "import numpy as np, mnist_lightning\nimages = np.zeros((3, 28, 28), np.uint8)"
    end = "print(mnist_lightning.__file__, labels.shape, probabilities.shape)"
    printed = run("-c", f"{begin}\n{example}\n{end}", cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert printed == f"{tmp_path / 'site/mnist_lightning/__init__.py'} (3,) (3, 10)\n"


def lines(path):
    return len(path.read_text().splitlines())


def functions(path):
    """The functions of a file, and how many lines each has."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {f"{path.name}:{n.name}": n.end_lineno - n.lineno + 1 for n in nodes if isinstance(n, ast.FunctionDef)}


def test_rooms_files_and_functions_stay_small_enough_to_read():
    code = sorted(LIBRARY.rglob("*.py"))
    rooms = Counter(path.parent.name for path in files(LIBRARY) if path.name != "__init__.py")  # a line each
    assert {room: count for room, count in rooms.items() if count > 8} == {}
    assert {path.name: lines(path) for path in code if lines(path) > 250} == {}
    assert {name: size for path in code for name, size in functions(path).items() if size > 40} == {}
    heart = [path for path in code if path.parent.name in ("data", "model")]
    assert sum(map(lines, heart)) <= 1700
