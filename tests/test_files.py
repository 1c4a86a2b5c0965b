"""Atomic writes: whole, on the disk before they have their name, and never through a link that somebody planted."""

import os

import pytest

from mnist_lightning.files import atomic_folder, atomic_path, atomic_write


@pytest.mark.parametrize("name", ["unfinished file", "link", "dangling link", "hard link"])
def test_what_lies_under_the_temporary_name_is_not_written_to(tmp_path, name):
    victim, planted = tmp_path / "victim", tmp_path / ".it.unfinished"
    if name == "unfinished file":
        planted.write_text("of a killed process, and longer than what comes")
    elif name == "hard link":
        victim.write_text("mine")
        planted.hardlink_to(victim)
    else:
        planted.symlink_to(victim)
        if name == "link":
            victim.write_text("mine")
    atomic_write(tmp_path / "it", "new")
    assert (tmp_path / "it").read_text() == "new"
    assert not (tmp_path / "it").is_symlink()
    assert not planted.exists()
    assert not victim.exists() if name in ("unfinished file", "dangling link") else victim.read_text() == "mine"


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_is_before_it_returns(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append((os.fstat(number).st_ino, *tmp_path.iterdir())))
    with atomic_path(tmp_path / "it") as unfinished:
        unfinished.write_text("new")
        inode = unfinished.stat().st_ino
    assert synced == [(inode, unfinished), (tmp_path.stat().st_ino, tmp_path / "it")]


def test_the_files_of_a_folder_are_on_the_disk_before_they_have_their_names(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append((os.fstat(number).st_ino, len([*it.glob("*")]))))
    it = tmp_path / "it"
    with atomic_folder(it) as unfinished:
        inodes = []
        for name in ("one", "two"):
            (unfinished / name).write_text(name)
            inodes.append((unfinished / name).stat().st_ino)
    assert synced == [(inodes[0], 0), (inodes[1], 1), (it.stat().st_ino, 2)]


def test_what_fails_leaves_the_older_file_and_nothing_else(tmp_path):
    atomic_write(tmp_path / "it", "old")
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "it") as unfinished:
        unfinished.write_text("half")
        1 / 0  # noqa: B018
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("it", "old")]
