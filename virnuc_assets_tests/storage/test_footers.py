"""What is kept of tables is what they say of themselves, and is read again when they were written again."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_assets.storage import footers as module
from virnuc_assets.storage.footers import footer, footers
from virnuc_assets.storage.tables import RECIPE_KEY, content_digest, read_recipe, write_table

TABLE = pa.table({"frame_id": ["a", "b"]})
VALUES = st.one_of(st.none(), st.integers(), st.text(), st.dictionaries(st.text(), st.text(max_size=300), max_size=40))


@given(recipe=st.dictionaries(st.text(min_size=1), VALUES))
def test_it_is_what_the_table_says(tmp_path_factory: pytest.TempPathFactory, recipe: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("tables") / "t.parquet"
    write_table(path, TABLE, recipe)
    assert footer(path) == (read_recipe(path), content_digest(path)) == (recipe, content_digest(path))


def test_an_entry_is_found_without_the_whole_footer_if_it_is_near_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> tuple[str, str]:
        raise AssertionError("the whole footer was read")

    for letters in (1, 100, 127, 128, 9000):
        recipe = {"frames": "x" * letters, "fasta": f"\x18{RECIPE_KEY}\x18 {RECIPE_KEY}"}
        write_table(tmp_path / f"{letters}.parquet", TABLE, recipe)
        with monkeypatch.context() as patched:
            patched.setattr(module, "read_recipe_and_content", refuse)
            found = footer(tmp_path / f"{letters}.parquet")
        assert found is not None and found.recipe == recipe
    write_table(tmp_path / "long.parquet", TABLE, {"frames": "x" * (1 << 15)})
    found = footer(tmp_path / "long.parquet")
    assert found is not None and found.recipe == {"frames": "x" * (1 << 15)}


def test_a_folder_is_told_table_by_table(tmp_path: Path) -> None:
    assert footers(tmp_path / "none") == {}
    write_table(tmp_path / "a-000001.parquet", TABLE, {"of": "a"})
    (tmp_path / ".b.parquet.77.partial").write_bytes(b"half")
    (tmp_path / ".b.parquet").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("no table")
    (tmp_path / "empty.parquet").touch()
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "a-000001.parquet").read_bytes()[:-9])
    pq.write_table(TABLE, tmp_path / "foreign.parquet")
    found = footers(tmp_path)
    assert set(found) == {"a-000001", "empty", "cut", "foreign"}
    assert {name for name, read in found.items() if read} == {"a-000001"}
    assert found["a-000001"] == ({"of": "a"}, content_digest(tmp_path / "a-000001.parquet"))
    assert footer(tmp_path / "b.parquet") is None


def test_a_table_that_is_written_again_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    for version in ("1", "2", "3"):
        write_table(path, TABLE, {"of": version})
        assert footers(tmp_path)["t"] == ({"of": version}, content_digest(path))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert footers(tmp_path) == {"t": None}


def test_a_table_that_could_not_be_read_for_a_moment_is_read_at_the_next_look(tmp_path: Path) -> None:
    path, limits = tmp_path / "t.parquet", resource.getrlimit(resource.RLIMIT_NOFILE)
    write_table(path, TABLE, {"of": "a"})
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))  # no file can be opened
    try:
        meanwhile = footer(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert meanwhile is None
    assert footer(path) == ({"of": "a"}, content_digest(path))
