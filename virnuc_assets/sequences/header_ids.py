"""The id of a record: its header's first word, as data that nothing acts upon."""

from __future__ import annotations

from virnuc_assets.foreign_text import printable
from virnuc_assets.sequences.opening import SequenceFileError

# Every chunk and frame repeats it: an id of a megabyte would make gigabytes of a genome. RefSeq's have some 20 letters.
MAX_ID_LETTERS = 1000


def header_id(header: str, where: str) -> str:
    r"""First word of a header, `>` taken off; signs that are not to be seen are their escapes, as `\x1b`.

    Words end where Python's `str.split` ends them, as in Biopython: also at blanks and line ends of other alphabets.

    Raises:
        SequenceFileError: there is no word, or one that is too long for an id; `where` opens the message.
    """
    words = header.lstrip(">").split(maxsplit=1)
    if not words:
        raise SequenceFileError(f"{where}: a '>' without an id; expected '>ID description'")
    record_id = printable(words[0])
    if len(record_id) > MAX_ID_LETTERS:
        raise SequenceFileError(
            f"{where}: the id {record_id[:40]!r}… has {len(record_id):,} letters; expected at most {MAX_ID_LETTERS:,}. "
            "An id ends at the first blank: put one between id and description."
        )
    return record_id
