"""Imports without garbage collection, and with the collector and Ctrl-C as they were once they are over."""

import gc
import os
import signal

import pytest

from mnist_lightning.console.startup import importing


@pytest.fixture(autouse=True)
def thawed():
    yield
    gc.unfreeze()


def test_nothing_is_collected_while_importing_and_what_was_made_is_passed_over_later():
    with importing():
        assert not gc.isenabled()
        made = [[] for _ in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() > len(made)


def test_ctrl_c_ends_the_process_while_importing_and_is_caught_again_after_an_import_that_failed():
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(ImportError), importing():
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
        raise ImportError
    assert (signal.getsignal(signal.SIGINT), gc.isenabled()) == (handler, True)


@pytest.mark.parametrize(
    ("given", "turns"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_threads_wait_quietly_unless_the_user_says_how(given, turns, monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with importing():
        assert os.environ.get("GOMP_SPINCOUNT") == turns
