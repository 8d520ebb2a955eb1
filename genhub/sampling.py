"""Drawing images from a model: in batches, seeded image by image, on all processes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from genhub.console import shown
from genhub.disk import remove_leftovers, saving, whole
from genhub.errors import CheckpointError, InputError, NotFinite
from genhub.finite import check_finite, check_weights
from genhub.interfaces import Denoiser, GenerativeModel
from genhub.labels import class_numbers
from genhub.launch import launched
from genhub.logs import warn
from genhub.pictures import save_preview
from genhub.seeds import seed_for
from genhub.weights import load_sealed, save_sealed

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")
Labels = str | Sequence[str | int] | None
"""Labels that a person asks for: names, or numbers where there are none; or a text of them with commas."""
SAMPLE_STREAM = 2**32
"""Keeps the seeds of images apart from those of training steps."""
BATCH_SIZE = 256
CPU_PIXELS = 64 * 28 * 28
"""As many at once keep a CPU busy; more take longer, as freed memory of that size goes back to the system each time."""
PART = 500
"""Images in a file of `draw_parts`: what an interrupted drawing loses at most."""


def sample_images(
    model: GenerativeModel,
    n: int,
    *,
    first: int = 0,
    seed: int = 0,
    labels: Sequence[int] | None = None,
    batch_size: int | None = None,
    options: Mapping[str, Any] | None = None,
    accelerator: Accelerator | None = None,
    on_progress: Callable[[int], None] = lambda drawn: None,
) -> Tensor:
    """Draw n images, each from a seed of its own, so that image i does not depend on n, batches or processes.

    Args:
        first: the number of the first image.
        labels: for a conditional model, the wanted classes, by number; fewer than n are repeated in turn.
        batch_size: images drawn at once, at most: halved until memory is enough. Left out: 256; on a CPU, as
            many of them as have 50,000 pixels.
        options: keyword arguments of the model's `sample`.
        accelerator: draw a share on each process and gather; without one, draw them all here.
    Returns:
        (n, c, h, w) uint8 on the CPU.
    Raises:
        InputError: labels for a model that takes none, none for one that needs them, or a label it does not have; or more
            images than memory has room for.
        NotFinite: a weight, or what is drawn, is NaN or infinite; all processes raise it.
    """
    check_weights(model)
    wanted = labels_for(model, n, labels, first)
    check_room(model, n)
    rank, ranks = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    share = -(-n // ranks)
    batch_size = batch_size or drawn_at_once(model)
    mine = [first + index % n for index in range(rank * share, (rank + 1) * share)]  # the last ranks repeat: cut off below
    fault = None
    # Noise is float32; autocast takes it to the precision that a model was loaded in.
    half = torch.autocast(model.device.type, dtype=model.dtype, enabled=model.dtype.itemsize < 4)
    with torch.inference_mode(), half:
        done, drawn = 0, [torch.zeros(0, *model.sample_shape, dtype=torch.uint8)]
        while done < share and fault is None:
            indices = mine[done : done + batch_size]
            given = None if wanted is None else wanted[[index - first for index in indices]].to(model.device)
            try:
                images = model.sample(len(indices), labels=given, generator=generators(seed, indices), **(options or {}))
            except (RuntimeError, MemoryError) as error:  # an image is the same in any batch
                if len(indices) == 1 or not out_of_memory(error):
                    raise
                batch_size = len(indices) // 2
                continue
            fault = _not_finite(model, images, seed, indices, given, options or {})
            drawn.append(
                to_uint8(images) if fault is None else torch.zeros(share - done, *model.sample_shape, dtype=torch.uint8)
            )
            done += len(indices)
            on_progress(done)
        result = torch.cat(drawn)
        if accelerator and ranks > 1:  # a process that stopped here would keep the others waiting
            result = accelerator.gather(result.to(accelerator.device))
            if accelerator.gather(torch.tensor([fault is not None], device=accelerator.device)).any():
                fault = fault or NotFinite(f"{type(model).__name__}: another process drew NaN or infinity")
    if fault is not None:
        raise fault
    return result[:n].cpu()


def out_of_memory(error: BaseException) -> bool:
    """Whether a device's memory is full, or the CPU's, of which torch has no exception of its own, and oneDNN no words."""
    from accelerate.utils.memory import should_reduce_batch_size

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # A file that is to be mapped; and oneDNN's, when it gets none.
    refused = "Cannot allocate memory (12)", "could not create a primitive", "could not create a memory"
    return isinstance(error, RuntimeError) and (
        should_reduce_batch_size(error) or any(words in str(error) for words in refused)
    )


def check_room(model: GenerativeModel, n: int) -> None:
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
    model: GenerativeModel,
    images: Tensor,
    seed: int,
    indices: Sequence[int],
    labels: Tensor | None,
    options: Mapping[str, Any],
) -> NotFinite | None:
    """Return an error that says how images were drawn that are not finite, and from which step of a reverse process on they
    are not; None if they are finite."""
    fine = images.isfinite().flatten(1).all(1)
    if fine.all():
        return None
    step = ""
    if isinstance(model, Denoiser):  # once more, a step at a time
        told = {name: value for name, value in options.items() if not callable(value)}
        steps = model.denoise(len(indices), labels=labels, generator=generators(seed, indices), **told)
        bad = next((one for one in steps if not one.sample.isfinite().all()), None)
        step = f" from step {bad.index + 1} (t = {bad.timestep:.4g}) on" if bad else ""
    given = f", with {', '.join(f'{name}={shown(value)}' for name, value in options.items())}" if options else ""
    number = indices[fine.tolist().index(False)]
    return NotFinite(
        f"{type(model).__name__}: image {number} of seed {seed} is NaN or infinite{step}{given}; it is not written"
    )


def drawn_at_once(model: GenerativeModel) -> int:
    """How many images to draw at once where nobody says."""
    _, height, width = model.sample_shape
    return max(1, min(BATCH_SIZE, CPU_PIXELS // (height * width))) if model.device.type == "cpu" else BATCH_SIZE


def draw_parts(
    model: GenerativeModel,
    n: int,
    folder: Path,
    *,
    seed: int = 0,
    labels: Sequence[int] | None = None,
    batch_size: int | None = None,
    options: Mapping[str, Any] | None = None,
    accelerator: Accelerator | None = None,
    on_progress: Callable[[int], None] = lambda drawn: None,
) -> list[Path]:
    """Draw n images into files of PART images each, for `read_part`; those that are there, undamaged, are not drawn again.
    The last one holds perhaps fewer, or more where more were drawn before. The arguments are those of `sample_images`, and
    must be the same for the same folder.

    Args:
        accelerator: each process draws some of the parts; all return when every part is there.
    Returns:
        The files, in the images' order.
    Raises:
        InputError: see `sample_images`.
        GenhubError: a file can't be written.
    """
    parts = [range(start, min(start + PART, n)) for start in range(0, n, PART)]
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

    draw_blocks(model, parts, there, write, seed=seed, labels=labels, batch_size=batch_size,
                options=options, accelerator=accelerator, on_progress=on_progress)  # fmt: skip
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
    model: GenerativeModel,
    blocks: Sequence[range],
    there: Callable[[range], bool],
    write: Callable[[range, Tensor], None],
    *,
    seed: int,
    labels: Sequence[int] | None,
    batch_size: int | None,
    options: Mapping[str, Any] | None,
    accelerator: Accelerator | None,
    on_progress: Callable[[int], None],
) -> None:
    """Draw blocks of numbered images that are not `there` yet, and have each written as soon as it is drawn: little
    memory, and little lost when stopped. A block is drawn by one process, in the same batches whichever that is, so that
    its bits don't depend on their number. Returns on all processes when all is written."""
    missing = [block for block in blocks if not there(block)]
    rank, ranks = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    if accelerator:
        missing = broadcast(missing)  # the others may look later, when some is there
    done = sum(map(len, blocks)) - sum(map(len, missing))
    on_progress(done)
    for block in missing[rank::ranks]:
        before = done
        images = sample_images(model, len(block), first=block.start, seed=seed, labels=labels, batch_size=batch_size,
                               options=options, on_progress=lambda drawn: on_progress(before + drawn * ranks))  # fmt: skip  # noqa: B023
        write(block, images)
        done += len(block) * ranks
    if accelerator:
        accelerator.wait_for_everyone()


