"""The pages of the library, written from its source: what chapters import, room by room.

The source is read, never imported.  Docstrings are plain text with formulas, so they reach the
page as they are and not as markup.  A name's anchor is its path in the package:
library/aevb.html#aevb.elbo, and for a method library/diffusion.html#diffusion.Reverse.loss.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import NamedTuple

from docutils.nodes import make_id
from pygments import format as formatted
from pygments import token
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

PACKAGE = Path(__file__).parents[1]
# What stands together on a page, which is named by the first.
ROOMS = (
    ("aevb", "iwae", "hmc"),
    ("cgan", "tagging"),
    ("delta_vae", "rows", "pixels"),
    ("diffusion", "unet", "mixtures"),
    ("wae",),
    ("coverage", "contrast", "plane", "ddgan", "survae"),
    ("metrics", "metrics.classifier", "metrics.frechet", "metrics.inception", "metrics.modes",
     "metrics.neighbours", "metrics.parzen"),
    ("data", "data.words", "data.flickr", "data.crowd"),
    ("training", "parallel", "precision", "graphs", "nn"),
    ("ledger", "reading", "plotting"),
)  # fmt: skip
INTRODUCTION = """Written from the source when the book is built: every public name, with its
docstring as it stands in the code, and the rest of its source folded below."""
# Only these are coloured; a class for every name, word and bracket would double the pages.
COLOURED = (token.Comment, token.Literal.String, token.Name.Class, token.Name.Function)
CODE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Entry:
    """A public name of a module: function, class with its methods, or constant."""

    path: str  # in the package, such as aevb.elbo
    signature: str
    doc: str
    source: str
    methods: tuple[Entry, ...] = ()

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]


@dataclass(frozen=True)
class Module:
    """A module of the package: its docstring, and its public names in the order of the source."""

    path: str
    doc: str
    entries: tuple[Entry, ...]
    borrowed: Mapping[str, str]  # names that it takes from other modules of the package


class Piece(NamedTuple):
    """HTML made for a page: words, which the search finds, and code, which it leaves alone."""

    words: str
    code: str = ""


@cache
def modules() -> dict[str, Module]:
    """The documented modules, in the order of the pages."""
    return {path: _read(path) for room in ROOMS for path in room}


def _read(path: str) -> Module:
    file = PACKAGE.joinpath(*path.split("."))
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    entries = [entry for node in tree.body for entry in _entries(node, text, path)]
    return Module(path, ast.get_docstring(tree) or "", tuple(entries), imports(tree))


def module_of(path: str) -> str | None:
    """The documented module that a path names or lies in."""
    while path and path not in modules():
        path = path.rpartition(".")[0]
    return path or None


def imports(tree: ast.AST) -> dict[str, str]:
    """What the names that code imports from the package stand for: nets -> nn, show ->
    reading.show."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "genbook":
            parent = (node.module or "").removeprefix("genbook").lstrip(".")
            for alias in node.names:
                path = f"{parent}.{alias.name}".lstrip(".")
                found[alias.asname or alias.name] = path
    return found


def _entries(node: ast.stmt, text: str, within: str) -> Iterator[Entry]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        if node.name.startswith("_"):
            return
        path, methods = f"{within}.{node.name}", []
        if isinstance(node, ast.ClassDef):
            methods = [entry for part in node.body for entry in _methods(part, text, path)]
        doc = ast.get_docstring(node) or ""
        yield Entry(path, _signature(node), doc, _source(node, text), tuple(methods))
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            if isinstance(target, ast.Name) and not target.id.startswith("_"):
                yield Entry(f"{within}.{target.id}", "", "", _source(node, text))


def _methods(node: ast.stmt, text: str, within: str) -> Iterator[Entry]:
    """The public methods, and what the docstring of a class leaves to that of its __init__."""
    if isinstance(node, ast.FunctionDef):
        yield from _entries(node, text, within)


