"""The four files, as they are found. What they may hold: test_any_dataset.py."""

import pytest

from mnist_lightning.data.format import FILES, find

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
