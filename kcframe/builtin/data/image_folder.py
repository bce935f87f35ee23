"""Data source `image-folder`: folders of pictures, one folder a class."""

from __future__ import annotations

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import NamedTuple

import fsspec
import numpy as np
import torch
from fsspec.implementations.local import LocalFileSystem
from PIL import Image, UnidentifiedImageError
from pydantic import Field, ValidationError
from torch import Tensor

from kcframe.builtin.data.image_folder_options import ImageFolderOptions
from kcframe.errors import DataError, did_you_mean
from kcframe.interfaces.data import DataSource, ImageSet, Labels
from kcframe.interfaces.options import PluginOptions
from kcframe.taxonomy import Taxonomy

SCALE = (0.35, 1.0)  # of a picture's area: random crops
RATIO = (3 / 4, 4 / 3)  # width : height of random crops
TRIES = 10  # crops drawn before settling for the centre, as in Szegedy et al. 2014
CENTRE = 7 / 8  # of the short side: pictures without augmentation
UPRIGHT = {  # EXIF orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageFolder(DataSource):
    """Pictures in root/train and root/test, the class being the folder that a picture lies in.

    Without a taxonomy file they lie in <vertical>/<class>/; a class folder in two verticals is one class
    that stands in both. With one they lie at any depth, and its classes need no pictures. Names that begin
    with a dot are left out. Both splits are listed when either, or the taxonomy, is first asked for;
    DataError if a folder is missing or empty or a class is unknown.
    """

    name = "image-folder"
    Options = ImageFolderOptions

    def __init__(self, options: ImageFolderOptions):
        super().__init__(options)
        self.channels, self.image_size = options.channels, options.image_size

    @cached_property
    def _built(self) -> tuple[Taxonomy, dict[str, ImageFolderSet], Counter[str]]:
        options = self.options
        formats = _formats(options.extensions)
        train = _list(options.root, options.train, options.extensions)
        test = _list(options.root, options.test, options.extensions)
        if options.taxonomy is None:
            _refuse_other_depths(train, test)
            taxonomy = _taxonomy_of(train)
            _refuse_new_classes(train, test)
        else:
            taxonomy = read_taxonomy(options.taxonomy)
        sets = {
            name: ImageFolderSet(
                options, listing, _class_ids(listing, taxonomy, options.taxonomy), taxonomy, formats
            )
            for name, listing in (("train", train), ("test", test))
        }
        return taxonomy, sets, train.left_out + test.left_out

    @property
    def taxonomy(self) -> Taxonomy:
        return self._built[0]

    def split(self, name: str) -> ImageFolderSet:
        return self._built[1][name]

    def describe(self) -> dict[str, object]:
        taxonomy, sets, left_out = self._built
        facts: dict[str, object] = {f"{name} pictures": len(images) for name, images in sets.items()}
        for name, images in sets.items():
            # Ancestors are labels too, so a parent class is only counted if its children have no pictures.
            facts[f"classes without {name} pictures"] = taxonomy.num_classes - len(
                images.labels.classes.unique()
            )
        return facts | {"files left out": dict(sorted(left_out.items()))}


class ImageFolderSet(ImageSet):
    """One split. Pictures are decoded by a pool of threads, started when first needed."""

    def __init__(
        self,
        options: ImageFolderOptions,
        listing: _Listing,
        class_ids: Sequence[int],
        taxonomy: Taxonomy,
        formats: Sequence[str],
    ):
        """class_ids: one an entry of `listing.files`. formats: Pillow's names of what may be decoded."""
        self.options, self.listing, self.formats = options, listing, formats
        labels = {class_id: taxonomy.with_ancestors([class_id]) for class_id in set(class_ids)}
        self.labels = Labels.from_lists(labels[class_id] for class_id in class_ids)
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_pool": None}

    def name(self, index: int) -> str:
        return f"{self.listing.name}/{self.listing.files[index]}"

    def load(self, indices: Tensor, keys: Tensor | None) -> Tensor:
        each_key = [None] * len(indices) if keys is None else keys.tolist()
        run = map if self.options.threads == 1 else self._executor().map
        size, channels = self.options.image_size, self.options.channels
        pixels = np.empty((len(indices), size, size, channels), np.uint8)
        for row, picture in enumerate(run(self._picture, indices.tolist(), each_key)):
            pixels[row] = picture
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)

    def _executor(self) -> ThreadPoolExecutor:
        # A forked process inherits the pool but none of its threads.
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = os.getpid(), ThreadPoolExecutor(self.options.threads, "image-folder")
        return self._pool[1]

    def _picture(self, index: int, key: int | None) -> np.ndarray:
        """uint8 [S, S, C]."""
        size = self.options.image_size
        try:
            data = self.listing.filesystem.cat_file(f"{self.listing.folder}/{self.listing.files[index]}")
        except FileNotFoundError:
            raise DataError(f"{self.name(index)}: no such file (any more)") from None
        except Exception as error:  # each storage raises its own
            raise DataError(f"{self.name(index)}: cannot be read: {type(error).__name__}: {error}") from None
        try:
            image = decode(data, self.formats, "L" if self.options.channels == 1 else "RGB", 2 * size)
        except Exception as error:  # damaged pictures fail in many ways
            raise DataError(
                f"{self.name(index)}: cannot be decoded: {error or type(error).__name__}"
            ) from None
        box, mirrored = centre_box(image.size), False
        if key is not None and self.options.augmentation != "none":
            draws = np.random.Generator(np.random.Philox(key=key % 2**64)).random(4 * TRIES + 1)
            box = random_box(image.size, draws[1:].reshape(TRIES, 4))
            mirrored = self.options.augmentation == "crop-flip" and draws[0] < 0.5
        image = image.resize((size, size), Image.Resampling.BILINEAR, box)
        pixels = np.asarray(image).reshape(size, size, -1)
        return pixels[:, ::-1] if mirrored else pixels


