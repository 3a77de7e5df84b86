"""Awkward files that people hand in: each leads to the outcome that the table next to them documents."""

from __future__ import annotations

import html
import re
from collections import Counter
from pathlib import Path

import pytest

from virnuc_assets.cli.stages import frame_file
from virnuc_assets.sequences.opening import SequenceFileError
from virnuc_assets.storage.schemas import frames_schema
from virnuc_assets.storage.tables import read_table

FOLDER = Path(__file__).parents[1] / "nasty"
REFUSED = "refused: "
CHUNK_LENGTHS = (300, 500)


def documented() -> dict[str, tuple[str, str]]:
    """File → outcome at each chunk length, as the table of the README says."""
    rows = {}
    for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines():
        cells = [html.unescape(cell.strip()) for cell in line.strip("|").split("|")]
        if len(cells) == 4 and "." in cells[0]:
            rows[cells[0]] = (cells[2], cells[3])
    return rows


def outcome(path: Path, chunk_length: int, to: Path) -> str:
    """What became of the records of a file that is read, in the words of the table."""
    lines = frame_file(path, to, chunk_length, lambda done, total: None).to_pylist()
    frames = read_table(to, frames_schema()).num_rows
    assert frames == sum(line["frames_kept"] for line in lines)
    reasons = Counter((line["disposition"], line["reason"]) for line in lines)
    shown = [
        f"{count} {disposition}" + (f" ({reason})" if reason else "")
        for (disposition, reason), count in sorted(reasons.items(), key=str)
    ]
    return f"{', '.join(shown)}; {sum(line['chunks'] for line in lines)} chunks, {frames} frames"


TABLE = documented()


def test_every_file_has_a_row_and_every_row_a_file() -> None:
    assert sorted(TABLE) == sorted(path.name for path in FOLDER.iterdir() if path.name != "README.md")
    refused = [name for name, cells in TABLE.items() if cells[0].startswith(REFUSED)]
    assert (len(TABLE), len(refused)) == (50, 19)
    assert [name for name in refused if not re.search("`.+`", TABLE[name][0])] == []


@pytest.mark.filterwarnings("ignore::Bio.BiopythonParserWarning")
@pytest.mark.parametrize("chunk_length", CHUNK_LENGTHS)
@pytest.mark.parametrize("name", sorted(TABLE))
def test_the_outcome_is_the_documented_one(name: str, chunk_length: int, tmp_path: Path) -> None:
    expected, to = TABLE[name][CHUNK_LENGTHS.index(chunk_length)], tmp_path / "frames.parquet"
    before = sorted(path.name for path in FOLDER.iterdir())
    if expected.startswith(REFUSED):
        with pytest.raises(SequenceFileError) as caught:
            frame_file(FOLDER / name, to, chunk_length, lambda done, total: None)
        path, _, reason = str(caught.value).partition(": ")
        assert path == str(FOLDER / name)
        assert [word for word in re.findall("`([^`]+)`", expected) if word not in reason] == [], reason
        assert list(tmp_path.iterdir()) == []
    else:
        assert outcome(FOLDER / name, chunk_length, to) == expected
        assert list(tmp_path.iterdir()) == [to]
    assert sorted(path.name for path in FOLDER.iterdir()) == before
