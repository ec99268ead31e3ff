"""Where the names of the library occur: in which section of a chapter, in which test."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from docutils.nodes import fully_normalize_name, make_id

from genbook.site import library, names

HEADING = re.compile(r"^(#{1,6}) (.+)$", re.MULTILINE)
MARKUP = re.compile(r"[`$*]")


@dataclass
class Section:
    """A section of a chapter: its prose, the names that its code uses, and those it shows."""

    chapter: str
    title: str
    prose: str = ""
    used: set[str] = field(default_factory=set)
    shown: set[str] = field(default_factory=set)

    @property
    def address(self) -> str:
        """From the top of the book; Sphinx makes the anchor from the heading in the same way."""
        return f"chapters/{self.chapter}.html#{make_id(fully_normalize_name(self.title))}"


@dataclass(frozen=True)
class Test:
    """A test function that calls something."""

    file: str
    name: str


def chapter_imports(notebook: Path) -> dict[str, str]:
    """What the names that a chapter imports from the library stand for."""
    code = [cell.source for cell in nbformat.read(notebook, as_version=4).cells
            if cell.cell_type == "code"]  # fmt: skip
    return library.imports(ast.parse("\n".join(code)))


def chapters_that_use(chapters: Path) -> dict[str, list[str]]:
    """By module of the library, links to the chapters that import it."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(chapters.glob("*.ipynb")):
        modules = map(library.module_of, chapter_imports(path).values())
        for module in sorted(set(filter(None, modules))):
            found[module].append(f"{{doc}}`/chapters/{path.stem}`")
    return found


def sections(chapters: Path) -> list[Section]:
    """The sections of the staged chapters, in the order of names and pages."""
    return [s for path in sorted(chapters.glob("*.ipynb")) for s in _sections(path)]


def _sections(path: Path) -> Iterator[Section]:
    imported, section = chapter_imports(path), Section(path.stem, "")
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts = HEADING.split(cell.source)
            section.prose += parts[0]
            for title, prose in zip(parts[2::3], parts[3::3], strict=True):
                if section.title:
                    yield section
                section = Section(path.stem, MARKUP.sub("", title), prose)
        elif cell.cell_type == "code":
            tree = ast.parse(cell.source)
            section.used |= set(names.used(tree, imported))
            section.shown |= {
                name
                for call in ast.walk(tree)
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "show"
                for name in names.used(ast.List(call.args, ast.Load()), imported)
            }
    yield section


def tests(folder: Path) -> Mapping[str, list[Test]]:
    """The tests that call each documented name: those that do it themselves, then those that do it
    by a helper in their file."""
    found: dict[str, list[tuple[bool, Test]]] = defaultdict(list)
    for path in sorted(folder.rglob("test_*.py")):
        file = path.relative_to(folder.parent).as_posix()
        for name, (own, helped) in tests_of(path.read_text(encoding="utf-8")).items():
            for target in sorted(own | helped):
                found[target].append((target not in own, Test(file, name)))
    return {
        target: [test for _, test in sorted(called, key=lambda pair: pair[0])]
        for target, called in found.items()
    }


def tests_of(text: str) -> dict[str, tuple[set[str], set[str]]]:
    """The documented names that each test of a file uses, itself and by helpers of the file."""
    tree = ast.parse(text)
    imported = library.imports(tree)
    methods = _methods({path.split(".")[0] for path in imported.values()})
    parts = {
        node.name: node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    used = {name: _used(node, imported, methods) for name, node in parts.items()}
    words = {name: _words(node) for name, node in parts.items()}
    return {
        name: (used[name], set().union(*(used[part] for part in _reached(name, words))))
        for name in parts
        if name.startswith("test_")
    }


def _used(node: ast.AST, imported: Mapping[str, str], methods: Mapping[str, set[str]]) -> set[str]:
    called = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    return set(names.used(node, imported)).union(*(methods.get(name, ()) for name in called))


def _words(node: ast.AST) -> set[str]:
    """Names and arguments in a part of a file: pytest gives a fixture to an argument."""
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} | {
        part.arg for part in ast.walk(node) if isinstance(part, ast.arg)
    }


def _methods(modules: set[str]) -> dict[str, set[str]]:
    """The methods of the classes in these modules by name: code calls them on some object."""
    found: dict[str, set[str]] = defaultdict(set)
    for module in library.modules().values():
        if module.path.split(".")[0] in modules:
            for entry in module.entries:
                for method in entry.methods:
                    found[method.name].add(method.path)
    return found


def _reached(name: str, words: Mapping[str, set[str]]) -> set[str]:
    """The parts of a file that a part uses, helpers and fixtures of the file among them."""
    reached, waiting = set(), [name]
    while waiting:
        part = waiting.pop()
        if part not in reached:
            reached.add(part)
            waiting += words[part] & words.keys()
    return reached
