"""Untrusted text that stays text: on a terminal, in a table that a person opens in a spreadsheet, in Markdown."""

from __future__ import annotations

import re

# What makes a spreadsheet read a cell as a formula (OWASP, "CSV Injection"), also in full width or behind a quote that
# it takes for the cell's own; and the character that is put before them, so that it can be removed again.
_FORMULA_CHARACTERS = "=+-@\uff1d\uff0b\uff0d\uff20"  # noqa: RUF001 - full width is what is meant
_MARK = "'"
_ACTS = tuple(_FORMULA_CHARACTERS + '"' + _MARK)
_ACTS_WHEN_SPLIT = re.compile(f'"|[,;]([{re.escape(_FORMULA_CHARACTERS)}]|$)')


def printable(text: str, keep: str = "") -> str:
    r"""The text with every non-printable character as its escape: `\x1b`, `\u202e`; those of `keep` stay.

    These are control characters, among them those that terminals obey, marks of the direction of writing, and blanks
    and line ends of every kind but the plain blank.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in keep else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def spreadsheet_cell(text: str) -> str:
    """The text with a `'` before it if it begins as a formula would, or with a quote or `'`; else as it is."""
    return _MARK + text if text.startswith(_ACTS) else text


def spreadsheet_text(cell: str) -> str:
    """What `spreadsheet_cell` made a cell of."""
    return cell.removeprefix(_MARK)


def csv_field(text: str) -> str:
    """As `spreadsheet_cell`, for a file named `.csv`, which spreadsheets may cut at `,` or `;`.

    A text in which a formula, or the next cell, would begin there is put in double quotes, as the csv module writes
    and reads them.
    """
    cell = spreadsheet_cell(text)
    return '"' + cell.replace('"', '""') + '"' if _ACTS_WHEN_SPLIT.search(cell) else cell


def markdown_cell(text: str) -> str:
    """Text for a table cell or a list item of Markdown; characters that Markdown or HTML act on are escaped."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return "".join(f"\\{letter}" if letter in "\\|`*_[]!~#>" else letter for letter in escaped)
