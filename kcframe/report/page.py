"""Renders self-contained pages from the templates of this folder; pictures are embedded as data."""

from __future__ import annotations

import base64
import io
from typing import Any

import jinja2
from PIL import Image

THUMBNAIL = 96  # longest side in pixels, so that a page with sixty photographs stays small


def render(template: str, **values: Any) -> str:
    """Renders a template of this folder. Texts in the values are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kcframe", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["figure"] = lambda value: "–" if value is None else f"{value:.1f}"
    environment.filters["heat"] = lambda value: 0 if value is None else round(0.6 * value)
    environment.filters["plain"] = _plain
    return environment.get_template(template).render(values)


def thumbnail(picture: Image.Image) -> str:
    """A small copy of a picture as a PNG file in base64."""
    if max(picture.size) > THUMBNAIL:
        picture = picture.copy()
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _plain(value: Any) -> str:
    """A fact about the data as a line of text."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_plain(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