# -- pictures -------------------------------------------------------------------------------------


def decode(data: bytes, formats: Sequence[str], mode: str, side: int) -> Image.Image:
    """A file's (first) picture, upright, in 'L' or 'RGB', what is transparent in it over white.

    side: JPEGs far larger than this are decoded at a fraction of their size, no smaller than this.
    Raises ValueError or whatever Pillow raises, with the reason.
    """
    if not data:
        raise ValueError("the file has zero bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        raise ValueError(_what_it_is(data, formats)) from None
    width, height = image.size
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(
            f"{width}x{height} pixels are more than the {Image.MAX_IMAGE_PIXELS:,} that Pillow holds for safe"
        )
    try:
        turn = UPRIGHT.get(image.getexif().get(0x0112, 1))
    except Exception:  # a picture with damaged EXIF data is still a picture
        turn = None
    scale = side / min(width, height)
    image.draft(mode, (math.ceil(width * scale), math.ceil(height * scale)))
    image.load()
    image = _to_mode(image, mode)
    return image if turn is None else image.transpose(turn)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is not known")
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip at 255
        image = Image.fromarray((np.asarray(image) // 257).clip(0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _what_it_is(data: bytes, formats: Sequence[str]) -> str:
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is an HTML page, not a picture: the download went wrong"
    if start.startswith((b"<?xml", b"<svg")):
        return "it is XML (SVG?), not a picture made of pixels"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: fetch the picture with 'git lfs pull'"
    return f"it is none of {', '.join(formats)}, or damaged ({len(data):,} bytes, the first are {data[:8]!r})"


def centre_box(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """What is left of a picture when its short side becomes 8/7 S and the middle S x S is kept."""
    width, height = size
    side = min(size) * CENTRE
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def random_box(size: tuple[int, int], draws: np.ndarray) -> tuple[float, float, float, float]:
    """A crop that fits: left, top, right, bottom. draws: float [TRIES, 4] in [0, 1)."""
    width, height = size
    for area_draw, ratio_draw, x_draw, y_draw in draws:
        area = width * height * (SCALE[0] + (SCALE[1] - SCALE[0]) * area_draw)
        ratio = RATIO[0] * (RATIO[1] / RATIO[0]) ** ratio_draw
        crop_width, crop_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if crop_width <= width and crop_height <= height:
            left, top = (width - crop_width) * x_draw, (height - crop_height) * y_draw
            return left, top, left + crop_width, top + crop_height
    return centre_box(size)


def _formats(extensions: Sequence[str]) -> list[str]:
    """Pillow's formats for these endings. No others: some (EPS) would start a program to read a file."""
    known = Image.registered_extensions()
    for extension in extensions:
        if f".{extension}" not in known:
            raise DataError(
                f"data.options.extensions: Pillow reads no '{extension}' files; "
                f"{did_you_mean(extension, (name[1:] for name in known))}"
            )
    return sorted({known[f".{extension}"] for extension in extensions})


# -- folders --------------------------------------------------------------------------------------


class _Listing(NamedTuple):
    """files: paths below `folder`, in order. name: the folder as the user calls it. left_out: by ending."""

    filesystem: fsspec.AbstractFileSystem
    folder: str
    name: str
    files: list[str]
    left_out: Counter[str]


def _list(root: str, split: str, extensions: Sequence[str]) -> _Listing:
    name = f"{root.rstrip('/')}/{split.strip('/')}"
    try:
        filesystem, path = fsspec.url_to_fs(root)
        folder = f"{path.rstrip('/')}/{split.strip('/')}"
        if not filesystem.isdir(folder):
            below = [each.rstrip("/").rpartition("/")[2] for each in filesystem.ls(path, detail=False)]
            raise DataError(f"{name}: no such folder; {did_you_mean(split, below)}")
        paths = [path[len(folder) + 1 :] for path in _files(filesystem, folder)]
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"data.options.root: no folder '{root}'") from None
    except Exception as error:  # each storage raises its own
        raise DataError(f"{name}: cannot be listed: {type(error).__name__}: {error}") from None
    files, left_out = [], Counter[str]()
    for file in sorted(paths, key=lambda path: path.split("/")):
        parts = file.split("/")
        if not parts[-1] or any(part.startswith(".") for part in parts):
            continue
        stem, _, ending = parts[-1].rpartition(".")
        if stem and ending.lower() in extensions:
            files.append(file)
        else:
            left_out[f".{ending}" if stem else "no ending"] += 1
    if not files:
        raise DataError(f"{name}: no picture in it that ends in {', '.join(extensions)}")
    return _Listing(filesystem, folder, name, files, left_out)


def _files(filesystem: fsspec.AbstractFileSystem, folder: str) -> Iterator[str]:
    """All files below a folder; on this machine's disks also those behind links to folders."""
    if not isinstance(filesystem, LocalFileSystem):
        yield from filesystem.find(folder)
        return
    for place, folders, files in os.walk(folder, followlinks=True):
        here = os.path.realpath(place) + os.sep
        folders[:] = [each for each in folders if not _leads_up(os.path.join(place, each), here)]
        yield from (f"{place}/{file}" for file in files)


def _leads_up(path: str, here: str) -> bool:
    """Whether a path is a link to `here` or a folder above it, which would be walked for ever."""
    return os.path.islink(path) and here.startswith(os.path.realpath(path) + os.sep)


def _refuse_other_depths(*listings: _Listing) -> None:
    for listing in listings:
        for file in listing.files:
            if file.count("/") != 2:
                raise DataError(
                    f"{listing.name}/{file}: not in <vertical>/<class>/; for other folders, give a taxonomy file "
                    "(data.options.taxonomy)"
                )


def _taxonomy_of(train: _Listing) -> Taxonomy:
    verticals: dict[str, dict[str, None]] = {}
    for file in train.files:
        vertical, name, _ = file.split("/")
        verticals.setdefault(vertical, {})[name] = None
    return Taxonomy.build({vertical: list(names) for vertical, names in verticals.items()})


def _refuse_new_classes(train: _Listing, test: _Listing) -> None:
    known = dict.fromkeys(file.rpartition("/")[0] for file in train.files)
    for file in test.files:
        folder = file.rpartition("/")[0]
        if folder not in known:
            raise DataError(
                f"{test.name}/{folder}: no such class in {train.name}; {did_you_mean(folder, known)}"
            )


def _class_ids(listing: _Listing, taxonomy: Taxonomy, source: str | None) -> list[int]:
    """One an entry of `listing.files`. source: the taxonomy's file, for the error."""
    ids = {name: class_id for class_id, name in enumerate(taxonomy.classes)}
    found = []
    for file in listing.files:
        name = f"/{file}".split("/")[-2]
        if name not in ids:
            if not name:
                raise DataError(f"{listing.name}/{file}: in no class folder")
            raise DataError(
                f"{listing.name}/{file}: {source} has no class '{name}'; {did_you_mean(name, taxonomy.classes)}"
            )
        found.append(ids[name])
    return found


# -- taxonomy files -------------------------------------------------------------------------------


class _TaxonomyFile(PluginOptions):
    verticals: dict[str, list[str]]
    parents: dict[str, list[str]] = Field(default_factory=dict)


def read_taxonomy(url: str) -> Taxonomy:
    """A CSV or JSON taxonomy file, told apart by their first character.

    CSV: header class,vertical[,parents]; a row for each vertical that a class stands in; `;` between
    parents. JSON: {"verticals": {name: [classes]}, "parents": {class: [classes]}} or `Taxonomy.to_json`.
    Raises DataError, naming the file and what is wrong in it.
    """
    try:
        with fsspec.open(url, "rb") as file:
            text = file.read().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"data.options.taxonomy: no file '{url}'") from None
    except Exception as error:  # each storage raises its own
        raise DataError(f"{url}: cannot be read: {type(error).__name__}: {error}") from None
    try:
        if not text.lstrip().startswith("{"):
            return _from_csv(text)
        if '"kcframe_taxonomy"' in text:
            return Taxonomy.from_json(text)
        found = _TaxonomyFile.model_validate_json(text)
        return Taxonomy.build(found.verticals, found.parents)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{url}: {place + ': ' if place else ''}{first['msg']}") from None
    except (DataError, csv.Error) as error:
        raise DataError(f"{url}: {error}") from None


def _from_csv(text: str) -> Taxonomy:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    columns = [name.strip() for name in reader.fieldnames or ()]
    if sorted({*columns, "parents"}) != ["class", "parents", "vertical"]:
        raise DataError(
            f"the first line must be class,vertical or class,vertical,parents, not {','.join(columns)}"
        )
    reader.fieldnames = columns
    verticals: dict[str, list[str]] = {}
    parents: dict[str, dict[str, None]] = {}
    for row in reader:
        if len(row) != len(columns) or not all(row[column] for column in ("class", "vertical")):
            raise DataError(
                f"line {reader.line_num}: needs a class and a vertical, and {len(columns)} columns"
            )
        name = row["class"].strip()
        verticals.setdefault(row["vertical"].strip(), []).append(name)
        above = (parent.strip() for parent in (row.get("parents") or "").split(";"))
        parents.setdefault(name, {}).update((parent, None) for parent in above if parent)
    return Taxonomy.build(verticals, parents)
