"""Pictures that show how a model works: `films`, `sheets`, `latent_map` and `log` have the views, each a plugin like any
other, `canvas` paints, `viewed` is what they are of. Rooms above call `show`, and the kit `make`; a view asks for a
capability, never for a class."""

from __future__ import annotations

import inspect
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import style
from PIL import Image

from genhub.errors import InputError, did_you_mean, shown
from genhub.ground.disk import remove_leftovers, write_whole
from genhub.ground.finite import check_weights
from genhub.interfaces.capabilities import methods_of
from genhub.interfaces.registry import VIEWS, load_all, load_class, plugin_names
from genhub.interfaces.view import Moving, View
from genhub.sampling.asked import read_conditions
from genhub.sampling.options import check_arguments
from genhub.views.animation import Animation
from genhub.views.log import metrics_file
from genhub.views.viewed import Viewable, Viewed

FRAMES = 40
"""Number of steps of an animation by default."""
POINTS = 500
"""Number of elements by default where they share a picture, as points do."""
NAMED = {"n", "steps", "seed", "conditions", "scales", "between"}
"""Options that the verb has under their own names; a view's others are given by `--set`."""


def show(
    view: str,
    model: Viewable,
    overrides: Sequence[str] = (),
    *,
    out: str | Path | None = None,
    moving: bool | None = None,
    device: str | None = None,
    **options: Any,
) -> Image.Image:
    """Draw a view of a model and, with `out`, write it: x.png, or x.gif for an animation of a view that moves.

    Args:
        view: a registered one: samples, forward, reverse, reconstruct, interpolate, latent, classes, guidance, losses,
            neighbours, or a plugin's.
        model: a model, what `load` takes or, for `forward`, what `read_recipe` takes.
        overrides: `key.path=value` on top of the recipe; of a trained model's, of `data` alone: other real data.
        moving: return the animation of a view that moves; left out: where `out` is x.gif.
        device: where to load the model; left out: the accelerator, if there is one.
        options: the view's own (n, steps, seed, conditions, between, scales: those it has), and for a view that draws
            samples those of the model's `sample`.
    Returns:
        The picture; or the animation, an image of several frames, which a notebook shows moving. The same arguments give
        the same bytes.
    Raises:
        InputError: no such view, or an option it doesn't have; or the model lacks what the view asks for.
        PluginError: two distributions claim the name, or the view can't be imported.
        NotFinite: a weight, or what is to be shown, is NaN or infinite.
        CheckpointError, RecipeError, DataError: see `load`, `read_recipe`.
    """
    if view not in plugin_names(VIEWS):
        raise InputError(f"no view is called {shown(view)}; {did_you_mean(view, plugin_names(VIEWS))}")
    chosen: View = load_class(VIEWS, view)()
    moving = _moving(chosen, None if out is None else Path(out), moving)
    checked = _checked_options(view, chosen, options)
    subject = Viewed(model, overrides, device)
    _check_subject(view, chosen, subject)
    if overrides and not chosen.shows_rows(subject, checked):
        raise InputError(f"{overrides[0]}: {view} of {subject.name} shows no real rows, so this changes nothing")
    content = encoded(make(chosen, subject, checked, moving), moving)
    if out is not None:
        _write(content, Path(out))
    return Animation(content) if moving else Image.open(io.BytesIO(content))


def make(view: View, subject: Viewed, options: Mapping[str, Any], moving: bool = False) -> Image.Image | Moving:
    """Return what a view draws of a subject that has what it needs; `options` are checked, the conditions among them as a
    person gives them."""
    own, known = dict(options), own_options(view)
    if "conditions" in own:
        own["conditions"] = read_conditions(subject.model, own["conditions"])
    if not view.of_log:
        check_weights(subject.model)
        if "n" in known and subject.modality.together:
            own.setdefault("n", POINTS)
    if moving and "steps" in known:
        own.setdefault("steps", FRAMES)
    with style.context("default"):  # also of what modalities draw
        return view.draw(subject, **own)


def encoded(made: Image.Image | Moving, moving: bool) -> bytes:
    """Return a picture as PNG, or as GIF where it moves; the same picture gives the same bytes."""
    stream = io.BytesIO()
    if moving and not isinstance(made, Image.Image):
        with style.context("default"):
            (first, *others), durations = made.frames()
        first.save(stream, "GIF", save_all=True, append_images=others, duration=durations, loop=0)
    else:
        with style.context("default"):
            picture = made if isinstance(made, Image.Image) else made.strip()
        grey = picture.convert("L")
        (grey if grey.convert("RGB") == picture else picture).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def own_options(view: View) -> list[str]:
    """Return the names of a view's own options, in their order."""
    parameters = inspect.signature(view.draw).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


def lacking(view: View, subject: Viewed) -> str | None:
    """Return what a view needs and a subject lacks; None where it has all."""
    if view.of_log:
        return None if metrics_file(subject) else "a run's folder, with metrics.jsonl"
    if view.capability and not isinstance(subject.model, view.capability):
        return f"the capability {view.capability.__name__} ({', '.join(methods_of(view.capability))})"
    option = view.sample_option
    has_option = not option or option in inspect.signature(subject.model.sample).parameters
    if has_option and (not view.conditional or subject.model.conditions):
        return None
    if not option:
        return "a condition, such as a label"
    return ("a condition and " if view.conditional else "") + f"an option {option} of `sample`"


def _views() -> Iterator[tuple[str, View]]:
    """Yield the views that can be imported, by name."""
    yield from ((name, cls()) for name, cls in load_all(VIEWS)[0].items())


def _moving(view: View, out: Path | None, said: bool | None) -> bool:
    """Whether an animation is asked for."""
    ending = None if out is None else out.suffix
    moving = ending == ".gif" if said is None else said
    if (view.moves or not moving) and ending in (None, ".gif" if moving else ".png"):
        return moving
    those = ", ".join(name for name, other in _views() if other.moves)
    if ending is None:
        raise InputError(f"moving: this view does not move; those that do: {those}")
    raise InputError(f"--out {out}: give x.png, or x.gif for a view that moves ({those})")


def _checked_options(name: str, view: View, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options, the view's own ones checked; the others are for the model's `sample`, where the view draws."""
    known, parameters = own_options(view), inspect.signature(view.draw).parameters.values()
    draws = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    checked = {key: value for key, value in options.items() if key != "conditions" or value is not None}
    if "conditions" in checked.keys() - set(known):
        raise InputError(f"--condition: the view {name} has no such option; known: {', '.join(known) or 'none'}")
    for key, value in options.items():
        if key != "conditions" and (key in known or key in NAMED or not draws):  # the model reads what it is given
            option = "--" if key in NAMED else "--set "
            checked |= check_arguments(view.draw, {key: value}, known, option=option, owner=f"the view {name}")
    return checked


def _check_subject(name: str, view: View, subject: Viewed) -> None:
    """
    Raises:
        InputError: a recipe where a trained model is needed, or a model that lacks what the view asks for.
    """
    if subject.recipe is not None and not view.untrained:
        raise InputError(
            f"{name} needs a trained model, and {subject.name} is a recipe: train it, then give {subject.recipe.run_dir}"
        )
    if need := lacking(view, subject):
        has = ", ".join(other for other, its in _views() if lacking(its, subject) is None)
        raise InputError(f"{name} needs {need}, which {subject.name} lacks; it has the views {has}")


def _write(content: bytes, out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out.parent)
        write_whole(out, content)
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror or error}") from error
