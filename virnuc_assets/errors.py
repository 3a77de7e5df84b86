"""The one family of errors that a person can mend: what, where, expected, found, and what to do."""


class VirnucError(Exception):
    """An input, a setting or a table is not what the platform needs; the message carries the remedy."""
