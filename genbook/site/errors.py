"""The one error that the site raises: its text says what is wrong and where."""


class SiteError(Exception):
    """The book cannot be staged, rendered or trusted."""
