"""Draw images from a model: in batches, seeded image by image, on all processes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from genhub.errors import CheckpointError, InputError, NotFinite, shown
from genhub.ground.console import warn
from genhub.ground.disk import remove_leftovers, saving, whole
from genhub.ground.finite import check_weights
from genhub.ground.processes import Together
from genhub.ground.randomness import generators
from genhub.ground.weights import load_sealed, save_sealed
from genhub.interfaces.capabilities import Denoiser
from genhub.interfaces.model import Model
from genhub.sampling.pictures import save_preview, to_uint8
from genhub.sampling.request import Drawing
from genhub.store.run_folder import RunFolder

BATCH_SIZE = 256
CPU_PIXELS = 64 * 28 * 28
"""Pixels drawn at once on a CPU, enough to keep it busy; more take longer, as their memory goes back to the system."""
PART = 500
"""Images in a file of `draw_parts`: the most that an interrupted drawing loses."""


def sample_images(
    model: Model,
    drawing: Drawing,
    *,
    together: Together | None = None,
    on_progress: Callable[[int], None] = lambda drawn: None,
) -> Tensor:
    """Draw images, each from a seed of its own, so that image i does not depend on n, batches or processes.

    Args:
        together: draw a share on each process and gather; without one, draw them all here.
    Returns:
        (n, c, h, w) uint8 on the CPU.
    Raises:
        InputError: see `Drawing.labels_of`; or more images than memory has room for.
        NotFinite: a weight, or what is drawn, is NaN or infinite; all processes raise it.
    """
    check_weights(model)
    n, first, wanted = drawing.n, drawing.first, drawing.labels_of(model)
    check_room(model, n)
    rank, ranks = (together.rank, together.world_size) if together else (0, 1)
    share = -(-n // ranks)
    batch_size = drawing.batch_size or drawn_at_once(model)
    mine = [first + index % n for index in range(rank * share, (rank + 1) * share)]  # the last ranks repeat: cut off below
    fault = None
    # Noise is float32; autocast takes it to the precision that a model was loaded in.
    half = torch.autocast(model.device.type, dtype=model.dtype, enabled=model.dtype.itemsize < 4)
    with torch.inference_mode(), half:
        done, drawn = 0, [torch.zeros(0, *model.sample_shape, dtype=torch.uint8)]
        while done < share and fault is None:
            indices = mine[done : done + batch_size]
            given = None if wanted is None else wanted[[index - first for index in indices]]
            seeds = generators(drawing.seed, indices)
            try:
                images = model.sample(len(indices), labels=given, generator=seeds, **drawing.options)
            except (RuntimeError, MemoryError) as error:  # an image is the same in any batch
                if len(indices) == 1 or not out_of_memory(error):
                    raise
                batch_size = len(indices) // 2
                continue
            fault = _not_finite(model, drawing, images, indices, given)
            drawn.append(
                to_uint8(images) if fault is None else torch.zeros(share - done, *model.sample_shape, dtype=torch.uint8)
            )
            done += len(indices)
            on_progress(done)
        result = torch.cat(drawn)
        if together and ranks > 1:  # a process that stopped here would keep the others waiting
            result = together.gather(result)
            if together.gather(torch.tensor([fault is not None])).any():
                fault = fault or NotFinite(f"{type(model).__name__}: another process drew NaN or infinity")
    if fault is not None:
        raise fault
    return result[:n].cpu()


MEMORY_FULL = (
    " out of memory.",  # an accelerator's, where torch does not say it with an exception of its own
    "MPS backend out of memory",
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED.",  # what cuDNN says when it gets none
    "DefaultCPUAllocator: can't allocate memory",
    "Cannot allocate memory (12)",  # a file that is to be mapped
    "could not create a primitive",  # oneDNN's, when it gets none
    "could not create a memory",
)
"""Words of torch and its libraries in a RuntimeError when memory is full."""


def out_of_memory(error: BaseException) -> bool:
    """Whether a device's memory is full, or the CPU's, of which torch has no exception of its own, and oneDNN no words."""
    full = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return full or (isinstance(error, RuntimeError) and any(words in str(error) for words in MEMORY_FULL))


def check_room(model: Model, n: int) -> None:
    """
    Raises:
        InputError: n images, and one of them in float32 beside what it is made of, take more memory than the machine has.
    """
    if not hasattr(os, "sysconf"):  # Windows
        return
    needed = math.prod(model.sample_shape) * (n + 2 * 4)
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        shape = "x".join(map(str, model.sample_shape))
        raise InputError(
            f"{n:,} images of {shape} take {needed / 2**30:,.1f} GiB of memory, and this machine has {there / 2**30:,.1f}; "
            "draw fewer at a time: --batch-size, and a folder as --out"
        )


def _not_finite(
    model: Model, drawing: Drawing, images: Tensor, indices: Sequence[int], labels: Tensor | None
) -> NotFinite | None:
    """Return an error that says how images were drawn that are not finite, and from which step of a reverse process on they
    are not; None if they are finite."""
    fine = images.isfinite().flatten(1).all(1)
    if fine.all():
        return None
    step = ""
    if isinstance(model, Denoiser):  # once more, a step at a time
        told = {name: value for name, value in drawing.options.items() if not callable(value)}
        steps = model.denoise(len(indices), labels=labels, generator=generators(drawing.seed, indices), **told)
        bad = next((one for one in steps if not one.sample.isfinite().all()), None)
        step = f" from step {bad.index + 1} (t = {bad.timestep:.4g}) on" if bad else ""
    named = ", ".join(f"{name}={shown(value)}" for name, value in drawing.options.items())
    given = f", with {named}" if named else ""
    number = indices[fine.tolist().index(False)]
    return NotFinite(
        f"{type(model).__name__}: image {number} of seed {drawing.seed} is NaN or infinite{step}{given}; it is not written"
    )


def drawn_at_once(model: Model) -> int:
    """Return how many images to draw at once by default."""
    _, height, width = model.sample_shape
    return max(1, min(BATCH_SIZE, CPU_PIXELS // (height * width))) if model.device.type == "cpu" else BATCH_SIZE


def draw_parts(
    model: Model,
    drawing: Drawing,
    folder: Path,
    *,
    together: Together | None = None,
    on_progress: Callable[[int], None] = lambda drawn: None,
) -> list[Path]:
    """Draw images into files of PART images each, for `read_part`; those that are there, undamaged, are not drawn again.
    The last one holds perhaps fewer, or more where more were drawn before. But for n and the batch size, a drawing must be
    the same for the same folder.

    Args:
        together: each process draws some of the parts; all return when every part is there.
    Returns:
        The files, in the images' order.
    Raises:
        InputError: see `sample_images`.
        GenhubError: a file can't be written.
    """
    parts = [range(start, min(start + PART, drawing.n)) for start in range(0, drawing.n, PART)]
    files = {part: part_file(folder, part.start // PART) for part in parts}
    with saving(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)

    def there(part: range) -> bool:
        try:
            return len(read_part(files[part])) >= len(part)
        except CheckpointError:  # missing or damaged
            return False

    def write(part: range, images: Tensor) -> None:
        with saving(files[part]), whole(files[part]) as temporary:
            save_sealed({"images": images}, temporary)

    missing = [part for part in parts if not there(part)]
    draw_blocks(model, drawing, missing, write, together=together, on_progress=on_progress)
    return list(files.values())


def part_file(folder: Path, number: int) -> Path:
    """Return the file in which `draw_parts` keeps PART images, from image PART * `number` on."""
    return folder / f"part-{number:06d}.safetensors"


def read_part(file: Path) -> Tensor:
    """Return the (n, c, h, w) uint8 that `draw_parts` wrote to a file.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    return load_sealed(file)[0]["images"]


