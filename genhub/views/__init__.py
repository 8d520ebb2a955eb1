"""Pictures that show how a model works: `compute` and `log` say what each view shows, `canvas` paints it, `viewed` is what
it is of. Rooms above call `show` alone; a view asks for a capability, never for a class."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from genhub.errors import InputError, did_you_mean, shown
from genhub.ground.disk import remove_leftovers, write_whole
from genhub.ground.finite import check_weights
from genhub.interfaces.capabilities import Autoencoder, Denoiser
from genhub.sampling.asked import read_conditions
from genhub.sampling.options import check_arguments
from genhub.views import compute, log
from genhub.views.canvas import Film
from genhub.views.viewed import Viewable, Viewed

FRAMES = 40
"""Number of steps of an animation by default."""
POINTS = 500
"""Number of points by default, which share a picture."""


@dataclass(frozen=True)
class Need:
    """Requirement of a view on its subject, with a name for messages."""

    met: Callable[[Viewed], bool]
    name: str


def _is_given(subject: Viewed) -> bool:
    return bool(subject.model.conditions)


def _takes_guidance(subject: Viewed) -> bool:
    return _is_given(subject) and "guidance_scale" in inspect.signature(subject.model.sample).parameters


ANY = Need(lambda subject: True, "")
DENOISER = Need(lambda s: isinstance(s.model, Denoiser), "the capability Denoiser (add_noise, signal_to_noise, denoise)")
AUTOENCODER = Need(lambda subject: isinstance(subject.model, Autoencoder), "the capability Autoencoder (encode, decode)")
CONDITIONS = Need(_is_given, "a condition, such as a label")
GUIDANCE = Need(_takes_guidance, "a condition and an option guidance_scale of `sample`")
LOG = Need(lambda subject: log.metrics_file(subject) is not None, "a run's folder, with metrics.jsonl")


def _always(subject: Viewed, own: Mapping[str, Any]) -> bool:
    return True


def _never(subject: Viewed, own: Mapping[str, Any]) -> bool:
    return False


def _for_rows(subject: Viewed, own: Mapping[str, Any]) -> bool:
    return subject.takes_rows(own.get("conditions"))


def _between_images(subject: Viewed, own: Mapping[str, Any]) -> bool:
    return compute.between_images(subject, own.get("between")) or _for_rows(subject, own)


@dataclass(frozen=True)
class View:
    make: Callable[..., Image.Image | Film]
    needs: Need
    moves: bool = False
    """Whether it can be an animation."""
    untrained: bool = False
    """Whether a recipe will do in place of a trained model."""
    real: Callable[[Viewed, Mapping[str, Any]], bool] = _always
    """Whether it shows real rows, or draws for their conditions, by the subject and the view's own options."""

    @property
    def options(self) -> list[str]:
        parameters = inspect.signature(self.make).parameters.values()
        return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]

    @property
    def samples(self) -> bool:
        """Whether it takes the options of the model's `sample`, too."""
        return any(parameter.kind is parameter.VAR_KEYWORD for parameter in inspect.signature(self.make).parameters.values())


VIEWS = {
    "forward": View(compute.forward, DENOISER, moves=True, untrained=True),
    "reverse": View(compute.reverse, DENOISER, moves=True, real=_for_rows),
    "reconstruct": View(compute.reconstruct, AUTOENCODER),
    "interpolate": View(compute.interpolate, ANY, moves=True, real=_between_images),
    "latent": View(compute.latent, AUTOENCODER),
    "classes": View(compute.classes, CONDITIONS, real=_never),
    "guidance": View(compute.guidance, GUIDANCE, real=_for_rows),
    "losses": View(log.losses, LOG, real=_never),
    "neighbours": View(compute.neighbours, ANY),
}


