"""YAML documents that remember file and line of each value, and can be overlaid on each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kcframe.errors import RecipeError
from kcframe.storage.remote import explained, without_secrets

Key = str | int
Keys = tuple[Key, ...]

PLUGIN_KEYS = {key: key for key in ("data", "backbone", "expander", "pacing", "objective")}
"""Keys of a recipe that name one plugin -> the plugin's kind."""

PLUGIN_LISTS = {"teachers": "teacher", "callbacks": "callback"}
"""Keys that name several plugins -> their kind."""

PLAIN_TAGS = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}
MAX_NODES = 100_000  # stops a YAML alias bomb before it fills the memory; no recipe is this long


@dataclass
class Document:
    """tree: mappings, lists and scalars. origins: path in the tree -> 'file:line' where it was written."""

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[Keys, str] = field(default_factory=dict)

    def origin(self, path: Keys) -> str:
        """Where a path was written, or its nearest ancestor that was."""
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins.get(path, "recipe")

    def at(self, path: Keys) -> Document:
        """The part below a path; empty if there is none."""
        tree: Any = self.tree
        for key in path:
            tree = tree.get(key, {}) if isinstance(tree, Mapping) else {}
        n = len(path)
        return Document(tree, {k[n:]: v for k, v in self.origins.items() if k[:n] == path})


def dotted(path: Keys) -> str:
    """('student', 'teachers', 0, 'name') -> 'student.teachers.0.name'."""
    return ".".join(map(str, path)) or "(top level)"


def read_document(source: str) -> Document:
    """A recipe file with all files that it includes. source: a path or any fsspec URL."""
    return _with_includes(source, ())


def _with_includes(source: str, chain: tuple[str, ...]) -> Document:
    shown = without_secrets(source)
    if source in chain:
        way = " -> ".join([*map(without_secrets, chain), shown])
        raise RecipeError(f"{shown}: includes go in a circle: {way}")
    document = parse(_read_text(source, chain[-1] if chain else None), shown)
    includes = document.tree.pop("include", [])
    for path in [path for path in document.origins if path[:1] == ("include",) and len(path) > 1]:
        del document.origins[path]
    include_origin = document.origins.pop(("include",), shown)
    if isinstance(includes, str):
        includes = [includes]
    if not isinstance(includes, list) or not all(isinstance(name, str) for name in includes):
        raise RecipeError(f"{include_origin}: include: should be a file name or a list of file names")
    layers = [_with_includes(_beside(source, name), (*chain, source)) for name in includes]
    merged = Document()
    for layer in (*layers, document):
        merged = overlay(merged, layer, lambda kind, name: None)
    return merged


def _beside(source: str, name: str) -> str:
    if "://" in name or Path(name).is_absolute():
        return name
    if "://" in source:
        return f"{source.rsplit('/', 1)[0]}/{name}"
    return str(Path(source).parent / name)


def _read_text(source: str, included_by: str | None) -> str:
    where = without_secrets(source)
    if included_by:
        where = f"{without_secrets(included_by)} includes {where}"
    try:
        if "://" in source:
            import fsspec

            with fsspec.open(source, "rb") as file:
                raw: bytes = file.read()
        else:
            raw = Path(source).read_bytes()
        return raw.decode()
    except FileNotFoundError:
        near = sorted(p.name for p in Path(source).parent.glob("*.y*ml")) if "://" not in source else []
        hint = f"; there are: {', '.join(near[:10])}" if near else ""
        raise RecipeError(f"{where}: no such file{hint}") from None
    except IsADirectoryError:
        raise RecipeError(f"{where}: this is a folder; name a recipe file in it") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{where}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except Exception as error:  # each storage raises its own
        raise RecipeError(f"{where}: cannot be read: {explained(error)}") from None


def parse(text: str, source: str) -> Document:
    """YAML text -> Document. Raises RecipeError with file and line, also for a key given twice."""
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                raise RecipeError(f"{source}: the file is empty: a recipe starts with 'kcframe: 1'")
            builder = _Builder(loader, source)
            tree = builder.build(node, (), ())
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        what = error.problem or error.context or "cannot be parsed"
        tab = " (indent with spaces, not tabs)" if "\\t" in what else ""
        raise RecipeError(f"{source}{line}: not valid YAML: {what}{tab}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}: not valid YAML: {error}".replace("\n", " ")) from None
    if not isinstance(tree, dict):
        raise RecipeError(f"{source}:1: a recipe is a mapping (kcframe: 1, name: …), not a {_kind(tree)}")
    return Document(tree, builder.origins)


def _kind(value: Any) -> str:
    return "list" if isinstance(value, list) else "single value"


