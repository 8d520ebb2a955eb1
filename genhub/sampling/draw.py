"""Draw from a model: in batches, seeded row by row, on all processes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from genhub.errors import CheckpointError, InputError, NotFinite, shown
from genhub.ground.console import warn
from genhub.ground.disk import remove_leftovers, saving, whole, write_whole
from genhub.ground.finite import check_weights
from genhub.ground.garbage import look_for_garbage_as_usual
from genhub.ground.processes import Together
from genhub.ground.randomness import generators
from genhub.ground.weights import load_sealed, save_sealed
from genhub.interfaces.capabilities import Denoiser, DenoisingStep
from genhub.interfaces.conditions import Conditions
from genhub.interfaces.model import Model
from genhub.sampling.asked import kept_rows
from genhub.sampling.pictures import write_picture
from genhub.sampling.request import Drawing
from genhub.store.run_folder import RunFolder

BATCH_SIZE = 256
CPU_NUMBERS = 64 * 28 * 28
"""Numbers drawn at once on a CPU, enough to keep it busy; more take longer, as their memory goes back to the system."""
HEARD = 4
"""Most rows of a preview that are written as sounds."""
PART = 500
"""Rows in a file of `draw_parts`: the most that an interrupted drawing loses."""


def sample_elements(
    model: Model,
    drawing: Drawing,
    *,
    together: Together | None = None,
    on_progress: Callable[[int], None] = lambda drawn: None,
    on_step: Callable[[int, DenoisingStep], None] | None = None,
) -> Tensor:
    """Draw rows, each from a seed of its own, so that row i does not depend on n, batches or processes.

    Args:
        together: draw a share on each process and gather; without one, draw them all here.
        on_step: is given each step of a `Denoiser`, and the number of the first row that is drawn in it; None: nobody looks,
            and a model that has to decode what is drawn does that once.
    Returns:
        (n, *shape) in the modality's own units and type, on the CPU: images as uint8.
    Raises:
        InputError: an option's value that the model can't draw with; or more rows than memory has room for.
        NotFinite: a weight, or what is drawn, is NaN or infinite; all processes raise it.
    """
    look_for_garbage_as_usual()  # tensors may be held by it
    check_weights(model)
    n, first = drawing.n, drawing.first
    check_room(model, n)
    rank, ranks = (together.rank, together.world_size) if together else (0, 1)
    share = -(-n // ranks)
    batch_size = drawing.batch_size or drawn_at_once(model)
    mine = [first + index % n for index in range(rank * share, (rank + 1) * share)]  # the last ranks repeat: cut off below
    fault = None
    # Noise is float32; autocast takes it to the precision that a model was loaded in.
    half = torch.autocast(model.device.type, dtype=model.dtype, enabled=model.dtype.itemsize < 4)
    with torch.inference_mode(), half:
        done, drawn = 0, [model.modality.from_batch(torch.zeros(0, *model.shape))]
        while done < share and fault is None:
            numbers = mine[done : done + batch_size]
            given = drawing.conditions_of(model, numbers)
            seeds = generators(drawing.seed, numbers)
            try:
                if on_step is not None and isinstance(model, Denoiser):
                    x = _by_steps(model, drawing, numbers, given, on_step)
                else:
                    x = model.sample(len(numbers), conditions=given, generator=seeds, **drawing.options)
            except (RuntimeError, MemoryError) as error:  # a row is the same in any batch
                if len(numbers) == 1 or not out_of_memory(error):
                    raise
                batch_size = len(numbers) // 2
                continue
            fault = _not_finite(model, drawing, x, numbers, given)
            drawn.append(model.modality.from_batch(x) if fault is None else drawn[0].new_zeros(share - done, *model.shape))
            done += len(numbers)
            on_progress(done)
        result = torch.cat(drawn)
        if together and ranks > 1:  # a process that stopped here would keep the others waiting
            gathered = together.gather(result.contiguous().view(torch.uint8))  # as bytes: not all types can be sent
            result = gathered.cpu().view(result.dtype)
            if together.gather(torch.tensor([fault is not None])).any():
                fault = fault or NotFinite(f"{type(model).__name__}: another process drew NaN or infinity")
    if fault is not None:
        raise fault
    return result[:n]


def _by_steps(
    model: Model, drawing: Drawing, numbers: Sequence[int], given: Conditions, on_step: Callable[[int, DenoisingStep], None]
) -> Tensor:
    """Return what `sample` draws, by the steps of `denoise`, each of which is shown."""
    seeds, bounds = generators(drawing.seed, numbers), model.modality.bounds
    steps = cast(Denoiser, model).denoise(len(numbers), conditions=given, generator=seeds, **drawing.options)
    for step in steps:
        on_step(numbers[0], step)
    return step.sample if bounds is None else step.sample.clamp(*bounds)


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
        InputError: n rows, and one of them in float32 beside what it is made of, take more memory than the machine has.
    """
    if not hasattr(os, "sysconf"):  # Windows
        return
    needed = math.prod(model.shape) * (n * np.dtype(model.modality.dtype).itemsize + 2 * 4)
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        shape = "x".join(map(str, model.shape))
        raise InputError(
            f"{n:,} rows of {shape} take {needed / 2**30:,.1f} GiB of memory, and this machine has {there / 2**30:,.1f}; "
            "draw fewer at a time: --batch-size, and a folder as --out"
        )


