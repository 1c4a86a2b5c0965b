"""What the user got wrong ends in a line and exit code 2; bugs keep their traceback."""

import pytest

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
            "error: cannot use a.ckpt: Permission denied; check that",
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


def test_ctrl_c_ends_without_a_word(capsys):
    with pytest.raises(SystemExit) as end, messages.one_line_errors():
        raise KeyboardInterrupt
    assert (end.value.code, *capsys.readouterr()) == (130, "", "")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no such precision"), "the Trainer refuses these options: no such precision"),
        (ValueError("No supported gpu backend found!"), "expected a GPU for --accelerator gpu, but found none; use .*"),
        (UserError("expected this, got that"), "expected this, got that"),
    ],
)
def test_what_a_trainer_refuses_is_said_in_a_users_words(error, line):
    with pytest.raises(UserError, match=f"^{line}$"), messages.trainer_errors():
        raise error
