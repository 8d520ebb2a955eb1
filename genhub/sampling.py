"""Drawing images from a model: in batches, seeded image by image, on all processes; pictures of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import numpy as np
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from genhub.disk import saving
from genhub.errors import InputError, did_you_mean
from genhub.interfaces import GenerativeModel
from genhub.launch import launched
from genhub.seeds import seed_for

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")
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
        labels: for a conditional model, the wanted labels; fewer than n are repeated in turn.
        batch_size: images drawn at once, at most: halved until memory is enough. Left out: 256; on a CPU, as
            many of them as have 50,000 pixels.
        options: keyword arguments of the model's `sample`.
        accelerator: draw a share on each process and gather; without one, draw them all here.
    Returns:
        (n, c, h, w) uint8 on the CPU.
    Raises:
        InputError: labels for a model that takes none, none for one that needs them, or a label it does not have.
    """
    wanted = labels_for(model, n, labels, first)
    rank, ranks = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    share = -(-n // ranks)
    batch_size = batch_size or drawn_at_once(model)
    mine = [first + index % n for index in range(rank * share, (rank + 1) * share)]  # the last ranks repeat: cut off below
    drawn = []
    # Noise is float32; autocast takes it to the precision that a model was loaded in.
    half = torch.autocast(model.device.type, dtype=model.dtype, enabled=model.dtype.itemsize < 4)
    with torch.inference_mode(), half:
        done = 0
        while done < share:
            indices = mine[done : done + batch_size]
            given = None if wanted is None else wanted[[index - first for index in indices]].to(model.device)
            try:
                images = model.sample(len(indices), labels=given, generator=generators(seed, indices), **(options or {}))
            except (RuntimeError, MemoryError) as error:  # an image is the same in any batch
                if len(indices) == 1 or not out_of_memory(error):
                    raise
                batch_size = len(indices) // 2
                continue
            drawn.append(to_uint8(images))
            done += len(indices)
            on_progress(done)
        result = torch.cat(drawn)
        if accelerator and ranks > 1:
            result = accelerator.gather(result.to(accelerator.device))
    return result[:n].cpu()


def out_of_memory(error: BaseException) -> bool:
    """Whether a device's memory is full, or the CPU's, of which torch has no exception of its own."""
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, Exception) and should_reduce_batch_size(error)
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
    """Draw n images into files of PART images each, which are not drawn again: part-PPPPPP.npy holds (PART, c, h, w) uint8,
    the last one perhaps fewer, or more where more were drawn before. The arguments are those of `sample_images`, and must be
    the same for the same folder.

    Args:
        accelerator: each process draws some of the parts; all return when every part is there.
    Returns:
        The files, in the images' order.
    Raises:
        InputError: see `sample_images`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [range(start, min(start + PART, n)) for start in range(0, n, PART)]
    files = {part: folder / f"part-{part.start // PART:06d}.npy" for part in parts}

    def there(part: range) -> bool:
        return files[part].is_file() and len(np.load(files[part], mmap_mode="r")) >= len(part)

    def write(part: range, images: Tensor) -> None:
        temporary = files[part].with_suffix(".tmp")
        with temporary.open("wb") as stream:
            np.save(stream, images.numpy(), allow_pickle=False)
        temporary.replace(files[part])

    draw_blocks(model, parts, there, write, seed=seed, labels=labels, batch_size=batch_size,
                options=options, accelerator=accelerator, on_progress=on_progress)  # fmt: skip
    return list(files.values())


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


def labels_for(model: GenerativeModel, n: int, labels: Sequence[int] | None, first: int = 0) -> Tensor | None:
    """(n,) labels of the images from number `first` on: those given, or every class, in turn; None for a model that takes
    none.

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
        raise InputError(f"--labels: {wrong[0]} is not a label of this model; it has 0 to {(classes or 0) - 1}")
    return torch.tensor([labels[i % len(labels)] for i in range(first, first + n)])


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] float to 0..255 uint8, rounded."""
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu()


def read_options(model_class: type[GenerativeModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values for the keyword arguments of a model's `sample`, checked against its signature.

    Raises:
        InputError: an unknown option, or one of the wrong type.
    """
    own = {"self", "n", "labels", "generator"}
    known = [name for name in inspect.signature(model_class.sample).parameters if name not in own]
    return check_arguments(model_class.sample, values, known, option="--set ", owner=model_class.__name__)


def check_arguments(
    function: Callable[..., Any], values: Mapping[str, Any], known: Iterable[str], *, option: str, owner: str
) -> dict[str, Any]:
    """Values for the arguments `known` of a function, checked against its annotations; `option` and `owner` are how a
    message calls an argument, and whose it is.

    Raises:
        InputError: an unknown argument, or one of the wrong type.
    """
    hints = get_type_hints(function, include_extras=True)
    checked = {}
    for name, value in values.items():
        if name not in known:
            raise InputError(f"{option}{name}: {owner} has no such option; {did_you_mean(name, known)}")
        try:
            checked[name] = TypeAdapter(hints[name]).validate_python(value)
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ").replace("Input should", "must")
            raise InputError(f"{option}{name}: {message}, not {value!r}") from error
    return checked


# Pictures


def image_grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """(n, c, h, w) uint8 as one picture, with small images enlarged."""
    n, _, height, width = images.shape
    columns = columns or max(1, round((n * height / width) ** 0.5))
    tiles, gap = [enlarged(picture(image)) for image in images], 2
    width, height = tiles[0].size
    size = columns * (width + gap) + gap, -(-n // columns) * (height + gap) + gap
    canvas = Image.new(tiles[0].mode, size, (128,) * len(tiles[0].getbands()))
    for i, tile in enumerate(tiles):
        canvas.paste(tile, (gap + i % columns * (width + gap), gap + i // columns * (height + gap)))
    return canvas


def enlarged(image: Image.Image) -> Image.Image:
    """A small image, so that eyes can read it, smoothly: they read an 8x8 digit better that way."""
    scale = max(1, 64 // max(image.size))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)


def picture(image: Tensor) -> Image.Image:
    """(c, h, w) uint8 as a picture: grey, RGB or RGBA; of other channel counts the first (two) or first three."""
    channels = image.shape[0]
    shown = image if channels in (1, 3, 4) else image[: 1 if channels == 2 else 3]
    array = shown.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def save_preview(run_dir: Path, step: int, images: Tensor) -> Path:
    """Write (n, c, h, w) uint8 as a run's picture of a step, samples/step-NNNNNN.png."""
    file = run_dir / "samples" / f"step-{step:06d}.png"
    with saving(file):
        file.parent.mkdir(exist_ok=True)
        image_grid(images).save(file)
    return file
