"""The command line: `verbs` and the groups `recipes` and `plugins` become one program here, and errors its exit codes.
Only `__main__` is above, and calls `main`; nothing here imports torch before a verb needs it."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from typing import NoReturn

from genhub.cli import bench, data, demo, init, plugins, recipes, streams, watch
from genhub.cli.output import say_wrong
from genhub.cli.verbs import app
from genhub.errors import GenhubError, InputError
from genhub.ground.console import put
from genhub.ground.later import put_off_imports
from genhub.ground.processes import first_to_say, launched

app.command()(data.data)
app.command()(init.init)
app.command()(bench.bench)
app.command()(demo.demo)
app.command()(watch.watch)
app.add_typer(recipes.app, name="recipe")
app.add_typer(plugins.app, name="plugins", invoke_without_command=True, no_args_is_help=False)


MAKERS = ("train", "sample", "show", "push", "sweep", "init", "bench")
"""Verbs that leave files behind, so that their work is not lost where what they print is."""
SPIN = "2000"
"""Turns for which OpenMP's threads wait awake between two pieces of work, set before torch loads. With its own 300,000 they
keep the cores from another training, two of which reached a tenth of one's speed (docs/performance.md)."""


def main() -> None:
    """Run a verb; a GenhubError becomes one readable message and its exit code."""
    streams.make_sturdy()
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
    put_off_imports()
    try:
        _run()
    except SystemExit as end:
        if not end.code and (reason := streams.lost()):
            say_wrong(f"stdout: not all could be written: {reason}")
            made = sys.argv[1] in MAKERS and not {"--dry-run", "--help"} & set(sys.argv)
            sys.exit(0 if made else 1)
        if _others_at_work():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(end.code or 0))
        raise


def _others_at_work() -> bool:
    """Whether threads are at work whom an orderly end would wait for, or that would abort it: ours, and gloo's, which wait
    for other processes."""
    background, torch = sys.modules.get("genhub.ground.background"), sys.modules.get("torch")  # nobody else has started any
    return bool((background and background.at_work()) or (torch and torch.distributed.is_initialized()))


def _run() -> None:
    try:
        app()
    except GenhubError as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:  # what the system refuses is no fault of genhub's
        kind = InputError if error.errno == errno.ENAMETOOLONG else GenhubError
        _fail(kind(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)))
    except Exception as error:
        torch = sys.modules.get("torch")
        if isinstance(error, MemoryError) or (torch and _out_of_memory(error)):
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            _fail(GenhubError(f"out of memory: lower --batch-size, the rows drawn at once ({reason:.200})"))
        if launched() and torch and (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
            _fail(GenhubError("stopped: another process of this run has ended"))
        _unexpected(error)


def _unexpected(error: Exception) -> NoReturn:
    """Report a fault of genhub or of a plugin, escaped, as what it quotes may be a stranger's; and exit."""
    if first_to_say(repr(error)):
        put(*"".join(traceback.format_exception(error)).splitlines(), stream=sys.stderr)
    sys.exit(1)


def _out_of_memory(error: Exception) -> bool:
    from genhub.sampling.draw import out_of_memory

    return out_of_memory(error)


def _fail(error: GenhubError) -> NoReturn:
    say_wrong(*error.args)
    sys.exit(error.exit_code)
