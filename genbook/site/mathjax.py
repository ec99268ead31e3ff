"""Sphinx extension: MathJax from the installed package, cut down to what the pages load.

The package sphinx-mathjax-offline copies all of MathJax, 24 MB, into a site.  A page needs one
script, which holds every TeX command, and those fonts whose letters it sets.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

SCRIPT = "tex-chtml-full.js"
FONTS = "output/chtml/fonts/woff-v2"
# Fonts that any formula may need, and those that only a command brings in.
ALWAYS = (
    "AMS-Regular", "Main-Bold", "Main-Italic", "Main-Regular", "Math-BoldItalic", "Math-Italic",
    "Size1-Regular", "Size2-Regular", "Size3-Regular", "Size4-Regular", "Vector-Regular", "Zero",
)  # fmt: skip
BY_COMMAND = {
    r"\\(mathcal|cal|pmb|symcal)\b": ("Calligraphic-Regular", "Calligraphic-Bold"),
    r"\\(mathfrak|frak)\b": ("Fraktur-Regular", "Fraktur-Bold"),
    r"\\mathscr\b": ("Script-Regular",),
    r"\\(mathsf|sf|textsf)\b": ("SansSerif-Regular", "SansSerif-Bold", "SansSerif-Italic"),
    r"\\(mathtt|tt|texttt|verb)\b": ("Typewriter-Regular",),
    r"\\(boldsymbol|bm|pmb)\b": ("Calligraphic-Bold", "Vector-Bold", "SansSerif-Bold"),
}
SETTINGS = {
    # The menu would load the rest of MathJax; assistive MathML for screen readers stays on.
    "options": {"enableMenu": False},
    "chtml": {"displayAlign": "center", "mtextInheritFont": True},
}


def package_folder() -> Path:
    """Where the pip package keeps MathJax.  Its name has hyphens, so it cannot be imported."""
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package sphinx-mathjax-offline is not installed")
    return Path(spec.origin).parent / "static" / "mathjax"


def fonts_for(formulas: str) -> list[str]:
    """The fonts that these formulas can ask for."""
    wanted = set(ALWAYS)
    for pattern, names in BY_COMMAND.items():
        if re.search(pattern, formulas):
            wanted.update(names)
    return sorted(f"MathJax_{name}.woff" for name in wanted)


def copy(app: Sphinx, error: Exception | None) -> None:
    """Copy the script and the fonts once all pages are written."""
    if error is not None:
        return
    formulas = [
        node.astext()
        for name in app.env.found_docs
        for node in app.env.get_doctree(name).findall()
        if isinstance(node, nodes.math | nodes.math_block)
    ]
    source, target = package_folder(), Path(app.outdir) / "_static" / "mathjax"
    (target / FONTS).mkdir(parents=True)
    shutil.copy(source / SCRIPT, target / SCRIPT)
    for name in fonts_for("\n".join(formulas)):
        shutil.copy(source / FONTS / name, target / FONTS / name)


def setup(app: Sphinx) -> dict[str, Any]:
    app.setup_extension("sphinx.ext.mathjax")
    app.config.mathjax_path = f"mathjax/{SCRIPT}"
    app.config.mathjax3_config = SETTINGS
    app.connect("build-finished", copy)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