def processes(device: str | torch.device | None = None) -> Accelerator | None:
    """The processes that a launcher started, this one among them, to draw together; None if it is alone. They may wait for
    each other as long as it takes: a launcher stops them all when one dies.

    Args:
        device: as `genhub.load` takes it; of several GPUs, `accelerator.device` is this process's own.
    """
    if (launched() or 1) == 1:
        return None
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    on_cpu = str(device) == "cpu" or not torch.accelerator.is_available()
    return Accelerator(cpu=on_cpu, kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=30))])


def broadcast(value: T) -> T:
    """The first process's value, on all."""
    from accelerate.utils import broadcast_object_list

    values = [value]
    broadcast_object_list(values)
    return values[0]


def generators(seed: int, indices: Iterable[int]) -> list[torch.Generator]:
    """Where the randomness of the images with these numbers comes from."""
    return [torch.Generator().manual_seed(seed_for(seed, SAMPLE_STREAM, index)) for index in indices]


def classes_of(model: GenerativeModel, labels: Labels) -> list[int] | None:
    """Return the numbers of the classes that labels name, as all functions below take them; None: every class, in turn.

    Raises:
        InputError: labels for a model that takes none, or one that it does not have.
    """
    if labels is None:
        return None
    labels_for(model, 0, ())  # whether it takes any
    return class_numbers(labels, names_of(model), model.config.num_classes or 0)


