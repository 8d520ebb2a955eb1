"""What data cost before the first batch and while training: seconds, images/s and memory against the number of images.

    python benchmarks/data.py [--images 10000 100000 1000000] [--out results.json]

Writes parquet files of 32x32 colour PNGs (1,000 different ones over and over, 10,000 to a row group, 100,000 to a file) into a
temporary folder, and reads 200 batches of 128 in a fresh process for each line: from a copy in memory or on the disk, made
(`first`) or found again (`again`), and as a stream. Seconds are from the recipe's data section to the first batch,
imports left out. Memory is what the main process took for itself (anonymous pages, at the end), less what it had after the
imports; and its peak in all, which has the pages of mapped files in it that the kernel takes back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

BATCHES, BATCH = 200, 128
MODES = ("first", "again", "stream")

READ = """
import json, resource, sys, time
import torch, datasets, PIL.Image, pyarrow.parquet
from genhub.interfaces.columns import DataConfig
from genhub.data.open import open_data
def anonymous():
    return next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('RssAnon')) / 1024
name, streaming, batches, size = sys.argv[1], sys.argv[2] == 'stream', int(sys.argv[3]), int(sys.argv[4])
before, start = anonymous(), time.perf_counter()
data = open_data(DataConfig(name=name, streaming=streaming, batch_size=size, num_workers=1))
found = data.batches(seed=0)
next(found)
first = time.perf_counter() - start
for _ in range(batches):
    next(found)
seconds = time.perf_counter() - start - first
assert data.spec.num_rows == int(sys.argv[5])
del found
print(json.dumps({'seconds': round(first, 2), 'images_per_second': round(batches * size / seconds),
                  'anonymous_mib': round(anonymous() - before),
                  'peak_mib': round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}))
"""


def png(image: Any) -> bytes:
    """A colour image (3, h, w) as a PNG."""
    from PIL import Image

    stream = BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(stream, format="PNG")
    return stream.getvalue()


def write(folder: Path, images: int) -> None:
    import numpy as np
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    generator = np.random.Generator(np.random.PCG64(0))
    smooth = generator.integers(0, 256, (1000, 3, 8, 8), np.uint8).repeat(4, 2).repeat(4, 3)
    pool = [{"bytes": png(image), "path": None} for image in smooth]
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": [str(n) for n in range(10)]}}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("label", pa.int64())],
                       metadata={"huggingface": json.dumps({"info": {"features": features}})})  # fmt: skip
    for start in range(0, images, 100_000):
        with ParquetWriter(folder / f"part-{start:08d}.parquet", schema, use_dictionary=False) as writer:
            for group in range(start, min(start + 100_000, images), 10_000):
                rows = range(group, min(group + 10_000, images))
                table = {"image": [pool[row % 1000] for row in rows], "label": [row % 10 for row in rows]}
                writer.write_table(pa.table(table, schema=schema))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    lines = []
    print(
        "| images | read | to the first batch, s | images/s | own memory, MiB | peak in all, MiB |\n| --- "
        + "| --- " * 5
        + "|"
    )
    for images in arguments.images:
        with tempfile.TemporaryDirectory(prefix="genhub-data-") as temporary:
            folder = Path(temporary, "images")
            folder.mkdir()
            write(folder, images)
            environment = os.environ | {"HF_DATASETS_CACHE": str(Path(temporary, "cache")), "OMP_NUM_THREADS": "1"}
            for mode in MODES:
                words = [str(folder / "*.parquet"), mode, str(BATCHES), str(BATCH), str(images)]
                output = subprocess.run([sys.executable, "-c", READ, *words], check=True, text=True, env=environment,
                                        stdout=subprocess.PIPE).stdout  # fmt: skip
                line = {"images": images, "read": mode, **json.loads(output.splitlines()[-1])}
                lines.append(line)
                print(
                    "| "
                    + " | ".join(f"{value:,}" if isinstance(value, int) else str(value) for value in line.values())
                    + " |",
                    flush=True,
                )
    if arguments.out:
        arguments.out.write_text(json.dumps(lines, indent=2) + "\n")


if __name__ == "__main__":
    main()
