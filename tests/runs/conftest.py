"""A project with one tiny chapter in a temporary folder, for tests that execute runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from genbook import ledger

HEADER = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A tiny chapter
# Its prose.

# %% tags=["parameters"]
profile = "smoke"
device = "cpu"
seed = 0

# %%
from genbook import ledger

claims = ledger.Ledger("tiny", profile=profile, seed=seed)
print("profile", profile, "seed", seed)
"""
FOOTER = """
# %%
claims.judge("one", ours=1.0 + 0.1 * seed)
claims.value("speed", 3.0 + seed, unit="m/s", format=".1f")

# %%
claims.close()
"""
CLAIMS = """\
[chapter]
title = "A tiny chapter"

[claims.one]
statement = "One is one"
source = "section 1"
published = 1.0
standing = "primary"
unit = "none"
protocol = "count"
rule = { kind = "band", value = 1.0, within = 0.15 }
why = "a test"
from = "smoke"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a project whose chapter is `tiny`."""
    (tmp_path / "chapters").mkdir()
    (tmp_path / "requirements.txt").write_text("torch==2.13.0\n")
    monkeypatch.setattr(ledger, "ROOT", tmp_path)
    monkeypatch.delenv("GENBOOK_PROFILE", raising=False)
    monkeypatch.delenv("GENBOOK_RUN_DIR", raising=False)
    write(tmp_path, "")
    return tmp_path


def write(root: Path, middle: str) -> None:
    """Write the chapter with further cells between its head and its foot."""
    (root / "chapters" / "tiny.py").write_text(HEADER + middle + FOOTER)
    (root / "chapters" / "tiny.claims.toml").write_text(CLAIMS)


@pytest.fixture
def chapter(project: Path) -> Callable[[str], None]:
    """Rewrite the chapter with these further cells."""
    return lambda middle: write(project, middle)
