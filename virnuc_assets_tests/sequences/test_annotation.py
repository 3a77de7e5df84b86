"""The table of CDS evidence: what is written for which records, what is refused, and looking records up again."""

import gzip
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_assets.sequences import cds_table
from virnuc_assets.sequences.annotation import read_annotations
from virnuc_assets.sequences.cds import Evidence
from virnuc_assets.sequences.cds_table import Annotations, RecordEvidence, read_proteins, write_annotations
from virnuc_assets.sequences.letters import LettersDigest
from virnuc_assets.sequences.opening import SequenceFileError, open_source
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.schemas import cds_schema
from virnuc_assets.storage.tables import TableMismatch, content_digest, read_recipe, read_table
from virnuc_assets_tests.sequences.genbank_files import GENOMES, cds, entry, feature


def known(**letters: str) -> dict[str, tuple[int, str]]:
    """What a FASTA of these records is known by; `AB1="ACGT"` is the record AB1.1."""
    found = {}
    for name, text in letters.items():
        digest = LettersDigest()
        digest.update(text.upper().encode())
        found[f"{name}.1"] = (digest.length_nt, digest.hexdigest())
    return found


FOUR = (
    entry("AB1.1", "acgtacgtac", cds("MALL", 'product="p"', 'protein_id="P.1"'), cds("MK", "pseudo"), cds("KR"))
    + entry("AB2.1", "acgt", feature("CDS"))
    + entry("AB3.1", "ggg")
    + entry("AB4.1", "", cds("WW"), tail="CONTIG      join(CD1.1:1..500)\n", length_nt=500)
)
OF_FOUR = known(AB1="acgtacgtac", AB2="acgt", AB4="A" * 500, AB9="TT")


def test_what_is_written_and_told(tmp_path: Path) -> None:
    path, table = tmp_path / "four.gbk", tmp_path / "cds.parquet"
    path.write_text(FOUR, encoding="utf-8")
    found = write_annotations(table, path, OF_FOUR)
    sha256 = hashlib.sha256(FOUR.encode()).hexdigest()
    assert found == Annotations(
        sha256,
        {
            "AB1.1": RecordEvidence(Evidence.CDS, digest_of(["MALL", "KR"])),
            "AB2.1": RecordEvidence(Evidence.NO_TRANSLATION, None),
            "AB4.1": RecordEvidence(Evidence.CDS, digest_of(["WW"])),
            "AB9.1": RecordEvidence(Evidence.NOT_IN_GENBANK, None),
        },
        {"used": 3, "pseudo": 1, "no_translation": 1, "empty_translation": 0, "not_protein": 0},
        ignored_records=1,
    )
    assert read_recipe(table) == {"table": "cds", "genbank_sha256": sha256, "records": digest_of(OF_FOUR)}
    rows = read_table(table, cds_schema()).to_pylist()
    place = "[0:9](+)"
    assert [tuple(row.values()) for row in rows] == [
        ("AB1.1", 1, "used", place, "p", "P.1", "MALL"),
        ("AB1.1", 2, "pseudo", place, "", "", "MK"),
        ("AB1.1", 3, "used", place, "", "", "KR"),
        ("AB2.1", 1, "no_translation", place, "", "", None),
        ("AB4.1", 1, "used", place, "", "", "WW"),
    ]
    assert read_proteins(table, ["AB4.1", "AB2.1", "AB1.1", "unknown"]) == {"AB1.1": ("MALL", "KR"), "AB4.1": ("WW",)}
    assert read_proteins(table, ["AB4.1"]) == {"AB4.1": ("WW",)}
    assert read_proteins(table, []) == {}


def test_the_sequence_is_told_by_its_letters_alone(tmp_path: Path) -> None:
    path = tmp_path / "four.gbk"
    path.write_text(FOUR + entry("AB5.1", ""), encoding="utf-8")
    with open_source(path) as source:
        found = [(record.record_id, record.length_nt, record.sequence_digest) for record in read_annotations(source)]
    digests = known(AB1="ACGTACGTAC", AB2="ACGT", AB3="GGG")
    blank = ("AB5.1", *known(AB5="")["AB5.1"])
    assert found == [(name, *told) for name, told in digests.items()] + [("AB4.1", 500, None), blank]


