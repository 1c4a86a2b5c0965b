"""Files that are whole under their own name, or not there."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Gives a file beside the one asked for, and moves it over that one when all went well; else an older one stays.

    Raises:
        OSError: It cannot be written or moved.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def write(path: Path, content: str | bytes) -> None:
    """Writes a file, whole.

    Raises:
        OSError: It cannot be written; an older one stays.
    """
    with whole(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
