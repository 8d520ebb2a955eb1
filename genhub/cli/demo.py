"""`genhub demo`."""

from __future__ import annotations

from typing import Annotated

import typer

from genhub.cli.stops import stopped_with


def demo(
    models: Annotated[list[str], typer.Argument(metavar="MODEL ...", help="Runs, checkpoints, user/name: side by side.")],
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: the first free one from 7860 on.")] = None,
    share: Annotated[bool, typer.Option("--share", help="At a public address, too, by Gradio's relay.")] = False,
) -> None:
    """Draw on a page in the browser, several models side by side."""
    with stopped_with("the page is gone"):
        from genhub.demo.gradio_page import serve

        serve(list(dict.fromkeys(models)), port, share)
