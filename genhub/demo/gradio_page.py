"""The page of a `Form` as Gradio shows it, on loopback unless asked. Nothing is fetched from anywhere."""

from __future__ import annotations

import math
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch

from genhub.api import load
from genhub.demo.form import MOST, OUT, Form, SampleOption, ToldCondition, Wish
from genhub.demo.shown import DrawnPicture, draw_shown, fault_line
from genhub.errors import GenhubError, InputError
from genhub.ground.console import put, say
from genhub.ground.embedded import players
from genhub.ground.extras import import_extra
from genhub.ground.garbage import look_for_garbage_as_usual
from genhub.interfaces.control import Choice, Line, Slider, Upload
from genhub.interfaces.model import Model
from genhub.sampling.pictures import write_picture

HOST = "127.0.0.1"
HOUR = 3600
"""Seconds after which what was shown and uploaded is deleted."""
FONTS = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")
COPY = "async (command) => { await navigator.clipboard.writeText(command); return 'Copied' }"
ANOTHER_SEED = "() => Math.floor(Math.random() * 2 ** 31)"
STYLE = """
.gradio-container { max-width: 1280px !important }
.fault { color: #b91c1c; overflow-wrap: anywhere }
.dark .fault { color: #fca5a5 }
.sounds { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 8px }
.sounds figure { margin: 0 }
.sounds audio { width: 100% }
.notes p { overflow-wrap: anywhere; font-size: var(--text-sm) }
.below:not(:has(p, figure)) { display: none }
"""