def refused(folder: Path, content: str, records: Mapping[str, tuple[int, str]]) -> str:
    """The error's message; the table that was there before is still there."""
    path, table = folder / "refused.gbk", folder / "cds.parquet"
    path.write_text(FOUR, encoding="utf-8")
    write_annotations(table, path, OF_FOUR)
    before = table.read_bytes()
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SequenceFileError) as caught:
        write_annotations(table, path, records)
    assert table.read_bytes() == before
    assert sorted(file.name for file in folder.iterdir()) == ["cds.parquet", "refused.gbk"]
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "records", "words"),
    [
        (FOUR, known(AB1="acgtacgtaa"), ["'AB1.1'", "10 nt", *(told[1] for told in known(AB1="acgtacgtaa").values())]),
        (FOUR, known(AB1="acgtacgtaa"), [told[1] for told in known(AB1="acgtacgtac").values()]),
        (FOUR, known(AB1="acgtacgt"), ["'AB1.1'", "the FASTA's 8 nt", "found 10 nt", "two versions"]),
        (FOUR, known(AB4="acgt"), ["'AB4.1'", "the FASTA's 4 nt", "found 500 nt", "not in the file"]),
        (FOUR, known(XY1="acgt", XY2="a"), ["'AB1.1' (and 3 more) is not in the FASTA", "record 'XY1.1' (and 1"]),
        (FOUR + entry("AB3.1", "ggg"), OF_FOUR, ["'AB3.1'", "twice", "record 5"]),
        (FOUR + entry("AB2.1", "acgt"), OF_FOUR, ["'AB2.1'", "twice", "record 5"]),
        (FOUR.replace("1 ggg", "1 gge"), OF_FOUR, ["'AB3.1'", "'e'"]),
        (">AB1.1\nacgtacgtac\n", OF_FOUR, ["expected GenBank"]),
    ],
)  # fmt: skip
def test_what_is_refused_leaves_what_was_there(
    tmp_path: Path, content: str, records: dict[str, tuple[int, str]], words: list[str]
) -> None:
    message = refused(tmp_path, content, records)
    assert [word for word in words if word not in message] == []


def test_equal_proteins_have_equal_digests(tmp_path: Path) -> None:
    """Whatever else changed in the file; another order, letter or count is other evidence."""

    def digest(*features: str) -> str | None:
        path = tmp_path / "one.gbk"
        path.write_text(entry("AB1.1", "ACGT", *features), encoding="utf-8")
        return write_annotations(tmp_path / "t.parquet", path, known(AB1="ACGT")).records["AB1.1"].digest

    same = digest(cds("MALL"), cds("KR"))
    assert digest(cds("MALL", 'product="x"'), feature("gene"), feature("CDS", "1..9", "pseudo"), cds("kr*")) == same
    others = [
        digest(cds("KR"), cds("MALL")),
        digest(cds("MALLKR")),
        digest(cds("MALL")),
        digest(cds("MALK"), cds("KR")),
    ]
    assert len({same, *others, digest()}) == 6


PROTEIN = st.text("ACDEFGHIKLMNPQRSTVWY*X", max_size=80)
MADE = st.builds(lambda protein, pseudo: {"protein": protein, "pseudo": pseudo}, st.none() | PROTEIN, st.booleans())


def text_of(made: dict[str, Any]) -> str:
    qualifiers = ["pseudo"] * made["pseudo"] + ([] if made["protein"] is None else [f'translation="{made["protein"]}"'])
    return feature("CDS", "1..9", *qualifiers)


def used(features: list[dict[str, Any]]) -> tuple[str, ...]:
    proteins = [(made["protein"] or "").removesuffix("*") for made in features if not made["pseudo"]]
    return tuple(protein for protein in proteins if protein and "*" not in protein)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(MADE, max_size=7), min_size=1, max_size=8), st.sets(st.integers(0, 7)))
def check_round_trip(folder: Path, features: list[list[dict[str, Any]]], asked: set[int]) -> None:
    path, table = folder / "made.gbk", folder / "made.parquet"
    entries = [entry(f"AB{n}.1", "ACGT" * n, *map(text_of, made)) for n, made in enumerate(features)]
    path.write_bytes(gzip.compress("".join(entries).encode(), 1))
    records = known(**{f"AB{n}": "ACGT" * n for n in range(len(features))})
    told = write_annotations(table, path, records)
    assert sum(told.treatments.values()) == sum(map(len, features)) == read_table(table).num_rows
    proteins = {f"AB{n}.1": used(made) for n, made in enumerate(features)}
    assert {name: found.evidence is Evidence.CDS for name, found in told.records.items()} == {
        name: bool(found) for name, found in proteins.items()
    }
    assert read_proteins(table, [f"AB{n}.1" for n in asked]) == {
        name: found for n in asked if (found := proteins.get(name := f"AB{n}.1"))
    }


def test_what_was_written_is_read_back_however_it_was_batched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cds_table, "_BATCH_ROWS", 3)
    check_round_trip(tmp_path)


def test_batches_do_not_change_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genbank = next(GENOMES.glob("*/FPV_fragments.gbk.gz"))
    with open_source(genbank) as source:
        records = {
            made.record_id: (made.length_nt or 0, made.sequence_digest or "") for made in read_annotations(source)
        }
    one, many = tmp_path / "one.parquet", tmp_path / "many.parquet"
    write_annotations(one, genbank, records)
    monkeypatch.setattr(cds_table, "_BATCH_ROWS", 1)
    write_annotations(many, genbank, records)
    assert read_table(one).num_rows == 3
    assert content_digest(one) == content_digest(many)


def test_another_table_is_not_taken_for_evidence(tmp_path: Path) -> None:
    with pytest.raises(TableMismatch, match="does not exist"):
        read_proteins(tmp_path / "none.parquet", ["AB1.1"])
