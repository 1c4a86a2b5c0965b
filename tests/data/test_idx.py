import gzip
import math
import os
import struct
import threading
import tracemalloc
from contextlib import nullcontext, suppress
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mnist_lightning.data import download, idx
from mnist_lightning.data.format import find
from mnist_lightning.data.idx import READ_SIZE, IDXError, read_idx, write_idx
from mnist_lightning.errors import UserError

CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}
EXAMPLE = bytes.fromhex("00 00 0b 02  00 00 00 02  00 00 00 03  0001 fffe 7fff  8000 0100 0000")
EXAMPLE_VALUES = [[1, -2, 32767], [-32768, 256, 0]]


@st.composite
def arrays(draw):
    """Arrays of every type, of rank 0 to 5, with any bits in them: NaNs too."""
    dtype = np.dtype(draw(st.sampled_from(list(CODES))))
    shape = draw(st.lists(st.integers(0, 4), max_size=5))
    size = math.prod(shape) * dtype.itemsize
    # Hypothesis draws a few bytes and they are repeated: large draws are slow, and add nothing.
    pattern = draw(st.binary(min_size=1, max_size=64))
    return np.frombuffer((pattern * (size // len(pattern) + 1))[:size], dtype).reshape(shape)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("idx")


@pytest.fixture(scope="module")
def read_bytes(folder):
    """read_idx, of a file that holds the given bytes."""

    def read_bytes(data):
        (folder / "file").write_bytes(data)
        return read_idx(folder / "file")

    return read_bytes


@pytest.fixture(scope="module")
def written(folder):
    """The bytes that write_idx writes for an array."""

    def written(array, gz=False):
        path = folder / ("written.gz" if gz else "written")
        write_idx(path, array)
        return path.read_bytes()

    return written


@pytest.fixture
def peak_of():
    """The most bytes that Python and NumPy held during a call; ``words``: those of the IDXError it must end in."""

    def peak_of(call, words=None):
        tracemalloc.start()
        try:
            with pytest.raises(IDXError, match=words) if words else nullcontext():
                call()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return peak_of


def assert_same(array, expected):
    assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
    assert array.tobytes() == expected.tobytes()  # equal bits, where == would say that NaN differs from NaN


# --- the format -------------------------------------------------------------------------------------------------------


def test_a_hand_written_big_endian_file_is_read(read_bytes):
    array = read_bytes(EXAMPLE)
    assert array.dtype == np.int16
    assert array.tolist() == EXAMPLE_VALUES


def test_writing_gives_the_hand_written_bytes(written):
    assert written(np.array(EXAMPLE_VALUES, np.int16)) == EXAMPLE


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_every_type_has_the_code_of_the_format(written, name, code):
    assert written(np.zeros((3, 258), name))[:12] == bytes([0, 0, code, 2, 0, 0, 0, 3, 0, 0, 1, 2])


@given(array=arrays(), gz=st.booleans())
def test_what_was_written_is_read_again(folder, array, gz):
    path = folder / ("array.gz" if gz else "array")
    write_idx(path, array)
    assert_same(read_idx(path), array)


@given(array=arrays(), gz=st.booleans())
def test_what_is_read_is_native_and_writable(read_bytes, written, array, gz):
    result = read_bytes(written(array, gz))
    assert result.dtype.isnative
    assert result.flags.writeable
    result[...] = 1
    assert (result == 1).all()


@given(array=arrays())
def test_byte_order_and_memory_layout_make_no_difference(written, array):
    expected = written(array)
    assert written(array.astype(array.dtype.newbyteorder(">"))) == expected
    assert written(array.astype(array.dtype.newbyteorder("<"))) == expected
    assert written(array.copy(order="F")) == expected


@given(array=arrays())
def test_the_same_array_gives_the_same_gzip_whatever_its_name_and_the_time(folder, array):
    for name in ("one.gz", "another.gz"):
        write_idx(folder / name, array)
    data = (folder / "one.gz").read_bytes()
    assert data == (folder / "another.gz").read_bytes()
    assert data[3:8] == bytes(5)  # no file name in the header, and no time
    write_idx(folder / "raw", array)
    assert gzip.decompress(data) == (folder / "raw").read_bytes()


def test_a_gzip_is_known_by_its_bytes_and_not_by_its_name(tmp_path):
    (tmp_path / "raw.gz").write_bytes(EXAMPLE)
    (tmp_path / "gzipped").write_bytes(gzip.compress(EXAMPLE))
    assert read_idx(tmp_path / "raw.gz").tolist() == EXAMPLE_VALUES
    assert read_idx(tmp_path / "gzipped").tolist() == EXAMPLE_VALUES


def test_a_path_may_be_a_string(tmp_path):
    write_idx(str(tmp_path / "file.gz"), np.array(EXAMPLE_VALUES, np.int16))
    assert (tmp_path / "file.gz").read_bytes()[:2] == b"\x1f\x8b"
    assert read_idx(str(tmp_path / "file.gz")).tolist() == EXAMPLE_VALUES


def test_an_existing_file_is_replaced(tmp_path):
    write_idx(tmp_path / "file", np.zeros(1000))
    write_idx(tmp_path / "file", np.array(EXAMPLE_VALUES, np.int16))
    assert (tmp_path / "file").read_bytes() == EXAMPLE


# --- damaged files ----------------------------------------------------------------------------------------------------


@given(array=arrays(), gz=st.booleans(), data=st.data())
def test_any_truncation_is_an_error(read_bytes, written, array, gz, data):
    whole = written(array, gz)
    size = data.draw(st.integers(0, len(whole) - 1), "bytes left")
    with pytest.raises(IDXError):
        read_bytes(whole[:size])


@pytest.mark.parametrize("gz", [False, True])
def test_every_single_truncation_of_one_file_is_an_error(read_bytes, written, gz):
    whole = written(np.array(EXAMPLE_VALUES, np.int16), gz)
    for size in range(len(whole)):
        with pytest.raises(IDXError):
            read_bytes(whole[:size])


@given(array=arrays(), more=st.binary(min_size=1))
@example(array=np.zeros(0), more=b"\0")
def test_any_extension_of_a_raw_file_is_an_error(read_bytes, written, array, more):
    with pytest.raises(IDXError, match="it has more"):
        read_bytes(written(array) + more)


@given(array=arrays(), more=st.binary(min_size=1).filter(any))
@example(array=np.zeros(3), more=b"\x1f")
@example(array=np.zeros(3), more=b"\x1f\x8b")
@example(array=np.zeros(3), more=b"\0\0\x01")
@example(array=np.zeros(3), more=gzip.compress(b"\0"))
def test_any_extension_of_a_gzip_that_is_not_padding_is_an_error(read_bytes, written, array, more):
    with pytest.raises(IDXError):
        read_bytes(written(array, gz=True) + more)


@pytest.mark.parametrize("more", [b"\0", bytes(512), gzip.compress(b"")], ids=["a zero", "zeros", "an empty member"])
def test_what_gzip_itself_passes_over_after_the_end_adds_no_values(read_bytes, written, more):
    assert np.array_equal(read_bytes(written(np.arange(5.0), gz=True) + more), np.arange(5.0))


@given(array=arrays(), more=st.binary(min_size=1))
def test_too_many_values_within_a_gzip_are_an_error(read_bytes, written, array, more):
    with pytest.raises(IDXError, match="it has more"):
        read_bytes(gzip.compress(written(array) + more))


def headers():
    """What begins as an IDX file does, and may say anything after that."""
    code = st.sampled_from(list(CODES.values()))
    sizes = st.lists(st.integers(0, 3) | st.integers(0, 2**32 - 1), max_size=70)
    return st.builds(lambda code, sizes: struct.pack(f">HBB{len(sizes)}I", 0, code, len(sizes), *sizes), code, sizes)


def anything():
    raw = st.binary() | st.builds(bytes.__add__, headers(), st.binary())
    return raw | st.builds(gzip.compress, raw) | st.builds(b"\x1f\x8b\x08".__add__, st.binary())


@given(data=anything())
@example(data=b"")
@example(data=b"\x1f\x8b")
@example(data=struct.pack(">HBB64I", 0, 0x0E, 64, 0, *[2**32 - 1] * 63))  # no values, and too large for NumPy
@example(data=struct.pack(">HBB65I", 0, 0x08, 65, *[1] * 65) + b"\0")  # a valid file, and a rank that NumPy has not
def test_any_bytes_give_an_array_or_an_idx_error(read_bytes, data):
    try:
        array = read_bytes(data)
    except IDXError:
        return
    # What was accepted is really what the file says.
    raw = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    assert raw[:4] == bytes([0, 0, CODES[array.dtype.name], array.ndim])
    assert (
        raw[4:] == struct.pack(f">{array.ndim}I", *array.shape) + array.astype(array.dtype.newbyteorder(">")).tobytes()
    )


@given(array=arrays(), data=st.data())
def test_flipped_bytes_in_a_gzip_give_the_same_array_or_an_error(read_bytes, written, array, data):
    damaged = bytearray(written(array, gz=True))
    flip = st.tuples(st.integers(2, len(damaged) - 1), st.integers(1, 255))
    for position, bits in data.draw(st.lists(flip, min_size=1, max_size=4), "flips"):
        damaged[position] ^= bits
    try:
        result = read_bytes(bytes(damaged))
    except IDXError:
        return
    assert_same(result, array)


def test_every_single_flipped_bit_in_a_gzip_gives_the_same_array_or_an_error(read_bytes, written):
    array = np.array(EXAMPLE_VALUES, np.int16)
    whole = written(array, gz=True)
    errors = 0
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert_same(read_bytes(bytes(damaged)), array)
        except IDXError:
            errors += 1
    assert errors > 8 * (len(whole) - 10)  # all but those in parts of gzip's header that mean nothing


def header(*shape):
    return struct.pack(f">HBB{len(shape)}I", 0, 0x08, len(shape), *shape)


@pytest.fixture
def bomb(tmp_path):
    """Writes a header and 200 MiB of zeros, gzipped to 0.2 MB."""

    def bomb(header):
        bomb.path.write_bytes(gzip.compress(header) + gzip.compress(bytes(1 << 20)) * 200)

    bomb.path = tmp_path / "bomb.gz"
    return bomb


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_reading_takes_a_small_multiple_of_the_memory_of_the_array(folder, peak_of, dtype, gz):
    array = np.zeros(16_000_000 // np.dtype(dtype).itemsize, dtype)
    path = folder / ("large.gz" if gz else "large")
    write_idx(path, array)
    assert array.nbytes < peak_of(lambda: read_idx(path)) < 3 * array.nbytes


@pytest.mark.parametrize("present", [0, 100])
def test_a_header_that_promises_4_gib_costs_no_memory(tmp_path, peak_of, present):
    (tmp_path / "file").write_bytes(header(4, 2**15, 2**15) + bytes(present))
    words = rf"4,294,967,296 bytes of values, and it has only {present};"
    assert peak_of(lambda: read_idx(tmp_path / "file"), words) < 3 * READ_SIZE


@pytest.mark.parametrize("shape", [(200 << 20,), (2**20, 2**20), (2**32 - 1,) * 64])
def test_a_gzip_bomb_is_refused_before_it_is_unpacked(bomb, peak_of, shape):
    bomb(header(*shape))
    words = rf"{math.prod(shape):,} bytes of values, where a gzip of its size is trusted with 67,108,864; .*unpack"
    assert peak_of(lambda: read_idx(bomb.path), words) < 3 * READ_SIZE


@pytest.mark.parametrize("shape", [(10,), (), (0,), (1 << 20,)])
def test_a_gzip_that_goes_on_after_what_its_header_promises_is_read_no_further(bomb, peak_of, shape):
    bomb(header(*shape))
    assert peak_of(lambda: read_idx(bomb.path), "it has more") < 5 * READ_SIZE


def test_a_gzip_without_an_end_is_given_up(tmp_path, peak_of):
    piece = gzip.compress(bytes(1 << 20))
    os.mkfifo(tmp_path / "endless")
    read_end = os.open(tmp_path / "endless", os.O_RDONLY | os.O_NONBLOCK)  # keeps the writer's open() from waiting

    def write():
        with suppress(BrokenPipeError), (tmp_path / "endless").open("wb", buffering=0) as file:
            file.write(gzip.compress(header(10)))
            for _ in range(1000):  # 1 GiB: no end for a reader that should stop at once, and one for a wrong reader
                file.write(piece)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert peak_of(lambda: read_idx(tmp_path / "endless"), "it has more") < 5 * READ_SIZE
    finally:
        os.close(read_end)
        writer.join()


def test_any_gzip_may_unpack_to_the_allowance_and_no_further(tmp_path, written, monkeypatch):
    monkeypatch.setattr(idx, "GZIP_ALLOWANCE", 100_000)
    monkeypatch.setattr(idx, "GZIP_RATIO", 0)
    (tmp_path / "file").write_bytes(written(np.zeros(100_000, np.uint8), gz=True))
    assert read_idx(tmp_path / "file").shape == (100_000,)
    (tmp_path / "file").write_bytes(written(np.zeros(100_001, np.uint8), gz=True))
    with pytest.raises(IDXError, match="trusted with 100,000"):
        read_idx(tmp_path / "file")


def test_beyond_the_allowance_a_gzip_may_unpack_to_100_times_its_size(tmp_path, written, monkeypatch):
    monkeypatch.setattr(idx, "GZIP_ALLOWANCE", 0)
    whole = written(np.zeros(100_000, np.uint8), gz=True)
    assert len(whole) < 900  # and zeros are added to its end, which gzip passes over
    (tmp_path / "file").write_bytes(whole.ljust(1000, b"\0"))
    assert read_idx(tmp_path / "file").shape == (100_000,)
    (tmp_path / "file").write_bytes(whole.ljust(999, b"\0"))
    with pytest.raises(IDXError, match="trusted with 99,900"):
        read_idx(tmp_path / "file")


@given(array=arrays(), data=st.data())
def test_a_gzip_of_many_members_is_read_as_one(read_bytes, written, array, data):
    whole = written(array)
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=20), "cuts")), len(whole)]
    assert_same(read_bytes(b"".join(gzip.compress(whole[a:b]) for a, b in pairwise(cuts))), array)


