"""Files and folders that appear whole, and the lock of a folder. Kills at every step: test_reliability.py."""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import genhub
from genhub import GenhubError, RecipeError
from genhub.errors import CheckpointError
from genhub.ground.disk import (
    all_whole,
    append,
    locked,
    made_once,
    put_in_place,
    remove,
    remove_leftovers,
    saving,
    whole,
    write_whole,
)
from genhub.ground.weights import is_sealed, load_sealed, save_sealed


def test_a_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    for text in ("one", "two ü"):
        write_whole(file, text)
        assert file.read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_is_the_old_one_until_it_is_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / ("x" * 255)  # as long as a name can be
    write_whole(file, "old")
    with pytest.raises(TypeError), whole(file) as temporary:
        temporary.write_text(("ne", temporary.touch())[1])
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(file.name, "old")]
    with whole(file) as first, whole(file) as second:  # two writers: each has a file of its own
        first.write_text("first")
        second.write_text("second")
        assert file.read_text() == "old"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(file.name, "first")]


def test_several_files_appear_together(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    with all_whole(files) as temporaries:
        for temporary in temporaries:
            temporary.write_text("new")
        assert not any(file.exists() for file in files)
    assert [file.read_text() for file in sorted(tmp_path.iterdir())] == ["new", "new"]


def test_what_a_killed_process_left_goes_and_a_living_ones_stays(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from genhub.ground.disk import whole
with whole(Path(sys.argv[1], "file")) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)])
    (left,) = tmp_path.iterdir()
    with whole(tmp_path / "file") as temporary:
        temporary.write_text("of this one")
        elsewhere = tmp_path / ".genhub-00000000-1-00000000.tmp"  # of another machine
        elsewhere.touch()
        remove_leftovers(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {temporary.name, elsewhere.name}, left


@pytest.mark.parametrize("there", ["", "a\n", "a\nhalf of a li", "\0\0"])
def test_a_line_is_added_behind_whatever_is_there(tmp_path: Path, there: str) -> None:
    file = tmp_path / "lines"
    file.write_text(there)
    append(file, "b")
    append(file, "ü")
    assert file.read_text("utf-8") == there + "\n" * bool(there and there[-1] != "\n") + "b\nü\n"


def damaged(content: bytes) -> Iterator[bytes]:
    yield from (b"", bytes(len(content)), content[:-1], content[: len(content) // 2], content + b"x")
    for at in range(0, len(content), 7):
        yield content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_any_damage_to_a_sealed_file_is_found_and_it_is_made_again(tmp_path: Path) -> None:
    file, tensors = tmp_path / "sealed", {"a": torch.arange(3.0), "b": torch.ones((), dtype=torch.bfloat16)}
    assert not is_sealed(file)
    save_sealed(tensors, file, accuracy="0.5")
    found, notes = load_sealed(file)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert notes == {"accuracy": "0.5"}
    content = file.read_bytes()
    for other in damaged(content):
        file.write_bytes(other)
        with pytest.raises(CheckpointError, match=r"^[^\n]*sealed: damaged: [^\n]*; delete it, and it is made again$"):
            load_sealed(file)
        made_once(file, lambda temporary: save_sealed(tensors, temporary, accuracy="0.5"), there=is_sealed)
        assert is_sealed(file)
    made_once(file, lambda temporary: pytest.fail("it is there"), there=is_sealed)


WRITES = {"write_text", "write_bytes", "touch", "save", "savefig", "savez", "savez_compressed", "save_file", "save_sealed",
          "save_tensors", "to_parquet", "ParquetWriter", "ZipFile"}  # fmt: skip
ELSEWHERE = {
    "begin": "wandb is told of a file that is there",
    "_add_card": "in the folder that `put_in_place` names", "write_manifest": "as above", "save_networks": "as above", "save": "as above", "save_encoders": "as above",
    "write_file": "given a temporary file's name", "write_wav": "as above",
    "save_tensors": "called for a temporary file", "save_sealed": "called for a temporary file", "append": "the other way",
    "start_process": "a log, as a shell's >> writes it", "first_to_say": "an empty file in a launcher's temporary folder",
    "offer": "copies in a run's .publishing, which a run that starts deletes", "link": "as above",
    "format_epilog": "lines of a help text",
}  # fmt: skip


def test_nothing_in_genhub_writes_a_file_otherwise() -> None:
    """Each call that writes has a temporary file, or a stream in memory; or its function is listed, with the reason."""
    found = set()
    for file in sorted(Path(genhub.__file__).parent.rglob("*.py")):
        if {"templates", "testing"} & set(file.parts):  # written for others; a test's own folder
            continue
        for function in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
                name = getattr(call.func, "attr", getattr(call.func, "id", ""))
                modes = [value.value for value in [*call.args, *(key.value for key in call.keywords)]
                         if isinstance(value, ast.Constant) and isinstance(value.value, str)]  # fmt: skip
                opened = name == "open" and any(set(mode) <= set("rwaxbt+") and set(mode) & set("wax+") for mode in modes)
                text = ast.unparse(call)
                written = (
                    opened
                    or (name in WRITES and (call.args or call.keywords))
                    or text.startswith(("shutil.copy", "shutil.move"))
                )
                if written and not any(word in text for word in ("temporary", "stream", "archive", "state.save(")):
                    found.add(function.name)
                    assert function.name in ELSEWHERE, f"{file}:{call.lineno}: {text}"
    assert found == ELSEWHERE.keys()


def test_a_folder_is_published_and_removed(tmp_path: Path) -> None:
    for content in ("one", "two"):
        (tmp_path / ".new" / "inner").mkdir(parents=True)
        (tmp_path / ".new" / "inner" / "file").write_text(content)
        put_in_place(tmp_path / ".new", tmp_path / "there")
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