def draw_blocks(
    model: Model,
    drawing: Drawing,
    missing: Sequence[range],
    write: Callable[[range, Tensor], None],
    *,
    together: Together | None,
    on_progress: Callable[[int], None],
) -> None:
    """Draw the blocks of numbered images that are `missing`, and have each written as soon as it is drawn: little memory,
    and little lost when stopped. A block is drawn by one process, in the same batches whichever that is, so that its bits
    don't depend on their number. Returns on all processes when all is written."""
    rank, ranks = (together.rank, together.world_size) if together else (0, 1)
    if together:
        missing = together.broadcast(missing)  # the others may look later, when some is there
    done = drawing.n - sum(map(len, missing))
    on_progress(done)

    def advance(before: int, drawn: int) -> None:
        on_progress(before + drawn * ranks)

    for block in missing[rank::ranks]:
        images = sample_images(model, drawing.part(block), on_progress=partial(advance, done))
        write(block, images)
        done += len(block) * ranks
    if together:
        together.wait()


# Previews


def draw_preview(
    model: Model, drawing: Drawing, run: RunFolder, step: int, *, together: Together | None = None
) -> Path | None:
    """Draw images in eval mode, and write them as a run's picture of a step. Return None if another process writes it, or
    if they are not finite, which is warned of, as the run looks after its numbers itself."""
    main, training = together is None or together.main, model.training
    try:
        images = sample_images(model.eval(), drawing, together=together)
    except NotFinite as error:
        if main:
            warn(f"no picture of step {step}: {error}")
        return None
    finally:
        model.train(training)
    return save_preview(images, run.preview(step)) if main else None
