"""IDX files <-> NumPy arrays.

An IDX file is a header and the values, all big-endian, the last index changing fastest: two zero bytes, a byte for the
type of the values, a byte for the number of dimensions, one uint32 for each dimension's size, then the values. (The
format's home, yann.lecun.com/exdb/mnist, is gone; this is all it said.)

Reading is strict, because a file that is almost right is a wrong one: too few bytes are an error, and so is one too
many. Nothing is allocated on the word of a header: memory grows with the bytes that are really there, and a gzip that
would unpack to far more than its own size is refused.
"""

import gzip
import math
import os
import struct
import zlib
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from mnist_lightning.errors import UserError

# The type byte of the header, and the NumPy type of the values that follow it.
DTYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
MAX_RANK = 64  # NumPy's own limit; the format's is 255
READ_SIZE = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"
# A gzip can unpack to 1,000 times its size, so that a small file could fill the memory. MNIST's unpack to 5 times.
GZIP_RATIO = 100
GZIP_ALLOWANCE = 64 << 20  # bytes that any gzip may unpack to: small and harmless, and zeros shrink well

ByteStream = BufferedReader | gzip.GzipFile


class IDXError(UserError):
    """A file is not a whole and valid IDX file, or an array cannot be written as one."""


def read_idx(path: str | os.PathLike[str]) -> np.ndarray[Any, Any]:
    """Reads one IDX file.

    Args:
        path: The file, gzipped or not; its first bytes tell, not its name.

    Returns:
        A writable array in the machine's byte order, of the type and shape that the header states.

    Raises:
        IDXError: The file is not IDX, is damaged, holds fewer or more bytes than its header states, or is a gzip that
            would unpack to more than 64 MiB and more than 100 times its size.
        OSError: The file cannot be opened or read.
    """
    path = Path(path)
    with path.open("rb") as file:
        if file.peek(2)[:2] != GZIP_MAGIC:
            return _read_values(file, path, math.inf)
        limit = max(GZIP_ALLOWANCE, GZIP_RATIO * os.fstat(file.fileno()).st_size)
        try:
            with gzip.GzipFile(fileobj=file) as unzipped:
                return _read_values(unzipped, path, limit)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise IDXError(
                f"{path}: expected a whole gzip file, but it is damaged ({error}); fetch it again"
            ) from error


def write_idx(path: str | os.PathLike[str], array: np.ndarray[Any, Any]) -> None:
    """Writes one array as an IDX file, gzipped when the name ends in ``.gz``. The same array gives the same bytes.

    A gzip that unpacks to more than 64 MiB and more than 100 times its size has to be unpacked before it is read again.

    Args:
        path: The file to write; an existing one is replaced.
        array: uint8, int8, int16, int32, float32 or float64, of at most 64 dimensions.

    Raises:
        IDXError: IDX has no code for the array's type, or cannot state its shape.
        OSError: The file cannot be written.
    """
    code = next((code for code, dtype in DTYPES.items() if dtype == array.dtype.newbyteorder(">")), None)
    if code is None:
        known = ", ".join(dtype.name for dtype in DTYPES.values())
        raise IDXError(f"{path}: IDX holds {known}; got an array of {array.dtype}; convert it first")
    if any(size >= 1 << 32 for size in array.shape):
        raise IDXError(f"{path}: IDX states sizes below 2^32; got an array of shape {array.shape}; split it")
    header = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    data = header + array.astype(DTYPES[code]).tobytes()
    Path(path).write_bytes(gzip.compress(data, mtime=0) if str(path).endswith(".gz") else data)


def _read_values(file: ByteStream, path: Path, limit: float) -> np.ndarray[Any, Any]:
    """Reads an IDX file from its first byte to its last, if its values are no more than ``limit`` bytes."""
    dtype, shape = _read_header(file, path)
    size = dtype.itemsize * math.prod(shape)
    promise = f"{path}: its header promises {dtype.name} of shape {shape}, {size:,} bytes of values"
    if size > limit:
        raise IDXError(
            f"{promise}, where a gzip of its size is trusted with {limit:,}; if that is what it should be, unpack it"
        )
    values = _read_up_to(file, size + 1)
    if len(values) != size:
        came = f"has only {len(values):,}" if len(values) < size else "has more"
        raise IDXError(f"{promise}, and it {came}; fetch it again")
    try:
        array = np.frombuffer(values, dtype).reshape(shape)
    except ValueError as error:  # sizes whose product is zero can still be too large for NumPy
        raise IDXError(f"{path}: NumPy cannot hold an array of shape {shape} ({error})") from error
    return array.astype(dtype.newbyteorder("="), copy=False)


def _read_header(file: ByteStream, path: Path) -> tuple[np.dtype[Any], tuple[int, ...]]:
    magic = bytes(_read_up_to(file, 4))
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in DTYPES or magic[3] > MAX_RANK:
        raise IDXError(
            f"{path}: expected an IDX file (two zero bytes, a type code from 0x08 to 0x0e, a number of dimensions up "
            f"to {MAX_RANK}), but it begins with {magic.hex(' ') or 'nothing'}; give the published file"
        )
    sizes = _read_up_to(file, 4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise IDXError(f"{path}: the file ends within its header of {magic[3]} dimensions; fetch it again")
    return DTYPES[magic[2]], struct.unpack(f">{magic[3]}I", sizes)


def _read_up_to(file: ByteStream, size: int) -> bytearray:
    """Reads ``size`` bytes, or all there are. In pieces, so that a lying header costs no memory."""
    data = bytearray()
    while len(data) < size and (piece := file.read(min(READ_SIZE, size - len(data)))):
        data += piece
    return data
