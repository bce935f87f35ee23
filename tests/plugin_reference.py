"""The reference of hooks and base classes in plugins/README.md, made from the code that it describes.

python -m tests.plugin_reference    writes it between the two marker comments

The classes are read, not imported: source text has what a class object has lost, the docstrings of attributes
and annotations as they were written.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from kcframe.interfaces import hookspecs
from kcframe.registry import BASES

ROOT = Path(__file__).parents[1]
README = ROOT / "plugins/README.md"
BEGIN = "<!-- reference: python -m tests.plugin_reference writes everything from here -->"
END = "<!-- reference: to here -->"
WIDTH = 120
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("kcframe_")}


def reference() -> str:
    """A section for each hook, in Markdown."""
    return "\n".join(line for name in HOOKS for line in _hook(name)).strip() + "\n"


def section_of(text: str) -> str:
    """What stands between the markers in the text of a README."""
    return text.partition(BEGIN)[2].partition(END)[0].strip() + "\n"


def _hook(name: str) -> Iterator[str]:
    module, _, base = BASES[name.removeprefix("kcframe_")].partition(":")
    path = f"{module.replace('.', '/')}.py"
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    public = {
        node.name: node
        for node in tree.body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_")
    }
    yield f"### {name}{inspect.signature(HOOKS[name])}"
    yield ""
    yield from _prose(inspect.getdoc(HOOKS[name]))
    yield from _prose(f"Base class: [`{module}.{base}`](../{path}).")
    yield from _class(public.pop(base))
    if public:
        yield from _prose(f"Also in `{module}`:")
        for node in public.values():
            if isinstance(node, ast.ClassDef):
                yield from _class_in_short(node)
            else:
                yield from _item(_signature(node), ast.get_docstring(node) or "")
        yield ""


def _class(node: ast.ClassDef) -> Iterator[str]:
    for paragraph, is_code in _paragraphs(ast.get_docstring(node)):
        yield from [textwrap.indent(paragraph, " " * 4), ""] if is_code else _prose(paragraph)
    attributes, methods = list(_attributes(node)), list(_methods(node))
    if attributes:
        yield from _prose("Class attributes:")
        yield from attributes
        yield ""
    if methods:
        yield from _prose("Methods (a plugin must have those marked *abstract*):")
        yield from methods
        yield ""


def _class_in_short(node: ast.ClassDef) -> Iterator[str]:
    """A bullet with bullets below it; a dataclass is shown as it is called."""
    prose = " ".join(text for text, is_code in _paragraphs(ast.get_docstring(node)) if not is_code)
    fields = ", ".join(_variable(each) for each in _annotated(node)) if _is_dataclass(node) else ""
    yield from _bullet(f"`{node.name}{f'({fields})' if fields else ''}`{_bases(node)}: {prose}")
    for line in (*(() if fields else _attributes(node)), *_methods(node)):
        yield f"  {line}"


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any(ast.unparse(decorator).startswith("dataclass") for decorator in node.decorator_list)


def _bases(node: ast.ClassDef) -> str:
    shown = [ast.unparse(base) for base in node.bases if ast.unparse(base) != "ABC"]
    return f" ({', '.join(f'`{base}`' for base in shown)})" if shown else ""


def _annotated(node: ast.ClassDef) -> list[ast.AnnAssign]:
    found = [each for each in node.body if isinstance(each, ast.AnnAssign)]
    return [each for each in found if not ast.unparse(each.target).startswith("_")]


def _variable(node: ast.AnnAssign) -> str:
    kind = re.sub(r"ClassVar\[(.*)\]", r"\1", ast.unparse(node.annotation))
    default = ast.unparse(node.value) if node.value else ""
    return f"{ast.unparse(node.target)}: {kind}" + (
        f" = {default}" if default and not default.startswith("field(") else ""
    )


def _attributes(node: ast.ClassDef) -> Iterator[str]:
    """Annotated names, with their defaults and the docstrings behind them."""
    behind = dict(zip(node.body, node.body[1:], strict=False))
    for each in _annotated(node):
        text = behind.get(each)
        is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        yield from _item(_variable(each), str(text.value.value) if is_text else "")


def _methods(node: ast.ClassDef) -> Iterator[str]:
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and (each.name == "__init__" or not each.name.startswith("_")):
            decorators = {ast.unparse(decorator) for decorator in each.decorator_list}
            marks = [mark for mark in ("abstract", "class") if f"{mark}method" in decorators]
            shown = _signature(each)
            if decorators & {"property", "cached_property"}:
                marks.append("property")
                shown = f"{each.name}: {ast.unparse(each.returns)}"
            text = ast.get_docstring(each) or ""
            yield from _item(shown, text, "".join(f"*{mark}* " for mark in marks))


def _signature(function: ast.FunctionDef) -> str:
    given = function.args
    plain = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(plain) - len(given.defaults)) + list(given.defaults)
    shown = [
        _argument(*each) for each in zip(plain, defaults, strict=True) if each[0].arg not in ("self", "cls")
    ]
    if given.vararg or given.kwonlyargs:
        shown.append(f"*{_argument(given.vararg)}" if given.vararg else "*")
    shown += [_argument(*each) for each in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    shown += [f"**{_argument(given.kwarg)}"] if given.kwarg else []
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    return f"{function.name}({', '.join(shown)}){returns}"


def _argument(argument: ast.arg, default: ast.expr | None = None) -> str:
    kind = f": {ast.unparse(argument.annotation)}" if argument.annotation else ""
    return f"{argument.arg}{kind}" + (f" = {ast.unparse(default)}" if default else "")


def _item(shown: str, docstring: str, marks: str = "") -> list[str]:
    """A bullet: code, and the first paragraph of its docstring."""
    first = " ".join(inspect.cleandoc(docstring).partition("\n\n")[0].split())
    return _bullet(f"{marks}`{shown}`{': ' if first else ''}{first}")


def _paragraphs(docstring: str | None) -> list[tuple[str, bool]]:
    """(text, whether it is code): an example starts with a class, and goes on over blank lines."""
    found: list[tuple[str, bool]] = []
    for paragraph in (docstring or "").split("\n\n"):
        indented = paragraph.startswith("    ")
        if indented and found and found[-1][1]:
            found[-1] = f"{found[-1][0]}\n\n{paragraph}", True
        elif indented or paragraph.startswith("class "):
            found.append((textwrap.dedent(paragraph), True))
        else:
            found.append((paragraph, False))
    return [(text, code) for text, code in found if text.strip()]


def _prose(text: str) -> list[str]:
    return [*_wrapped(text), ""]


def _bullet(text: str) -> list[str]:
    first, *more = _wrapped(text, WIDTH - 4)
    return [f"- {first}", *(f"  {line}" for line in more)]


def _wrapped(text: str, width: int = WIDTH) -> list[str]:
    lines = textwrap.wrap(" ".join(text.split()), width, break_long_words=False, break_on_hyphens=False)
    # At the beginning of a line these would start a list, a quotation or a heading.
    return [re.sub(r"^([*+#>-]+|\d+[.)])(?=\s|$)", r"\\\1", line) for line in lines]


def main() -> None:
    """Write the reference into plugins/README.md."""
    text = README.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{README}: needs the lines\n{BEGIN}\n{END}")
    README.write_text(f"{before}{BEGIN}\n\n{reference()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
