"""Real processes without the seconds of imports that each would cost: a server that has imported everything forks a
child a job. The children are ordinary processes, killed for real. One thread, and no torch operation before the fork."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from genhub.ground.garbage import look_for_garbage_as_usual, look_for_garbage_seldom
from genhub.ground.later import put_off_imports


class Zygote:
    """The tests' side: starts jobs and hears how they ended."""

    def __init__(self) -> None:
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        self.jobs: list[Job] = []

    def ask(self, **request: Any) -> int | None:
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(self, call: str, *args: Any, cwd: Path, env: Mapping[str, str] | None = None) -> Job:
        """Call `module:function` with JSON arguments in a child; `genhub.cli:main` gets them as its command line."""
        number = len(list(cwd.glob("job-*.out")))
        out, err = cwd / f"job-{number}.out", cwd / f"job-{number}.err"
        out.touch()  # whoever looks at it may be earlier than the child
        err.touch()
        files = {"out": str(out), "err": str(err)}
        pid = self.ask(do="start", call=call, args=args, cwd=str(cwd), env=dict(env or {}), **files)
        assert pid is not None
        self.jobs.append(Job(self, pid, out, err))
        return self.jobs[-1]

    def end_jobs(self) -> None:
        """Kill what a test has left running, as one that fails does."""
        for job in self.jobs:
            job.signal()
            job.wait()
        self.jobs = []

    def genhub(self, *words: str, cwd: Path) -> Job:
        return self.start("genhub.cli:main", *words, cwd=cwd)

    def close(self) -> None:
        assert self._server.stdin
        self._server.stdin.close()
        try:
            self._server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()


@dataclass
class Job:
    zygote: Zygote
    pid: int
    _out: Path
    _err: Path
    code: int | None = None
    """Exit code, or minus the signal's number; None while it runs."""

    def poll(self) -> int | None:
        if self.code is None:
            self.code = self.zygote.ask(do="poll", pid=self.pid)
        return self.code

    def wait(self) -> int:
        if self.code is None:
            self.code = self.zygote.ask(do="wait", pid=self.pid)
        assert self.code is not None
        return self.code

    def signal(self, number: int = signal.SIGKILL) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()


# The server's side


def serve() -> None:
    look_for_garbage_seldom()  # the same as a command does
    put_off_imports()
    for module in ("genhub.cli", "genhub.api", "genhub.training.loop", "genhub_ddpm.ddpm", "genhub_gan", "genhub_vae", "models",
                   "diffusers.models.unets.unet_2d", "diffusers.schedulers.scheduling_ddim",
                   "diffusers.schedulers.scheduling_ddpm", "sklearn.datasets"):  # fmt: skip
        import_module(module)
    look_for_garbage_as_usual()  # but no child does among these

    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "start":
            child = os.fork()
            if not child:
                os.close(answers.fileno())  # what outlives its job must not keep the tests waiting for the end of this pipe
                run(request)
            answer: int | None = child
        else:
            pid, status = os.waitpid(request["pid"], os.WNOHANG if request["do"] == "poll" else 0)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    os._exit(0)  # torch's threads take half a minute to end


def run(request: dict[str, Any]) -> int:
    """Do a job in this child, and end it."""
    code = 1
    try:
        for number, path in enumerate([os.devnull, request["out"], request["err"]]):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
        os.chdir(request["cwd"])
        os.environ |= request["env"]
        module, _, name = request["call"].partition(":")
        function, args = getattr(import_module(module), name), request["args"]
        if request["call"] == "genhub.cli:main":
            sys.argv, args = ["genhub", *args], []
        function(*args)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