def _source(node: ast.stmt, text: str) -> str:
    """The lines of a definition with its decorators, without the docstrings that the page shows."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    shown = {line for part in (node, *getattr(node, "body", [])) for line in _docstring(part)}
    lines = enumerate(text.splitlines()[first - 1 : node.end_lineno], start=first)
    return "\n".join(line for number, line in lines if number not in shown)


def _docstring(node: ast.stmt) -> range:
    """The lines of the docstring of something public that has more than a docstring."""
    public = not getattr(node, "name", "_").startswith("_")
    body = getattr(node, "body", [])
    if not public or len(body) < 2 or ast.get_docstring(node) is None:  # type: ignore[arg-type]
        return range(0)
    return range(body[0].lineno, body[0].end_lineno + 1)


def _signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    if isinstance(node, ast.FunctionDef):
        result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return f"{node.name}({_arguments(node)}){result}"
    made = next((n for n in node.body if getattr(n, "name", "") == "__init__"), None)
    if isinstance(made, ast.FunctionDef):
        return f"{node.name}({_arguments(made)})"
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        fields = [ast.unparse(n) for n in node.body if isinstance(n, ast.AnnAssign)]
        return f"{node.name}({', '.join(fields)})"
    return f"class {node.name}({', '.join(map(ast.unparse, node.bases))})".removesuffix("()")


def _arguments(node: ast.FunctionDef) -> str:
    return re.sub(r"^self(, )?", "", ast.unparse(node.args))


@cache
def catalogue() -> dict[str, str]:
    """The address of every documented name, from the top of the book."""
    found = {}
    for room in ROOMS:
        page = f"library/{room[0]}.html"
        for module in (modules()[path] for path in room):
            names = [entry.path for entry in module.entries]
            names += [method.path for entry in module.entries for method in entry.methods]
            found[module.path] = f"{page}#{make_id(f'genbook.{module.path}')}"
            found |= {name: f"{page}#{name}" for name in names}
    for module in modules().values():
        for name, path in module.borrowed.items():
            if path in found:
                found.setdefault(f"{module.path}.{name}", found[path])
    return found


def stage(folder: Path, used: Mapping[str, Iterable[str]]) -> None:
    """Write the pages, which only name what stands on them; `used` gives, by module, links to the
    chapters that use it."""
    (folder / "library").mkdir()
    for room in ROOMS:
        (folder / "library" / f"{room[0]}.md").write_text(_page(room, used), encoding="utf-8")


def pieces() -> dict[str, Piece]:
    """What stands under each name of a page."""
    found = {path: Piece(paragraphs(module.doc)) for path, module in modules().items()}
    return found | {e.path: _piece(e) for m in modules().values() for e in m.entries}


def _page(room: tuple[str, ...], used: Mapping[str, Iterable[str]]) -> str:
    title = ", ".join(path for path in room if path == room[0] or "." not in path)
    parts = [f"# {title}", INTRODUCTION]
    for module in (modules()[path] for path in room):
        parts += [f"## genbook.{module.path}", _directive("generated", module.path)]
        chapters = ", ".join(used.get(module.path, ()))
        parts += [f"Used in {chapters}."] if chapters else []
        parts += [_directive("entry", entry.path) for entry in module.entries]
    return "\n\n".join(parts) + "\n"


def _directive(name: str, path: str) -> str:
    return f"```{{{name}}} {path}\n```"


def _piece(entry: Entry) -> Piece:
    """Signature, docstring and methods, and the source to unfold."""
    if not entry.signature:
        return Piece("", coloured(entry.source))
    methods = "".join(
        f'<dt id="{m.path}"><code>{escape(m.signature)}</code></dt><dd>{paragraphs(m.doc)}</dd>'
        for m in entry.methods
    )
    return Piece(
        f'<p class="gb-signature"><code>{escape(entry.signature)}</code></p>'
        + paragraphs(entry.doc)
        + (f'<dl class="gb-methods">{methods}</dl>' if methods else ""),
        f'<details class="gb-folded"><summary>Source of {entry.name}</summary>'
        f"{coloured(entry.source)}</details>",
    )


def coloured(source: str) -> str:
    kept = (
        (next((kind for kind in COLOURED if found in kind), token.Text), text)
        for found, text in PythonLexer().get_tokens(source)
    )
    html = formatted(kept, HtmlFormatter(nowrap=True))
    return f'<div class="highlight notranslate"><pre tabindex="0">{html}</pre></div>'


def paragraphs(doc: str) -> str:
    """A docstring as paragraphs; one with lines set in keeps its lines."""
    out = []
    for part in re.split(r"\n\s*\n", inspect.cleandoc(doc)) if doc else []:
        text = CODE.sub(r"<code>\1</code>", escape(part, quote=False))
        if re.search(r"^(?: |- )", part, re.MULTILINE):
            out.append(f'<pre class="gb-doc" tabindex="0">{textwrap.dedent(text)}</pre>')
        else:
            out.append(f"<p>{' '.join(text.split())}</p>")
    return "".join(out)
