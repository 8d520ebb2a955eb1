"""Work on a thread of its own, and the end of a process in the middle of it: torch would abort an orderly one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_launch import recipe, start
from test_trainer import wait_for

LETS_GO = """
import time, torch
from genhub.ground.background import in_background

class Held:
    def __init__(self):
        self.tensors = [torch.nn.Parameter(torch.ones(1000)) for _ in range(2000)]

    def __call__(self):
        time.sleep(0.1)  # so that the thread is the last to hold them
        return len(self.tensors)

print(in_background(Held(), "genhub-save").result())
"""


def test_a_process_ends_in_order_while_a_thread_lets_go_of_tensors(tmp_path: Path) -> None:
    """Each lets other threads go on, and a thread that comes back to a Python that is gone aborts: 134, in place of 0."""
    done = subprocess.run([sys.executable, "-c", LETS_GO], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2000\n", "")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_told_twice_a_command_ends_at_once_though_a_checkpoint_is_being_written(tiny: dict, tmp_path: Path) -> None:
    command = start("train", recipe(tmp_path, tiny, "models:SlowToSave", max_steps=10**6, save_every=2), cwd=tmp_path)
    wait_for(lambda: (tmp_path / "saving").exists() or command.poll() is not None)
    os.kill(command.pid, signal.SIGINT)
    said = command.stderr.readline()
    time.sleep(0.3)  # in the middle of its own line it would say that again
    os.kill(command.pid, signal.SIGINT)
    _, errors = command.communicate(timeout=20)
    assert (command.returncode, errors) == (130, ""), said
    assert said.startswith("genhub: SIGINT: ")