class _Builder:
    def __init__(self, loader: yaml.SafeLoader, source: str):
        self.loader, self.source = loader, source
        self.origins: dict[Keys, str] = {}
        self.problems: list[str] = []

    def build(self, node: yaml.Node, path: Keys, parents: tuple[yaml.Node, ...]) -> Any:
        line = f"{self.source}:{node.start_mark.line + 1}"
        self.origins.setdefault(path, line)
        if node in parents:
            raise RecipeError(f"{line}: {dotted(path)}: refers to itself")
        if len(self.origins) > MAX_NODES:
            raise RecipeError(f"{line}: the recipe has more than {MAX_NODES} values")
        if isinstance(node, yaml.CollectionNode) and node.tag not in PLAIN_TAGS:
            raise RecipeError(f"{line}: {dotted(path)}: not valid YAML here: the tag {node.tag}")
        if isinstance(node, yaml.MappingNode):
            written = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            twice = sorted({key for key in written if written.count(key) > 1 and key != "<<"})
            if twice:
                raise RecipeError(f"{line}: {dotted(path)}: '{twice[0]}' is given twice")
            self.loader.flatten_mapping(node)
            tree = {}
            for key_node, value in node.value:
                if not isinstance(key_node, yaml.ScalarNode):
                    raise RecipeError(f"{line}: {dotted(path)}: keys are plain names")
                key = str(key_node.value)
                if key in tree:
                    self._forget((*path, key))
                self.origins[(*path, key)] = f"{self.source}:{key_node.start_mark.line + 1}"
                tree[key] = self.build(value, (*path, key), (*parents, node))
            return tree
        if isinstance(node, yaml.SequenceNode):
            return [
                self.build(child, (*path, index), (*parents, node)) for index, child in enumerate(node.value)
            ]
        return self.loader.construct_object(node)

    def _forget(self, path: Keys) -> None:
        """Forgets the origins below a path that an alias (<<: *other) set and a later key replaces."""
        for below in [below for below in self.origins if below[: len(path)] == path]:
            del self.origins[below]


def parse_overrides(settings: Sequence[str]) -> Document:
    """`--set a.b.c=value` options as a document; each value is read as YAML."""
    document = Document()
    for setting in settings:
        dots, equals, text = setting.partition("=")
        keys = dots.strip().split(".")
        if not equals or not all(keys):
            raise RecipeError(f"--set {setting}: write it as path=value, for example student.train.epochs=3")
        try:
            value = yaml.safe_load(text) if text.strip() else None
        except yaml.YAMLError:
            raise RecipeError(f"--set {setting}: '{text}' is not a YAML value") from None
        tree: dict[str, Any] = {keys[-1]: value}
        for key in reversed(keys[:-1]):
            tree = {key: tree}
        origins: dict[Keys, str] = {tuple(keys[:n]): f"--set {setting}" for n in range(1, len(keys) + 1)}
        document = overlay(document, Document(tree, origins), lambda kind, name: None)
    return document


KnownOptions = Callable[[str, str], set[str] | None]
"""(kind, plugin name) -> names of the plugin's options; None if there is no such plugin."""


def overlay(under: Document, over: Document, known_options: KnownOptions) -> Document:
    """Overlays one document on another: mappings are merged, everything else is replaced.

    If `over` names another plugin than `under`, options of `under` remain only if the new plugin has them,
    too: `expander: {name: fc-fc}` keeps s1 and s2, `objective: {name: hard-bce}` drops k.
    """
    tree = _merge(under.tree, over.tree, (), known_options)
    replaced = {path for path in over.origins if isinstance(_value(over.tree, path), list)}
    origins = {
        path: where
        for path, where in under.origins.items()
        if _has(tree, path) and not any(path[:n] in replaced for n in range(len(path)))
    }
    origins.update({_in(tree, path): where for path, where in over.origins.items()})
    return Document(tree, origins)


def _value(tree: Any, path: Keys) -> Any:
    for key in _in(tree, path):
        tree = tree[key]
    return tree


def _in(tree: Any, path: Keys) -> Keys:
    """The path with integer keys for lists of the tree: in the paths of --set all keys are texts."""
    keys: list[Key] = []
    for key in path:
        if isinstance(tree, list):
            key = int(key)
            tree = tree[key] if key < len(tree) else None
        elif isinstance(tree, dict):
            tree = tree.get(key)
        keys.append(key)
    return tuple(keys)


def _has(tree: Any, path: Keys) -> bool:
    for key in path:
        in_list = isinstance(tree, list) and isinstance(key, int) and key < len(tree)
        if in_list or (isinstance(tree, dict) and key in tree):
            tree = tree[key]
        else:
            return False
    return True


def _merge(under: Any, over: Any, path: Keys, known_options: KnownOptions) -> Any:
    kind = PLUGIN_KEYS.get(str(path[-1])) if path else None
    if kind is not None:
        under, over = _as_plugin(under), _as_plugin(over)
    if isinstance(under, list) and isinstance(over, dict) and over and all(k.isdigit() for k in over):
        # --set student.teachers.0.name=…: a number in a path is the index of a list entry.
        items = [_as_plugin(item) for item in under] if path[-1] in PLUGIN_LISTS else list(under)
        for key, value in over.items():
            if int(key) < len(items):
                items[int(key)] = _merge(items[int(key)], value, (*path, int(key)), known_options)
            else:
                items.append(value)
        return items
    if not isinstance(under, dict) or not isinstance(over, dict):
        return over
    if kind is not None and "name" in over and "name" in under and over["name"] != under["name"]:
        option_names = known_options(kind, str(over["name"]))
        options = under.get("options")
        if isinstance(options, dict) and option_names is not None:
            under = {**under, "options": {k: v for k, v in options.items() if k in option_names}}
    merged = dict(under)
    for key, value in over.items():
        merged[key] = _merge(under[key], value, (*path, key), known_options) if key in under else value
    return merged


def _as_plugin(value: Any) -> Any:
    # `pacing: self-paced` is short for `pacing: {name: self-paced}`.
    return {"name": value} if isinstance(value, str) else value
