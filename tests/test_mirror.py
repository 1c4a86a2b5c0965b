"""One file from mirrors that do whatever mirrors can do."""

import gzip
import hashlib
import tracemalloc

import mirrors as answers
import pytest
from mirrors import DEAD, serving

from mnist_lightning import mirror
from mnist_lightning.mirror import DownloadError

NAME = "digits.gz"
BODY = gzip.compress(bytes(range(256)) * 100, mtime=0)
LARGE = "sent more than 16,777,216 bytes, and the file has fewer"
FAULTS = {  # what a mirror can do, and what is said about it
    answers.not_found: "status 404",
    answers.unavailable: "status 503",
    answers.html: "wrong SHA-256",
    answers.wrong_bytes: "wrong SHA-256",
    answers.gzip_bomb: "wrong SHA-256",
    answers.truncated: "broke",
    answers.nothing_of_it: "broke",
    answers.redirects: "redirects in a circle",
    answers.hangs_up: "no connection",
    answers.more_than_the_file: LARGE,
    answers.endless: LARGE,
    answers.endless_chunks: LARGE,
    answers.promises_a_terabyte: LARGE,
}
SLOW = {
    answers.says_nothing: "no answer within 0.25 s",
    answers.stalls: "no answer within 0.25 s",
    answers.stalls_halfway: "no answer within 0.25 s",
    answers.drips: "fewer than 1,000 bytes per second",
}
UNUSUAL = (answers.says_what_a_gz_is, answers.packs_what_may_be_packed, answers.small_chunks)
NOWHERE = {  # a name that never is one, RFC 6761; and addresses that are none
    "http://no-such-host.invalid/": "no connection",
    **dict.fromkeys(("nonsense", "ftp://127.0.0.1/", "http://[::1/", f"http://{'a' * 64}.org/"), ""),
}


@pytest.fixture
def mirrors(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with serving({NAME: BODY}) as server:
        yield server


def fetch(folder, *addresses):
    """Fetches the file into a folder; where that fails, nothing is in it, and what each mirror did is returned."""
    try:
        mirror.fetch(NAME, hashlib.sha256(BODY).hexdigest(), folder, addresses)
    except DownloadError as error:
        assert list(folder.iterdir()) == []
        # no mirror gave NAME (URL: FAULT; URL: FAULT); put the four files into a folder by hand
        begin, *said, end = str(error).replace("(", "; ", 1).replace("); ", "; ").split("; ")
        assert (begin, end) == (f"no mirror gave {NAME} ", "put the four files into a folder by hand")
        return dict(zip(addresses, said, strict=True))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {NAME: BODY}
    return {}


def each(table):
    return pytest.mark.parametrize("answer", table, ids=lambda answer: answer.__name__)


@each(FAULTS)
def test_a_bad_answer_is_told_and_the_next_mirror_gives_the_right_bytes(tmp_path, mirrors, answer):
    mirrors.answers["bad"] = answer
    said = fetch(tmp_path, mirrors["bad"], DEAD)
    assert said[mirrors["bad"]].startswith(mirrors["bad"]) and FAULTS[answer] in said[mirrors["bad"]]
    assert said[DEAD] == f"{DEAD}{NAME}: no connection"
    assert mirrors.sent < 2 * mirror.MAX_SIZE
    assert not fetch(tmp_path, mirrors["bad"], mirrors["good"])
    assert set(mirrors.requests) == {f"/bad/{NAME}", f"/good/{NAME}"}


@each(SLOW)
def test_a_mirror_that_stalls_is_given_up(tmp_path, mirrors, monkeypatch, answer):
    monkeypatch.setattr(mirror, "TIMEOUT", 0.25)
    mirrors.answers["bad"] = answer
    assert SLOW[answer] in fetch(tmp_path, mirrors["bad"])[mirrors["bad"]]
    del mirrors.answers["bad"]
    assert not fetch(tmp_path, mirrors["bad"])


def test_after_a_mirror_that_stalls_the_next_one_gives_the_right_bytes(tmp_path, mirrors, monkeypatch):
    monkeypatch.setattr(mirror, "TIMEOUT", 0.25)
    mirrors.answers["bad"] = answers.stalls_halfway
    assert not fetch(tmp_path, mirrors["bad"], mirrors["good"])
    assert mirrors.requests == [f"/bad/{NAME}", f"/good/{NAME}"]


@pytest.mark.parametrize("address", NOWHERE)
def test_after_an_address_that_leads_nowhere_the_next_mirror_gives_the_right_bytes(tmp_path, mirrors, address):
    said = fetch(tmp_path, address)[address]
    assert said.startswith(address) and NOWHERE[address] in said and "SHA-256" not in said
    assert not fetch(tmp_path, address, mirrors["good"])


def test_a_secure_connection_that_fails_is_not_called_none(tmp_path, mirrors):
    address = mirrors["good"].replace("http:", "https:")
    assert "no secure connection" in fetch(tmp_path, address)[address]


@each(UNUSUAL)
def test_an_unusual_way_to_send_the_right_bytes_is_right(tmp_path, mirrors, answer):
    mirrors.answers["first"] = answer
    assert not fetch(tmp_path, mirrors["first"])


def test_mirrors_are_tried_in_order_and_only_until_one_is_right(tmp_path, mirrors):
    assert not fetch(tmp_path, mirrors["first"].rstrip("/"), mirrors["second"])  # with a slash at its end, or without
    assert mirrors.requests == [f"/first/{NAME}"]


def test_with_no_mirrors_at_all_a_download_is_an_error(tmp_path):
    with pytest.raises(DownloadError):
        mirror.fetch(NAME, "", tmp_path, [])


def test_a_redirect_is_followed_without_reading_what_it_says(tmp_path, mirrors):
    mirrors.answers["bad"] = answers.endless_redirect
    assert not fetch(tmp_path, mirrors["bad"])
    assert mirrors.requests == [f"/bad/{NAME}", f"/good/{NAME}"]
    assert mirrors.sent < mirror.MAX_SIZE


def test_nothing_that_a_mirror_sends_is_unpacked(tmp_path, mirrors):
    mirrors.answers["bad"] = answers.gzip_bomb
    tracemalloc.start()
    try:
        assert not fetch(tmp_path, mirrors["bad"], mirrors["good"])
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()
