"""The static book: stage executed chapters and pages, render them, check what came out."""

from genbook.site.errors import SiteError
from genbook.site.pdf import print_book
from genbook.site.render import build

__all__ = ["SiteError", "build", "print_book"]
