"""Every relative link in the Markdown files leads to a file that is there, and to a heading that is in it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (".", ".github", "cluster", "kcframe", "plugins", "plugins/*", "recipes")
FILES = sorted(path.relative_to(ROOT) for folder in FOLDERS for path in ROOT.glob(f"{folder}/*.md"))
CODE = re.compile(r"^(```|~~~).*?^\1[^\S\n]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!\\)\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)")
ELSEWHERE = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)  # https:, mailto:


def prose(path: Path) -> str:
    """A file without its examples, fenced or indented, in which no link is one."""
    text = re.sub(r"^ {4}.*$", "", CODE.sub("", path.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", lambda code: re.sub(r"[\[\]()]", " ", code[0]), text)


@cache
def anchors(path: Path) -> set[str]:
    """What `#…` may name in a file: its headings as GitHub calls them, and ids."""
    text = CODE.sub("", path.read_text(encoding="utf-8"))
    found = set(re.findall(r'<a (?:id|name)="([^"]+)"', text))
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        count = sum(1 for each in found if re.fullmatch(rf"{re.escape(slug)}(-\d+)?", each))
        found.add(f"{slug}-{count}" if slug in found else slug)
    return found


def test_the_readmes_are_found():
    known = {"README.md", "recipes/README.md", "plugins/README.md", "cluster/README.md", "kcframe/README.md"}
    assert known <= {path.as_posix() for path in FILES}


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_relative_link_leads_somewhere(file):
    wrong = []
    for link in LINK.findall(prose(ROOT / file)):
        if ELSEWHERE.match(link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / file).parent / unquote(path) if path else ROOT / file
        if not target.exists():
            wrong.append(f"{link}: no such file")
        elif anchor and unquote(anchor) not in anchors(target.resolve()):
            wrong.append(f"{link}: no such heading")
    assert not wrong, "\n".join([f"{file}:", *wrong])


@pytest.mark.parametrize("file", FILES, ids=str)
def test_no_id_is_given_twice(file):
    ids = re.findall(r'<a (?:id|name)="([^"]+)"', prose(ROOT / file))
    assert len(ids) == len(set(ids))
