"""What the user got wrong ends in a line and exit code 2; bugs keep their traceback."""

import io
import os
import sys

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from mnist_lightning.console import messages
from mnist_lightning.errors import UserError


@pytest.fixture(autouse=True)
def loud(monkeypatch):
    """Leaves this process's warnings, logs and threads as they are."""
    monkeypatch.setattr(messages, "quiet", lambda: None)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("expected this,\n  got that"), "error: expected this, got that"),
        (OSError("the pipe broke"), "error: the pipe broke"),
        (
            PermissionError(13, "Permission denied", b"a.ckpt"),
            "error: cannot use a.ckpt: Permission denied; check that you may use it",
        ),
        (
            FileNotFoundError(2, "No such file", "a.yaml"),
            "error: cannot use a.yaml: No such file; check that it is",
        ),
    ],
)
def test_what_the_user_got_wrong_ends_in_a_line(capsys, error, line):
    with pytest.raises(SystemExit) as end, messages.one_line_errors():
        raise error
    out, err = capsys.readouterr()
    (said,) = err.splitlines()
    assert (end.value.code, out) == (2, "")
    assert said.startswith(line)


def test_a_bug_keeps_its_traceback(capsys):
    with pytest.raises(ZeroDivisionError), messages.one_line_errors():
        1 / 0  # noqa: B018
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("as_lightning_does", [False, True])
def test_ctrl_c_ends_without_a_word(capsys, as_lightning_does):
    with pytest.raises(SystemExit) as end, messages.one_line_errors():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            if as_lightning_does:
                sys.exit(1)
            raise
    assert (end.value.code, *capsys.readouterr()) == (130, "", "")


def test_another_exit_keeps_its_code():
    with pytest.raises(SystemExit, match="143"), messages.one_line_errors():
        raise SystemExit(143)


def test_who_wants_no_more_lines_ends_it_without_a_word(capsys, monkeypatch):
    reads, writes = os.pipe()
    os.close(reads)
    with open(writes, "w") as pipe:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", pipe)
        with pytest.raises(SystemExit, match="141"), messages.one_line_errors():
            print("what nobody reads")
        print("nor this, as the process ends", flush=True)
    assert capsys.readouterr().err == ""


def test_a_name_that_a_terminals_encoding_lacks_is_escaped(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    with messages.one_line_errors():
        print("Ziffern für alle")
    assert terminal.buffer.getvalue() == b"Ziffern f\\xfcr alle\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no such precision"), "the Trainer refuses these options: no such precision"),
        (ValueError("No supported gpu backend found!"), "expected a GPU for --accelerator, but found none; use .*"),
        (
            MisconfigurationException("`CUDAAccelerator` can not run on your system"),
            "expected a GPU for --accelerator, but found none; use .*",
        ),
        (UserError("expected this, got that"), "expected this, got that"),
    ],
)
def test_what_a_trainer_refuses_is_said_in_a_users_words(error, line):
    with pytest.raises(UserError, match=f"^{line}$"), messages.trainer_errors():
        raise error
