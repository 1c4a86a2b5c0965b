"""Atomic writes: a file is complete under its own name, or an older one is still there."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a path beside the one asked for, and moves what was written there over it when all went well.

    Raises:
        OSError: It cannot be written or moved; it names ``path``, and an older file stays.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    except OSError as error:  # a full disk names no file, and others would name the unfinished one
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def atomic_write(path: Path, content: str | bytes) -> None:
    """Writes a file atomically.

    Raises:
        OSError: As :func:`atomic_path`.
    """
    with atomic_path(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