def serve(sources: Sequence[str], port: int | None = None, share: bool = False) -> None:
    """Load models and show a page on which to draw from them, until a signal comes.

    Args:
        port: left out: the first free one from 7860 on.
        share: let Gradio relay the page at a public address, too.
    Raises:
        InputError: the port is taken, or Gradio is not installed.
        CheckpointError, HubError: see `load`.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    gradio = import_extra("gradio", "demo", "genhub demo")
    device = torch.accelerator.current_accelerator(check_available=True)
    models: dict[str, Model] = {source: load(source, device=device) for source in sources}
    with tempfile.TemporaryDirectory(prefix="genhub-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = Page(gradio, models, Form.of(models))
        look_for_garbage_as_usual()
        try:
            page.launch(port, share)
            threading.Event().wait()
        finally:
            page.blocks.close(verbose=False)


class Page:
    """Blocks of Gradio for a form: controls at the left, a column a model at the right; on a phone one below the other."""

    def __init__(self, gradio: Any, models: Mapping[str, Model], form: Form) -> None:
        self.gradio, self.models, self.form = gradio, models, form
        with gradio.Blocks(
            title="genhub demo", analytics_enabled=False, fill_width=True, delete_cache=(HOUR, HOUR)
        ) as self.blocks:
            gradio.Markdown(f"# {escape(', '.join(models))}")
            with gradio.Row():
                with gradio.Column(scale=1, min_width=300):
                    self._controls()
                with gradio.Column(scale=2, min_width=300):
                    self._results()
            self._events()

    def launch(self, port: int | None, share: bool) -> None:
        """Serve the page from a thread, and say where it is.

        Raises:
            InputError: the port is taken.
            GenhubError: nobody relays the page.
        """
        sans, mono = FONTS
        theme = self.gradio.themes.Default(font=list(sans), font_mono=list(mono))
        theme = theme.set(block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300")
        try:
            _, here, elsewhere = self.blocks.launch(
                server_name=HOST, server_port=port, share=share, prevent_thread_lock=True, quiet=True, ssr_mode=False,
                footer_links=[], run_history=False, enable_monitoring=False, mcp_server=False, theme=theme, css=STYLE,
            )  # fmt: skip
        except OSError as error:
            wanted = f"--port {port}: is taken" if port else "--port: 7860 and the hundred above are taken"
            raise InputError(f"{wanted}; give another one") from error
        if share and not elsewhere:
            raise GenhubError("--share: Gradio's relay can't be reached; without --share the page is on this machine alone")
        say(f"Page     {elsewhere or here.rstrip('/')}")
        put("Ctrl-C ends it")

    # Controls

    def _controls(self) -> None:
        gradio, form = self.gradio, self.form
        self.said = {told.name: self._condition(told) for told in form.conditions}
        with gradio.Row():
            self.n = gradio.Number(form.n, label="n", info=f"up to {MOST:,}", precision=0, step=1, min_width=90)
            self.seed = gradio.Number(0, label="seed", info="of the noise", precision=0, step=1, min_width=130)
        self.another = gradio.Button("Another seed", size="sm")
        with gradio.Row(visible=bool(form.options)):
            self.options = {option.name: self._option(option) for option in form.options}
        self.way = gradio.Checkbox(True, label="Show the way from noise", visible=form.shows_way)
        self.draw = gradio.Button("Draw", variant="primary")
        for note in form.notes:
            gradio.Markdown(escape(note), elem_classes="notes")

    def _condition(self, told: ToldCondition) -> tuple[Any, ...]:
        """Return the control of a condition; of a slider, also the box by which it is said at all."""
        gradio, label, words = self.gradio, told.name, told.words
        match told.control:
            case Choice(names):
                control = gradio.Dropdown(
                    list(names), value=[], multiselect=True, label=label, info=f"{words}; none: all in turn"
                )
                return (control,)
            case Slider(low, high):
                step = 10.0 ** math.floor(math.log10((high - low) / 50))
                ends = math.floor(low / step) * step, math.ceil(high / step) * step
                middle = round((low + high) / 2 / step) * step
                box = gradio.Checkbox(False, label=f"Say {label}")
                slider = gradio.Slider(*(float(f"{end:.6g}") for end in (*ends, middle)), step=step, label=label, info=words)
                slider.input(None, None, box, js="() => true")
                return slider, box
            case Line(example):
                return (gradio.Textbox(label=label, info=words, placeholder=f"as {example}" if example else ""),)
            case Upload(endings):
                return (gradio.File(label=f"{label}: {words}", file_types=list(endings), type="filepath", height=140),)

    def _option(self, option: SampleOption) -> Any:
        """Return the control of an option, whose value is the text that `--set` would be given. (A number that is left out
        would be 0 in Gradio's `Number`.)"""
        label, usual = option.name.replace("_", " "), option.text or "its own"
        if option.kind == "boolean":
            choices = [(f"as usual: {usual}", ""), ("true", "true"), ("false", "false")]
            return self.gradio.Dropdown(choices, value="", label=label, min_width=130)
        return self.gradio.Textbox(option.text, label=label, placeholder=usual, max_lines=1, min_width=130)

    # Results

    def _results(self) -> None:
        gradio = self.gradio
        self.columns = {}
        with gradio.Row():
            for source in self.models:
                with gradio.Column(min_width=280):
                    if len(self.models) > 1:
                        gradio.Markdown(f"### {escape(source)}")
                    picture = gradio.Image(
                        label=source, show_label=False, type="filepath", format="png", interactive=False,
                        buttons=["download", "fullscreen"], alt_text=f"drawn by {source}", height=420,
                    )  # fmt: skip
                    self.columns[source] = picture, gradio.HTML(elem_classes="below")
        self.command = gradio.Textbox(label="The same in a shell", lines=2, interactive=False)
        self.copy = gradio.Button("Copy the command", size="sm")
        self.hint = gradio.Markdown(elem_classes="notes")

    def _events(self) -> None:
        said = [control for controls in self.said.values() for control in controls]
        inputs = [self.n, self.seed, self.way, *said, *self.options.values()]
        parts = [part for column in self.columns.values() for part in column]
        outputs = [self.draw, self.command, self.copy, self.hint, *parts]
        self.draw.click(self._drawn, inputs, outputs, show_progress="minimal", api_name="draw")
        self.another.click(None, None, self.seed, js=ANOTHER_SEED)
        self.copy.click(None, self.command, self.copy, js=COPY)

    # Drawing

    def _drawn(self, *values: Any) -> Iterator[dict[Any, Any]]:
        """Yield what changes on the page while the models draw, one after another."""
        try:
            wish, way = self._wish(values)
        except InputError as error:
            yield {below: _fault(error) for _, below in self.columns.values()}
            return
        said = {self.command: self._command(wish), self.copy: "Copy the command", self.hint: _hint(wish)}
        yield {self.draw: self.gradio.Button(interactive=False), **said}
        for source, (picture, below) in self.columns.items():
            try:
                for shown in draw_shown(self.models[source], wish, way):
                    with tempfile.TemporaryDirectory() as folder:
                        file = write_picture(shown.picture, Path(folder, OUT))
                        yield {picture: str(file), below: _sounds(shown)}
            except Exception as error:  # a stranger's model may raise anything
                yield {picture: None, below: _fault(error)}
        yield {self.draw: self.gradio.Button(interactive=True)}

    def _wish(self, values: Sequence[Any]) -> tuple[Wish, bool]:
        (n, seed, way), rest = values[:3], iter(values[3:])
        said = {name: _said([next(rest) for _ in controls]) for name, controls in self.said.items()}
        return self.form.wish(n, seed, said, dict(zip(self.options, rest, strict=True))), way

    def _command(self, wish: Wish) -> str:
        several = len(self.models) > 1
        outs = [f"samples-{number}.png" if several else OUT for number in range(1, len(self.models) + 1)]
        return "\n".join(wish.command(source, out) for source, out in zip(self.models, outs, strict=True))


def _said(values: Sequence[Any]) -> Any:
    """Return the value of a condition's control; None where a box says that nobody says it."""
    return values[0] if all(values[1:]) else None


def _hint(wish: Wish) -> str:
    files = [Path(text).name for name in wish.files for text in wish.conditions.get(name, ())]
    return f"{escape(', '.join(files))} is the file that was uploaded; the command wants it where it runs" if files else ""


def _fault(error: Exception) -> str:
    return f'<p class="fault" role="alert">{escape(fault_line(error))}</p>'


def _sounds(shown: DrawnPicture) -> str:
    """Return players for the sounds that were drawn, each with its caption."""
    figures = players(shown.sounds, shown.captions)
    return f'<div class="sounds">{"".join(figures)}</div>' if figures else ""
