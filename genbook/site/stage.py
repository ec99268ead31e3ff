"""The source folder of the page builder, made afresh each time.

index.md, ...          the pages of book/
_static/               their style
chapters/NAME.ipynb    today's prose with the run's outputs
results.json           every number that a page may print
labs.json              what the labs of a page run on
sources/               what pages quote: chapters, claims files, recorded runs
library/               the pages of the library
generated.json         what these and the page of equations show
_config.yml, _toc.yml
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import nbformat

from genbook import ledger, runs
from genbook.site import (
    equations,
    excerpts,
    frame,
    labs,
    library,
    notebook,
    places,
    results,
)
from genbook.site.errors import SiteError

TOC_FILE = re.compile(r"^\s*(?:-\s+)?(?:file|root):\s*(\S+)\s*$", re.MULTILINE)
# What turns a stage into pages: a new version of one of these renders everything again.
RENDERERS = (
    "jupyter-book", "myst-nb", "myst-parser", "pydata-sphinx-theme", "Pygments", "Sphinx",
    "sphinx-book-theme", "sphinx-design", "sphinx-exercise", "sphinx-mathjax-offline",
    "sphinxcontrib-bibtex",
)  # fmt: skip


def fresh_runs(profile: str) -> dict[str, runs.Run]:
    """The run of each chapter that the pages show; a chapter without one is an error."""
    found = {}
    for name in runs.chapters():
        run = runs.find(runs.Request(chapter=name, profile=profile))
        if run is None:
            raise SiteError(
                f"{name}: no {profile} run of the current source; "
                f"make it with: genbook run {name} --profile {profile}"
            )
        found[name] = run
    return found


def pages(root: Path) -> list[str]:
    """The pages that _toc.yml lists, without their endings."""
    return TOC_FILE.findall((root / "_toc.yml").read_text(encoding="utf-8"))


def stage(folder: Path, profile: str, fresh: Mapping[str, runs.Run]) -> None:
    """Write the source folder from nothing."""
    root = ledger.ROOT
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(root / "book", folder, ignore=shutil.ignore_patterns("recorded", ".*"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(root / name, folder / name)
    (folder / "chapters").mkdir()
    for name, run in fresh.items():
        merged = notebook.page(name, root / "chapters" / f"{name}.py", run.notebook)
        frame.link_to_source(merged, name, root)
        nbformat.write(merged, folder / "chapters" / f"{name}.ipynb")
    # In the order of the claims files, in which the ledger lists the claims.
    content = json.dumps(results.collect(profile, fresh), indent=1)
    (folder / "results.json").write_text(content + "\n", encoding="utf-8")
    excerpts.stage(folder, fresh)
    labs.stage(folder, fresh)
    library.stage(folder, places.chapters_that_use(folder / "chapters"))
    tables = equations.stage(folder, library.PACKAGE.parent / "tests")
    made = json.dumps(library.pieces() | tables, indent=0)
    (folder / "generated.json").write_text(made, encoding="utf-8")
    _check_toc(folder, root)


def _check_toc(folder: Path, root: Path) -> None:
    """Every listed page exists, and every page and chapter is listed."""
    listed = pages(root)
    there = {
        path.relative_to(folder).with_suffix("").as_posix()
        for path in folder.rglob("*")
        if path.suffix in (".md", ".ipynb")
    }
    for name in listed:
        if name not in there:
            raise SiteError(f"_toc.yml lists '{name}', which does not exist; "
                            + ledger.nearest(name, sorted(there)))  # fmt: skip
    unlisted = sorted(there - set(listed))
    if unlisted:
        raise SiteError(f"_toc.yml does not list: {', '.join(unlisted)}")


def digest(folder: Path) -> str:
    """A hash of everything that the pages are made of."""
    total = hashlib.sha256()
    versions = {name: importlib.metadata.version(name) for name in RENDERERS}
    total.update(json.dumps(versions, sort_keys=True).encode())
    for base in (folder, Path(__file__).parent):
        for path in sorted(base.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                total.update(f"{path.relative_to(base).as_posix()} {content}\n".encode())
    return total.hexdigest()