def test_a_hundred_thousand_empty_members_are_passed_over(read_bytes):
    assert read_bytes(gzip.compress(b"", 1) * 100_000 + gzip.compress(EXAMPLE)).tolist() == EXAMPLE_VALUES


def test_everything_that_a_gzip_header_may_hold_is_passed_over(read_bytes):
    name, comment = b"n" * 100_000 + b"\0", b"\0"
    extra = struct.pack("<H", 65535) + bytes(65535)
    flags = 0x01 | 0x02 | 0x04 | 0x08 | 0x10  # text, a checksum of the header, an extra field, a name, a comment
    body = gzip.compress(EXAMPLE)[10:]
    whole = b"\x1f\x8b\x08" + bytes([flags]) + bytes(6) + extra + name + comment + b"\xff\xff" + body
    assert read_bytes(whole).tolist() == EXAMPLE_VALUES
    for size in (11, 12, 1000, 65547, 65548, 70_000, 165_548, 165_549, 165_550):
        with pytest.raises(IDXError, match="a whole gzip file"):
            read_bytes(whole[:size])


FAULTS = {
    "begins with nothing": b"",
    "begins with 3c 21 44 4f": b"<!DOCTYPE html>",
    "begins with 00 00 0a 01": b"\0\0\x0a\x01" + bytes(8),
    "begins with 00 01 0b 02": b"\0\1" + EXAMPLE[2:],
    "begins with 01 00 0b 02": b"\1\0" + EXAMPLE[2:],
    "ends within its header of 2 dimensions": EXAMPLE[:10],
    "int16 of shape (2, 3), 12 bytes of values, and it has only 11": EXAMPLE[:-1],
    "int16 of shape (2, 3), 12 bytes of values, and it has more": EXAMPLE + b"\n",
    "uint8 of shape (), 1 bytes of values, and it has only 0": b"\0\0\x08\0",
    "expected a whole gzip file": gzip.compress(EXAMPLE, mtime=0)[:-1],
}


