"""Text from outside stays text, and can be had back."""

import csv
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from virnuc_assets.text import csv_field, printable, spreadsheet_cell, spreadsheet_text

FORMULA_CHARACTERS = tuple("=+-@＝＋－＠\t\r\n")
# Printable and without blanks, as ids are, and rich in what acts.
IDS = st.text(st.sampled_from("=+-@＝＋－＠'\",;|aZ0_") | st.characters(exclude_categories=["C", "Z"]), min_size=1)


def opened(line: str, separator: str) -> list[str]:
    """Cells of a line as a spreadsheet sees them."""
    return next(csv.reader(io.StringIO(line), delimiter=separator))


@given(IDS)
def test_no_cell_is_a_formula_and_the_text_can_be_had_back(text: str) -> None:
    cell = spreadsheet_cell(text)
    assert spreadsheet_text(cell) == text
    (read,) = opened(cell + "\n", "\t")
    assert not read.startswith(FORMULA_CHARACTERS)
    assert not cell.startswith((*FORMULA_CHARACTERS, '"'))


@example("x;")
@example(",")
@given(IDS)
def test_no_part_of_a_csv_line_is_a_formula_wherever_it_is_cut(text: str) -> None:
    line = f"{csv_field(text)}\tTrue\n"
    assert spreadsheet_text(opened(line, "\t")[0]) == text
    for separator in ",;":
        assert [cell for cell in opened(line, separator) if cell.startswith(FORMULA_CHARACTERS)] == []


@pytest.mark.parametrize(
    "text", ["NC_001416.1_chunk_1F1", "gi|9626243|ref|NC_001416.1|", "a,b;c", "été-1", "sp=1", "a'b"]
)
def test_ordinary_ids_stay_as_they_are(text: str) -> None:
    assert printable(text) == spreadsheet_cell(text) == csv_field(text) == text


def test_what_is_not_to_be_seen_is_escaped() -> None:
    assert printable("a\x1b[31m\x00\x9b\u202e\u2028\x85\ufeff\U000e0001\n") == (
        r"a\x1b[31m\x00\x9b\u202e\u2028\x85\ufeff\U000e0001\n"
    )
    assert printable("two\nlines\r", keep="\n") == "two\nlines\\r"
    assert printable("日本脳炎ウイルス ά") == "日本脳炎ウイルス ά"
