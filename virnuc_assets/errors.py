"""The one family of errors that a person can fix: what, where, expected, found, and what to do."""

from virnuc_assets.text import printable


class VirnucError(Exception):
    """An input, a setting or a table is not what the platform needs; the message carries the remedy."""

    def __str__(self) -> str:
        """The message; file names and ids in it, which may be any bytes, as text that every page can show."""
        return printable(super().__str__(), keep="\n\t")