@pytest.mark.parametrize("words", FAULTS)
def test_an_error_names_the_file_and_its_fault_in_one_line(tmp_path, words):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(FAULTS[words])
    with pytest.raises(UserError) as error:
        read_idx(path)
    assert str(path) in str(error.value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "missing")


def test_a_folder_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="directory"):
        read_idx(tmp_path)


# --- what cannot be written -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int64", "bool", "float16", "complex64", "U3", "object"])
def test_a_type_that_idx_has_not_is_an_error_that_names_those_it_has(tmp_path, dtype):
    with pytest.raises(IDXError) as error:
        write_idx(tmp_path / "file", np.zeros(3, dtype))
    for name in (*CODES, str(np.dtype(dtype))):
        assert name in str(error.value)
    assert not (tmp_path / "file").exists()


def test_a_size_that_idx_cannot_state_is_an_error(tmp_path):
    with pytest.raises(IDXError):
        write_idx(tmp_path / "file", np.zeros((2**32, 0), np.uint8))


# --- the real thing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("part", "count", "first"), [("train", 60_000, [5, 0, 4]), ("t10k", 10_000, [7, 2, 1])])
def test_the_real_mnist_is_read_as_published(mnist, part, count, first):
    images = read_idx(find(mnist, f"{part}-images-idx3-ubyte"))
    labels = read_idx(find(mnist, f"{part}-labels-idx1-ubyte"))
    assert (images.dtype, images.shape) == (np.uint8, (count, 28, 28))
    assert (labels.dtype, labels.shape) == (np.uint8, (count,))
    assert labels[:3].tolist() == first
    assert set(labels.tolist()) == set(range(10))
    assert images.mean() / 255 == pytest.approx(0.1307 if part == "train" else 0.1325, abs=1e-4)


@pytest.mark.parametrize("name", download.FILES)
def test_writing_the_real_mnist_gives_its_bytes(mnist, written, name):
    path = find(mnist, name)
    data = path.read_bytes()
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    assert data[:4] == bytes([0, 0, 8, 3 if "images" in name else 1])
    assert written(read_idx(path)) == data
