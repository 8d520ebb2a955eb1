"""`genhub watch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genhub.cli.stops import stopped_with
from genhub.ground.console import put
from genhub.ground.garbage import look_for_garbage_as_usual

RUNS = "runs"
"""The folder in which runs are, where none is named."""


def watch(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN ...]", help="Runs, or folders of runs; default runs.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page's address; 0: a free one.")] = 6070,
) -> None:
    """Follow runs live on a page: curves, pictures, figures, speed."""
    from genhub.watch.http_api import Server
    from genhub.watch.watching import Watch

    server = Server(Watch(runs or [Path(RUNS)], waiting=not runs), port)
    put(f"Page     {server.address}", "         for this machine alone; Ctrl-C ends it, and no run")
    with stopped_with("the runs go on, and the same command shows them again"):
        look_for_garbage_as_usual()
        server.serve_forever()