def _not_finite(model: Model, drawing: Drawing, x: Tensor, numbers: Sequence[int], given: Conditions) -> NotFinite | None:
    """Return an error that says what was asked for where rows are not finite, and from which step of a reverse process on
    they are not; None if they are finite."""
    fine = x.isfinite().flatten(1).all(1)
    if fine.all():
        return None
    step = ""
    if isinstance(model, Denoiser):  # once more, a step at a time
        told = {name: value for name, value in drawing.options.items() if not callable(value)}
        steps = model.denoise(len(numbers), conditions=given, generator=generators(drawing.seed, numbers), **told)
        bad = next((one for one in steps if not one.sample.isfinite().all()), None)
        step = f" from step {bad.index + 1} (t = {bad.timestep:.4g}) on" if bad else ""
    number = numbers[fine.tolist().index(False)]
    asked = [f"{name}={shown(value)}" for name, value in drawing.options.items()]
    for name, (modality, wanted) in drawing.asked(model).items():
        kept, there = kept_rows(wanted, modality, [number])
        asked += [f"{name}={modality.caption(kept[0]) or modality.told()}"] if there.all() else []
    with_what = f", with {', '.join(asked)}" if asked else ""
    return NotFinite(
        f"{type(model).__name__}: row {number} of seed {drawing.seed} is NaN or infinite{step}{with_what}; it is not written"
    )


def drawn_at_once(model: Model) -> int:
    """Return how many rows to draw at once by default."""
    return max(1, min(BATCH_SIZE, CPU_NUMBERS // math.prod(model.shape))) if model.device.type == "cpu" else BATCH_SIZE


def draw_parts(
    model: Model,
    drawing: Drawing,
    folder: Path,
    *,
    together: Together | None = None,
    on_progress: Callable[[int], None] = lambda drawn: None,
) -> list[Path]:
    """Draw into files of PART rows each, for `read_part`; those that are there, undamaged, are not drawn again.
    The last one holds perhaps fewer, or more where more were drawn before. But for n and the batch size, a drawing must be
    the same for the same folder.

    Args:
        together: each process draws some of the parts; all return when every part is there.
    Returns:
        The files, in the rows' order.
    Raises:
        InputError: see `sample_elements`.
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

    def write(part: range, elements: Tensor) -> None:
        with saving(files[part]), whole(files[part]) as temporary:
            save_sealed({"elements": elements}, temporary)

    missing = [part for part in parts if not there(part)]
    draw_blocks(model, drawing, missing, write, together=together, on_progress=on_progress)
    return list(files.values())


def part_file(folder: Path, number: int) -> Path:
    """Return the file in which `draw_parts` keeps PART rows, from row PART * `number` on."""
    return folder / f"part-{number:06d}.safetensors"


def read_part(file: Path) -> Tensor:
    """Return the (n, *shape) that `draw_parts` wrote to a file, in the column's own units.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    (elements,) = load_sealed(file)[0].values()
    return elements


def draw_blocks(
    model: Model,
    drawing: Drawing,
    missing: Sequence[range],
    write: Callable[[range, Tensor], None],
    *,
    together: Together | None,
    on_progress: Callable[[int], None],
) -> None:
    """Draw the blocks of numbered rows that are `missing`, and have each written as soon as it is drawn: little memory,
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
        write(block, sample_elements(model, drawing.part(block), on_progress=partial(advance, done)))
        done += len(block) * ranks
    if together:
        together.wait()


# Previews


def draw_preview(
    model: Model, drawing: Drawing, run: RunFolder, step: int, *, together: Together | None = None
) -> Path | None:
    """Draw rows in eval mode, and write their picture, with what each was given, as a run's of a step, and the sounds of the
    first few, if they can be heard. Return the picture's file; None if another process writes it, or if they are not finite,
    which is warned of, as the run looks after its numbers itself."""
    main, training = together is None or together.main, model.training
    try:
        elements = sample_elements(model.eval(), drawing, together=together)
    except NotFinite as error:
        if main:
            warn(f"no picture of step {step}: {error}")
        return None
    finally:
        model.train(training)
    if not main:
        return None
    picture = write_picture(model.modality.picture(elements, drawing.captions(model)), run.preview(step))
    for number, content in enumerate(model.modality.sounds(elements[:HEARD])):
        with saving(run.sound(step, number)):
            write_whole(run.sound(step, number), content)
    return picture