def show(
    view: str,
    model: Viewable,
    overrides: Sequence[str] = (),
    *,
    out: str | Path | None = None,
    device: str | None = None,
    **options: Any,
) -> Image.Image:
    """Draw a view of a model and, with `out`, write it: x.png, or x.gif for an animation of a view that moves.

    Args:
        view: forward, reverse, reconstruct, interpolate, latent, classes, guidance, losses or neighbours.
        model: a model, what `load` takes or, for `forward`, what `read_recipe` takes.
        overrides: `key.path=value` on top of the recipe; of a trained model's, of `data` alone: other real data.
        device: where to load the model; left out: the accelerator, if there is one.
        options: the view's own (n, steps, seed, conditions, between, scales: those it has), and for a view that draws
            samples those of the model's `sample`.
    Returns:
        The picture; with x.gif, the animation: an image of several frames. The same arguments give the same bytes.
    Raises:
        InputError: no such view, or an option it doesn't have; or the model lacks what the view asks for.
        NotFinite: a weight, or what is to be shown, is NaN or infinite.
        CheckpointError, RecipeError, DataError: see `load`, `read_recipe`.
    """
    if view not in VIEWS:
        raise InputError(f"no view is called {shown(view)}; {did_you_mean(view, VIEWS)}")
    chosen = VIEWS[view]
    moving = _moving(view, None if out is None else Path(out))
    asked = options.pop("conditions", None)
    if asked is not None and "conditions" not in chosen.options:
        raise InputError(f"--condition: the view {view} has no such option; known: {', '.join(chosen.options) or 'none'}")
    own = _own_options(view, options)
    subject = Viewed(model, overrides, device)
    _check_subject(view, subject)
    if asked is not None:
        own["conditions"] = read_conditions(subject.model, asked)
    if chosen.needs is not LOG and "n" in chosen.options and len(subject.modality.shape) < 2:
        own.setdefault("n", POINTS)
    if moving:
        own.setdefault("steps", FRAMES)
    if overrides and not chosen.real(subject, own):
        raise InputError(f"{overrides[0]}: {view} of {subject.name} shows no real rows, so this changes nothing")
    if chosen.needs is not LOG:
        check_weights(subject.model)
    made = chosen.make(subject, **own, **{name: value for name, value in options.items() if name not in own})
    content = _encoded(made, moving)
    if out is not None:
        _write(content, Path(out))
    return Image.open(io.BytesIO(content))


def _moving(view: str, out: Path | None) -> bool:
    """Whether an animation is asked for."""
    if out is None or out.suffix == ".png":
        return False
    if out.suffix == ".gif" and VIEWS[view].moves:
        return True
    moving = ", ".join(name for name, other in VIEWS.items() if other.moves)
    raise InputError(f"--out {out}: give x.png, or x.gif for a view that moves ({moving})")


def _own_options(view: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that are the view's own, checked; the others must be for the model's `sample`."""
    chosen, anyones = VIEWS[view], {name for other in VIEWS.values() for name in other.options}
    own = {name: value for name, value in options.items() if name in anyones or not chosen.samples}
    return check_arguments(chosen.make, own, chosen.options, option="--", owner=f"the view {view}")


def _check_subject(view: str, subject: Viewed) -> None:
    """
    Raises:
        InputError: a recipe where a trained model is needed, or a model that lacks what the view asks for.
    """
    if subject.recipe is not None and not VIEWS[view].untrained:
        raise InputError(
            f"{view} needs a trained model, and {subject.name} is a recipe: train it, then give {subject.recipe.run_dir}"
        )
    need = VIEWS[view].needs
    if not need.met(subject):
        has = ", ".join(name for name, other in VIEWS.items() if other.needs.met(subject))
        raise InputError(f"{view} needs {need.name}, which {subject.name} lacks; it has the views {has}")


def _encoded(made: Image.Image | Film, moving: bool) -> bytes:
    stream = io.BytesIO()
    if isinstance(made, Film) and moving:
        (first, *others), durations = made.frames()
        first.save(stream, "GIF", save_all=True, append_images=others, duration=durations, loop=0)
    else:
        picture = made.strip() if isinstance(made, Film) else made
        grey = picture.convert("L")
        (grey if grey.convert("RGB") == picture else picture).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _write(content: bytes, out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out.parent)
        write_whole(out, content)
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror or error}") from error
