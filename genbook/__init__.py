"""genbook: the library under a book of executable reproductions of generative-model papers."""

__version__ = "0.1.0"
