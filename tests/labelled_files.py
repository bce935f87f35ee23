"""Small data sets of pictures with their labels beside them: tar shards and Parquet files."""

from __future__ import annotations

import io
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ("birds/wren", "birds/crow", "cars/coupe")
COUNTS = {"train": 12, "test": 6}


def pictures(split):
    """(key, label, a PNG's bytes), no two alike."""
    found = []
    for number in range(COUNTS[split]):
        buffer = io.BytesIO()
        colour = (20 * number, 250 - 9 * number, 40 if split == "train" else 90)
        Image.new("RGB", (14, 12), colour).save(buffer, "PNG")
        found.append((f"{split}{number:03d}", CLASSES[number % 3], buffer.getvalue()))
    return found


def write_tar(file, members):
    """members: (name, bytes)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for name, data in members:
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return file


def write_shards(root, split, per_shard=5, label=lambda text: ("cls", text.encode()), folder="a/b/"):
    every = pictures(split)
    for shard, first in enumerate(range(0, len(every), per_shard)):
        members = []
        for key, text, data in every[first : first + per_shard]:
            ending, content = label(text)
            members += [(f"{folder}{key}.{ending}", content), (f"{folder}{key}.png", data)]
        write_tar(root / f"{split}-{shard:03d}.tar", members)


def write_parquet(root, image=lambda data: data, label=lambda text: text, types=None, rows=4):
    for split in COUNTS:
        every = pictures(split)
        half = len(every) // 2
        for number, part in enumerate((every[:half], every[half:])):
            columns = {
                "image": pa.array([image(data) for _, _, data in part], (types or {}).get("image")),
                "label": pa.array([label(text) for _, text, _ in part], (types or {}).get("label")),
            }
            table = pa.table(columns).replace_schema_metadata((types or {}).get("metadata"))
            pq.write_table(table, root / f"{split}-{number}.parquet", row_group_size=rows)
