"""The verbs from Python: load and sample a model, and push it to the Hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from genhub.errors import InputError
from genhub.ground.console import Progress, say
from genhub.ground.processes import check_launcher, launched, main_process, meet
from genhub.hub.load import Loading, load_model
from genhub.hub.push import Target
from genhub.interfaces.model import Model
from genhub.model import GenerativeModel
from genhub.recipe.shipped import check_trained
from genhub.run.publish import push_model
from genhub.sampling.asked import told
from genhub.sampling.draw import check_room, sample_elements
from genhub.sampling.drawn import Drawn
from genhub.sampling.files import check_place, draw_to, is_lossless, read_elements, save_elements, takes_all
from genhub.sampling.request import Drawing


def load(
    source: str | Path, *, revision: str | None = None, device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None, token: str | None = None, local_files_only: bool = False,
    trust_remote_code: bool = False,
) -> GenerativeModel:  # fmt: skip
    """Return the model in a run's folder (its newest whole checkpoint), a checkpoint, a folder that diffusers saved, or a
    repository on the Hub, `user/name`. An existing path goes first.

    Args:
        revision: of a repository: branch, tag or commit; left out: main. `user/name@revision` says the same.
        dtype: float32, bfloat16, float16 or float64, for weights and buffers; left out: float32.
        token: left out: that of `hf auth login` or HF_TOKEN.
        local_files_only: take what was fetched before, and ask nobody.
        trust_remote_code: run a repository's own plugin.py, at a commit that `revision` names in full: exactly the bytes
            whose hash is said. Without both, nothing of a repository is run.
    Returns:
        The model with its averaged weights, in eval mode, on `device` (the CPU if left out).
    Raises:
        CheckpointError: no model is there, it is damaged, or its plugin is not installed.
        HubError: the repository is not there, not for this login, or not what it says.
        HubUnavailable: the Hub can't be reached, and the model was not fetched before.
    """
    check_trained(source)
    how = Loading(device, dtype, revision, token, local_files_only, trust_remote_code)
    return cast(GenerativeModel, load_model(source, how))


# Sampling


def sample(
    model: Model | str | Path, n: int | None = None, *, seed: int = 0, conditions: Mapping[str, Any] | None = None,
    batch_size: int | None = None, out: str | Path | None = None, device: str | None = None, dtype: str | None = None,
    compile: bool = False, trust_remote_code: bool = False, **options: Any,
) -> Drawn:  # fmt: skip
    """Draw n rows and, with `out`, write them: x.png gets one picture; x.wav all sounds, one after another; x.npz arrays and
    x.parquet a data set, with what the rows were given beside; x.csv numbers; a folder a file a row, such as a PNG an image.
    Stopped while it drew to a file or folder other than a picture or a sound, the same call goes on from there.

    Args:
        model: a model, or what `load` takes.
        n: left out: the length of the longest list of conditions, 64 without any.
        conditions: what the rows are given, by column: a value in the column's own units, or a list of them, repeated in
            turn; lists of several columns are paired row by row. {"label": ["cat", "dog"], "ink": 0.2, "source":
            "photo.png"}: a class by its name, by its number only where it has none; "cat,dog" is two. Left out: every class
            in turn, and nothing else.
        device: where to load it; left out: the accelerator, if there is one.
        dtype: the precision to load it in: see `load`.
        compile: torch.compile the networks first, a minute or so that many rows make up for; they stay compiled.
        trust_remote_code: see `load`; the model is `user/name@commit`.
        options: the model's own, such as num_inference_steps.
    Returns:
        A tensor (n, *shape) in the column's own units and type, images as (n, c, h, w) uint8, which a notebook shows as a
        picture; row i depends on the seed, what it is given and i alone, up to rounding: of a precision, of `compile`, of
        batches of another size.
    Raises:
        InputError: an unknown option, condition, value or ending; `out` is a folder that holds something else, or another
            process draws there.
        CheckpointError: see `load`.
    """
    if not isinstance(model, Model):
        model = load(model, device=device or torch.accelerator.current_accelerator(check_available=True), dtype=dtype,
                     trust_remote_code=trust_remote_code)  # fmt: skip
    if compile:
        _compile(model)
    drawing = Drawing.of(model, n, options, seed=seed, conditions=conditions, batch_size=batch_size)
    elements = _sample(model, drawing, None if out is None else Path(out))
    return Drawn.of(elements, model.modality, drawing.captions(model))


def _sample(model: Model, drawing: Drawing, place: Path | None) -> Tensor:
    if place is not None:
        check_place(place, model.modality)
    with _drawing(drawing.n) as on_progress:
        if place is not None and drawing.n > 0 and is_lossless(place, model.modality):
            check_room(model, drawing.n)
            draw_to(model, drawing, place, on_progress=on_progress)
            return read_elements(place, model, drawing.n)
        elements = sample_elements(model, drawing, on_progress=on_progress)
    if place is not None:
        save_elements(elements, place, model, drawing)
    return elements


def sample_to(
    source: str | Path, n: int | None, out: Path, *, seed: int = 0, conditions: Mapping[str, Any] | None = None,
    batch_size: int | None = None, device: str | None = None, dtype: str | None = None, compile: bool = False,
    trust_remote_code: bool = False, **options: Any,
) -> int:  # fmt: skip
    """Draw any number of rows into a file or folder: on all processes that a launcher started, and in little memory, as none
    is returned. Say what the model can be told. The arguments are those of `sample`.

    Returns:
        The number of rows.
    Raises:
        InputError: see `sample`.
        CheckpointError: see `load`.
    """
    check_launcher()
    if takes_all(out) and launched():
        raise InputError(
            f"--out {out}: a picture or a sound is drawn by one process; give a file of rows, such as x.npz, or a folder"
        )
    together = None if takes_all(out) else meet(device)
    where = together.device if together else device or torch.accelerator.current_accelerator(check_available=True)
    model = load(source, device=where, dtype=dtype, trust_remote_code=trust_remote_code)
    for name, values in told(model).items():
        say(f"Can be told {name}: {values}")
    if compile:
        _compile(model)
    drawing = Drawing.of(model, n, options, seed=seed, conditions=conditions, batch_size=batch_size)
    if takes_all(out):
        _sample(model, drawing, out)
    else:
        with _drawing(drawing.n) as on_progress:
            draw_to(model, drawing, out, together=together, on_progress=on_progress)
    if together:
        together.end()
    return drawing.n


def _compile(model: Model) -> None:
    for network in model.children():
        network.compile()


@contextmanager
def _drawing(n: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar while rows are drawn."""
    progress = Progress(n, unit="row", shown=main_process())
    try:
        yield lambda drawn: progress.advance(min(drawn, n))
    finally:
        progress.close()


# Sharing


def push_to_hub(
    model: Model | str | Path, repo_id: str, *, private: bool = False, revision: str | None = None,
    tag: str | None = None, token: str | None = None, license: str | None = None, with_code: bool = False,
) -> str:  # fmt: skip
    """Publish a model in one commit: its files, a card, a picture of samples, and its recipe if it has one. Run again,
    it changes what has changed, and nothing else.

    Args:
        model: a run's folder, a checkpoint, a folder that diffusers saved, or a model.
        repo_id: user/name; made if it is not there.
        private: make it private.
        revision: the branch, made if it is not there; left out: main.
        tag: a name for the commit.
        license: for the card: an id as the Hub has them, such as mit or cc-by-4.0.
        with_code: publish the file with the model's own class, too; whoever loads it must say `trust_remote_code`.
    Returns:
        The commit.
    Raises:
        CheckpointError: no model is there, or it is damaged.
        HubError: no access, or the repository moved on meanwhile.
    """
    return push_model(model, Target(repo_id, private, revision, tag, token, license, with_code))
