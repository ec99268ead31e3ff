"""`python -m genbook` is the command `genbook`."""

from genbook.cli import app

app(prog_name="genbook")
