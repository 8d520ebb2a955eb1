"""Files and folders that appear whole, and the lock of a folder. Kills at every step: test_reliability.py."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from genhub import GenhubError, RecipeError
from genhub.disk import locked, publish, remove, saving, write_whole


def test_a_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    for text in ("one", "two ü"):
        write_whole(file, text)
        assert file.read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_is_published_and_removed(tmp_path: Path) -> None:
    for content in ("one", "two"):
        (tmp_path / ".new" / "inner").mkdir(parents=True)
        (tmp_path / ".new" / "inner" / "file").write_text(content)
        publish(tmp_path / ".new", tmp_path / "there")
        assert (tmp_path / "there" / "inner" / "file").read_text() == content
        assert [path.name for path in tmp_path.iterdir()] == ["there"]
    remove(tmp_path / "there")
    assert not any(tmp_path.iterdir())


def test_what_the_disk_refuses_is_told(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "file"
    with pytest.raises(GenhubError, match=r"nowhere/file: can't be saved: .*No such file or directory.*"), saving(path):
        path.write_text("")
    with pytest.raises(GenhubError, match=r"; it takes 12,345 bytes, and the disk has [\d,]+$"), saving(path, 12345):
        path.write_text("")


def test_one_at_a_time(tmp_path: Path) -> None:
    in_use = f"in use by process {os.getpid()} on {socket.gethostname()}; wait until"
    with locked(tmp_path), pytest.raises(RecipeError, match=in_use), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_child_does_not_hold_what_its_parent_held(tmp_path: Path) -> None:
    """Data workers outlive a killed run for a moment: the next start must not wait for them."""
    reader, writer = os.pipe()
    with locked(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    with locked(tmp_path):
        pass
    os.close(writer)
    os.waitpid(child, 0)