def names_of(model: GenerativeModel) -> tuple[str, ...]:
    """Return the names of a model's classes; () where its data had none."""
    return model.trained_on.class_names if model.trained_on else ()


def called(model: GenerativeModel, classes: Iterable[int]) -> list[str | int]:
    """Return classes as a person knows them: by name, and by number only where they have none."""
    names = names_of(model)
    return [names[number] if number < len(names) else number for number in classes]


def labels_for(model: GenerativeModel, n: int, labels: Sequence[int] | None, first: int = 0) -> Tensor | None:
    """Return (n,) classes of the images from number `first` on: those given, or every class, in turn; None for a model that
    takes none.

    Raises:
        InputError: labels for a model that takes none, none for one that needs them, or a label it does not have.
    """
    name, classes = type(model).__name__, model.config.num_classes
    if "labels" not in model.conditions:
        if labels is not None:
            raise InputError(f"--labels: {name} is not conditional on labels; leave them out")
        return None
    if labels is None:  # every class in turn
        labels = range(classes or 0)
    wrong = [label for label in labels if not 0 <= label < (classes or 0)]
    if wrong:
        raise InputError(f"--labels: {shown(wrong[0])} is not a label of this model; it has 0 to {(classes or 0) - 1}")
    return torch.tensor([labels[i % len(labels)] for i in range(first, first + n)])


def to_uint8(images: Tensor) -> Tensor:
    """Return [-1, 1] float as 0..255 uint8, rounded.

    Raises:
        NotFinite: a value is NaN or infinite, which has no place among them.
    """
    check_finite(images, "images")
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu()


# Previews


def draw_preview(
    model: GenerativeModel, n: int, run_dir: Path, step: int, *, seed: int, accelerator: Accelerator | None = None
) -> Path | None:
    """Draw n images in eval mode, and write them as a run's picture of a step. None: another process writes it; or they are
    not finite, which is warned of, as the run looks after its numbers itself."""
    main, training = accelerator is None or accelerator.is_main_process, model.training
    try:
        images = sample_images(model.eval(), n, seed=seed, accelerator=accelerator)
    except NotFinite as error:
        if main:
            warn(f"no picture of step {step}: {error}")
        return None
    finally:
        model.train(training)
    return save_preview(run_dir, step, images) if main else None
