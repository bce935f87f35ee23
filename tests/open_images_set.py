"""A small Open Images: the published descriptions and hierarchy, made-up pictures of colours and their
labels.

python -m tests.open_images_set FOLDER      writes it, for recipes/openimages-sample.yaml
"""

from __future__ import annotations

import csv
import io
import random
import sys
from pathlib import Path

import numpy as np
from PIL import Image

PUBLISHED = Path(__file__).parent / "builtin" / "open_images"
COLOURS = {
    "sparrow": (200, 60, 30), "tortoise": (40, 160, 40), "taxi": (230, 210, 20), "wine": (120, 10, 60),
}  # fmt: skip


def small_set(bad: bool = True) -> dict[str, bytes]:
    """Files by name: the published descriptions and hierarchy, labels, pictures of colours, nine bad ones."""
    draws, noise = random.Random(1), np.random.default_rng(1)
    files = {n: (PUBLISHED / n).read_bytes() for n in ("class-descriptions.csv", "bbox_hierarchy.json")}
    mids = {row[1]: row[0] for row in csv.reader(io.StringIO(files["class-descriptions.csv"].decode()))}
    for split, count in (("train", 60), ("validation", 24)):
        labels, rotations = ["ImageID,Source,LabelName,Confidence"], ["ImageID,Subset,Rotation"]
        for number in range(count):
            image = f"{draws.getrandbits(64):016x}"
            shown = draws.sample(list(COLOURS), 1 + number % 2)
            absent = draws.choice([name for name in COLOURS if name not in shown])
            labels += [f"{image},verification,{mids[name]},1" for name in shown]
            labels.append(f"{image},verification,{mids[absent]},0")
            rotations.append(f"{image},{split},{90 * (number % 4) or ''}")
            pixels = noise.normal(0, 25, (40, 48, 3)) + np.array(COLOURS[shown[0]])
            if len(shown) == 2:
                pixels[20:] += np.array(COLOURS[shown[1]]) - np.array(COLOURS[shown[0]])
            picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            data = as_file(picture, number if bad else 17)
            if data is not None:
                files[f"{split}/{image}.jpg"] = data
        files[f"{split}-annotations-human-imagelabels.csv"] = "\n".join(labels).encode()
        files[f"{split}-images-with-labels-with-rotation.csv"] = "\n".join(rotations).encode()
    return files


def as_file(picture: Image.Image, number: int) -> bytes | None:
    """A picture in one of many formats under the name of a JPEG; None: missing."""
    buffer = io.BytesIO()
    kind = number % 30
    if kind == 7:
        return b""
    if kind == 11:
        return b"<!doctype html><h1>403</h1>"
    if kind == 13:
        return None
    if kind == 17:
        picture.convert("CMYK").save(buffer, "JPEG")
    elif kind == 19:
        picture.convert("L").save(buffer, "JPEG")
    elif kind == 23:
        picture.quantize(8).convert("P").save(buffer, "PNG")
    elif kind == 29:
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.save(buffer, "JPEG", exif=exif)
    else:
        picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write(folder: Path, bad: bool = True) -> None:
    """The small set as files."""
    for name, data in small_set(bad).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "open-images-sample"))
