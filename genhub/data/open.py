"""Open the data that a recipe names: images in memory, images mapped from the disk, or a stream."""

from __future__ import annotations

from itertools import islice
from math import prod

import numpy as np
import torch
from torch import Tensor

from genhub.data.batches import (
    IN_MEMORY_BYTES,
    LOOKED_AT,
    ImageData,
    few,
    find_range,
    unused_range,
)
from genhub.data.contents import content_of
from genhub.data.decode import SURVEYED, Faults, Reader
from genhub.data.sources import ImageSource, find_images
from genhub.data.stream import FILES, ImageStream, RowDecoder, as_rows
from genhub.errors import DataError
from genhub.ground.digests import hash_of
from genhub.interfaces.config import STORED_CONTENT, DataConfig, DataSpec, described


def load_data(config: DataConfig, known: DataSpec | None = None) -> ImageData:
    """Find the images that a recipe's `data` names, and decode them if they are to be kept in memory.

    Args:
        known: what a model was trained on: labels get the numbers that they had there, where it has them all.
    Raises:
        DataError: there are none, they are a stream, or they can't be read or don't fit together: which, and what to do.
    """
    if config.streaming:
        raise DataError(
            "data.streaming: this needs images by number, which a stream doesn't have; add data.streaming=false, and "
            "perhaps data.split=train[:10000]"
        )
    source = find_images(config)
    for key, had in [("image_column", "image"), ("label_column", "label")] if isinstance(source.rows, np.ndarray) else []:
        if getattr(config, key) not in (None, had):
            raise DataError(f"data.{key}: {config.title} is no table; its only columns are image and label")
    if not len(source.rows):
        raise DataError(f"data.name: {config.title} has no images in split {config.split}")
    reader = Reader(source, config)
    (labels, names), faults = _numbered_as(known, source), Faults()
    images: Tensor | Reader = reader
    shape, kept = reader.shape, np.arange(reader.length)
    in_memory = config.in_memory or (config.in_memory is None and reader.length * prod(shape) <= IN_MEMORY_BYTES)
    span = find_range(reader, range(reader.length) if in_memory else reader.spread(SURVEYED))
    if in_memory:
        pixels, faults = reader.read_all()
        if faults and (config.on_error == "fail" or len(faults) == reader.length):
            raise reader.fault(faults)
        if faults:
            kept = np.delete(kept, [row for row, _ in faults])
            pixels, labels = pixels[kept], None if labels is None else labels[kept]
        images, shape = torch.from_numpy(pixels), (pixels.shape[1], *shape[1:])
        fingerprint = content = hash_of(pixels.shape, pixels, None if labels is None else labels.numpy())
    else:
        numbers = None if labels is None else labels.numpy()
        fingerprint = STORED_CONTENT + hash_of(content_of(reader), config.size, config.channels, span, numbers)
        content = hash_of(fingerprint, config.on_error)
    notes = [f"{config.title}: passed over {few(source.passed_over)}: no regular file, or it leads back"]
    notes = notes if source.passed_over else []
    if not in_memory:
        notes += unused_range(reader, reader.spread(LOOKED_AT))
    elif len(kept) and int(pixels[:, :3].max()) - int(pixels[:, :3].min()) <= 64:  # all are looked at again, exactly
        notes += unused_range(reader, kept.tolist())
    spec = described(
        name=config.title,
        split=config.split,
        shape=shape,
        num_images=len(kept),
        fingerprint=fingerprint,
        class_names=names,
        value_range=span,
        num_classes=None if labels is None else len(names),
    )
    return ImageData(reader.config, spec, labels, content, reader.named(faults), kept, images, tuple(notes))


def _numbered_as(known: DataSpec | None, source: ImageSource) -> tuple[Tensor | None, tuple[str, ...]]:
    """Return labels and class names, numbered as in the data that a model was trained on, if all of them were there: another
    split may lack some."""
    names = known.class_names or tuple(map(str, range(known.num_classes or 0))) if known else ()
    if source.labels is None or names == source.class_names or not set(source.class_names) <= set(names):
        return source.labels, source.class_names
    return torch.tensor([names.index(name) for name in source.class_names])[source.labels], names


def open_data(config: DataConfig) -> ImageData | ImageStream:
    """Open the images or the stream that a recipe's `data` names, to be trained on.

    Raises:
        DataError: it is not there, can't be read or can't be streamed.
    """
    if not config.streaming:
        return load_data(config)
    if config.in_memory:
        raise DataError("data.in_memory: a stream is not kept in memory; leave it out, or data.streaming")
    source = find_images(config)
    if not hasattr(source.rows, "state_dict"):
        raise DataError(f"data.streaming: {config.title} can't be streamed; parquet, arrow and Hub data sets can")
    table = source.rows if source.rows.num_shards >= FILES else source.rows.reshard()
    reader = Reader(as_rows([row[source.columns[0]] for row in islice(table, SURVEYED)], source.remote), config)
    span = find_range(reader, range(reader.length))
    seen = [source.fingerprint, config.size, config.channels, config.shuffle_buffer]
    spec = described(
        name=config.title,
        split=config.split,
        shape=reader.shape,
        num_images=source.length,
        fingerprint=hash_of(*seen, *([span] if span else [])),
        class_names=source.class_names,
        num_classes=len(source.class_names) or None,
        value_range=span,
    )
    notes = tuple(unused_range(reader, range(reader.length)))
    return ImageStream(reader.config, spec, table, RowDecoder(reader, *source.columns), notes=notes)
