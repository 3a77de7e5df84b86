"""CDS evidence: the treatment of each feature, the table of a source, and what occurs inside its proteins."""

import hashlib
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from virnuc_assets.sequences import cds as cds_module
from virnuc_assets.sequences.cds import (
    Annotations,
    Cds,
    Evidence,
    Treatment,
    cds_of,
    evidence_of,
    occur_inside,
    read_proteins,
    write_annotations,
)
from virnuc_assets.sequences.genbank import read_genbank
from virnuc_assets.sequences.opening import SequenceFileError, open_source
from virnuc_assets.sequences.records import SequenceDigest, by_record
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.schemas import cds_schema
from virnuc_assets.storage.tables import TableMismatch, read_provenance, read_table
from virnuc_assets_tests.sequences.genbank_files import GENOMES, cds, entry, feature

# ---- treatment of a feature, evidence of a record ----


def read(path: Path) -> list[list[Cds]]:
    """CDS of each record."""
    with open_source(path) as source:
        return [list(map(cds_of, header.features)) for header, _ in by_record(read_genbank(source))]


def cds_in(folder: Path, *features: str) -> list[Cds]:
    path = folder / "one.gbk"
    path.write_text(entry("AB1.1", "ACGT" * 25, *features), encoding="utf-8")
    (found,) = read(path)
    return found


USED, PLACE = Treatment.USED, "[0:9](+)"


@pytest.mark.filterwarnings("ignore::Bio.BiopythonParserWarning")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (cds("MK", 'gene="g"', 'locus_tag="t"'), (USED, PLACE, "g", "", "MK")),
        (cds("MK", 'gene="g"', 'product="a b"', 'protein_id="P.1"'), (USED, PLACE, "a b", "P.1", "MK")),
        (cds("mk*"), (USED, PLACE, "", "", "MK")),
        (cds("MXUOBZJK"), (USED, PLACE, "", "", "MXUOBZJK")),
        (cds("MK", 'translation="KM"'), (USED, PLACE, "", "", "KM")),
        (
            cds("MK", "ribosomal_slippage", location="join(1..9,9..17)"),
            (USED, "join{[0:9](+), [8:17](+)}", "", "", "MK"),
        ),
        (
            cds("MK", location="complement(join(91..100,1..8))"),
            (USED, "join{[0:8](-), [90:100](-)}", "", "", "MK"),
        ),
        (cds("MK", location="<1..>9"), (USED, "[<0:>9](+)", "", "", "MK")),
        (cds("MK", location="9..nonsense"), (USED, "", "", "", "MK")),
        (cds("MK", "pseudo"), (Treatment.PSEUDO, PLACE, "", "", "MK")),
        (cds("MK", 'pseudogene="processed"'), (Treatment.PSEUDO, PLACE, "", "", "MK")),
        (feature("CDS", "1..9", 'product="p"'), (Treatment.NO_TRANSLATION, PLACE, "p", "", None)),
        (cds("*"), (Treatment.EMPTY_TRANSLATION, PLACE, "", "", "")),
        (cds("M*K"), (Treatment.NOT_PROTEIN, PLACE, "", "", "M*K")),
        (cds("MÄ"), (Treatment.NOT_PROTEIN, PLACE, "", "", "MÄ")),
    ],
    ids=lambda value: "" if isinstance(value, tuple) else value[21:].replace("\n" + " " * 21, " ").strip()[:70],
)
def test_each_feature_has_one_treatment(tmp_path: Path, text: str, expected: tuple[str | None, ...]) -> None:
    assert [tuple(found.values()) for found in cds_in(tmp_path, text)] == [expected]


PSEUDO, UNTRANSLATED, ODD = feature("CDS", "1..9", "pseudo"), feature("CDS"), cds("M*K")


@pytest.mark.parametrize(
    ("features", "evidence"),
    [
        ([feature("mat_peptide", "1..9", 'translation="MK"'), feature("gene")], Evidence.NO_FEATURE),
        ([PSEUDO, PSEUDO], Evidence.PSEUDOGENES),
        ([PSEUDO, UNTRANSLATED], Evidence.NO_TRANSLATION),
        ([ODD, cds("")], Evidence.NO_TRANSLATION),
        ([PSEUDO, UNTRANSLATED, ODD, cds("MK")], Evidence.CDS),
    ],
)
def test_the_word_for_a_record(tmp_path: Path, features: list[str], evidence: Evidence) -> None:
    word, digest = evidence_of(cds_in(tmp_path, *features))
    assert (word, digest is None) == (evidence, evidence is not Evidence.CDS)


def bundled(name: str) -> list[Cds]:
    (found,) = read(next(GENOMES.glob(f"*/{name}.gbk.gz")))
    return found


def test_all_bundled_genomes() -> None:
    """As counted by another program that reads these files: 964 CDS, 958 of them with a translation."""
    found = [record for path in GENOMES.glob("*/*.gbk.gz") for record in read(path)]
    assert Counter(cds["treatment"] for record in found for cds in record) == {"used": 958, "pseudo": 6}
    assert {evidence_of(record)[0] for record in found} == {Evidence.CDS}
    assert sum(str(cds["location"]).startswith("join{") for cds in bundled("Arabidopsis_F14F8")) == 20


# ---- the table of a source ----


def known(**bases: str) -> dict[str, tuple[int, str]]:
    """What a FASTA of these records is known by; `AB1="ACGT"` is the record AB1.1."""
    digests = {f"{name}.1": SequenceDigest([text.upper().encode()]) for name, text in bases.items()}
    return {name: (digest.length_nt, digest.hexdigest()) for name, digest in digests.items()}


FOUR = (
    entry("AB1.1", "acgtacgtac", cds("MALL", 'product="p"', 'protein_id="P.1"'), cds("MK", "pseudo"), cds("KR"))
    + entry("AB2.1", "acgt", feature("CDS"))
    + entry("AB3.1", "ggg")
    + entry("AB4.1", "", cds("WW"), tail="CONTIG      join(CD1.1:1..500)\n", length_nt=500)
)
OF_FOUR = known(AB1="acgtacgtac", AB2="acgt", AB4="A" * 500, AB9="TT")


@pytest.mark.parametrize("batch_rows", [1, 3, 4096])
def test_what_is_written_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_rows: int) -> None:
    monkeypatch.setattr(cds_module, "_BATCH_ROWS", batch_rows)
    path, table = tmp_path / "four.gbk", tmp_path / "cds.parquet"
    path.write_text(FOUR, encoding="utf-8")
    sha256 = hashlib.sha256(FOUR.encode()).hexdigest()
    assert write_annotations(table, path, OF_FOUR) == Annotations(
        sha256,
        {
            "AB1.1": (Evidence.CDS, digest_of(["MALL", "KR"])),
            "AB2.1": (Evidence.NO_TRANSLATION, None),
            "AB4.1": (Evidence.CDS, digest_of(["WW"])),
            "AB9.1": (Evidence.NOT_IN_GENBANK, None),
        },
        {"used": 3, "pseudo": 1, "no_translation": 1, "empty_translation": 0, "not_protein": 0},
        ignored_records=1,
    )
    assert read_provenance(table) == {"table": "cds", "genbank_sha256": sha256, "records": digest_of(OF_FOUR)}
    assert [tuple(row.values()) for row in read_table(table, cds_schema()).to_pylist()] == [
        ("AB1.1", 1, "used", PLACE, "p", "P.1", "MALL"),
        ("AB1.1", 2, "pseudo", PLACE, "", "", "MK"),
        ("AB1.1", 3, "used", PLACE, "", "", "KR"),
        ("AB2.1", 1, "no_translation", PLACE, "", "", None),
        ("AB4.1", 1, "used", PLACE, "", "", "WW"),
    ]
    assert read_proteins(table, ["AB4.1", "AB2.1", "AB1.1", "unknown"]) == {"AB1.1": ("MALL", "KR"), "AB4.1": ("WW",)}
    assert read_proteins(table, ["AB4.1"]) == {"AB4.1": ("WW",)}
    assert read_proteins(table, []) == {}
    with pytest.raises(TableMismatch, match="does not exist"):
        read_proteins(tmp_path / "none.parquet", ["AB1.1"])


@pytest.mark.parametrize(
    ("content", "records", "words"),
    [
        (
            FOUR,
            known(AB1="acgtacgtaa"),
            ["'AB1.1'", "10 nt", known(AB1="acgtacgtaa")["AB1.1"][1], known(AB1="acgtacgtac")["AB1.1"][1]],
        ),
        (FOUR, known(AB1="acgtacgt"), ["'AB1.1'", "the FASTA's 8 nt", "found 10 nt", "two versions"]),
        (FOUR, known(AB4="acgt"), ["'AB4.1'", "the FASTA's 4 nt", "found 500 nt", "not in the file"]),
        (FOUR, known(XY1="acgt", XY2="a"), ["'AB1.1' (and 3 more) is not in the FASTA", "record 'XY1.1' (and 1"]),
        (FOUR + entry("AB3.1", "ggg"), OF_FOUR, ["'AB3.1'", "twice", "record 5"]),
        (FOUR.replace("1 ggg", "1 gge"), OF_FOUR, ["'AB3.1'", "'e'"]),
        (">AB1.1\nacgtacgtac\n", OF_FOUR, ["expected GenBank"]),
    ],
)
def test_what_is_refused_leaves_what_was_there(
    tmp_path: Path, content: str, records: dict[str, tuple[int, str]], words: list[str]
) -> None:
    path, table = tmp_path / "refused.gbk", tmp_path / "cds.parquet"
    path.write_text(FOUR, encoding="utf-8")
    write_annotations(table, path, OF_FOUR)
    before = table.read_bytes()
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SequenceFileError) as caught:
        write_annotations(table, path, records)
    assert table.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cds.parquet", "refused.gbk"]
    assert [word for word in [str(path), *words] if word not in str(caught.value)] == []


def test_equal_proteins_have_equal_digests(tmp_path: Path) -> None:
    """Whatever else changed in the file; another order, letter or count is other evidence."""

    def digest(*features: str) -> str | None:
        return evidence_of(cds_in(tmp_path, *features))[1]

    same = digest(cds("MALL"), cds("KR"))
    assert digest(cds("MALL", 'product="x"'), feature("gene"), feature("CDS", "1..9", "pseudo"), cds("kr*")) == same
    others = [(cds("KR"), cds("MALL")), (cds("MALLKR"),), (cds("MALL"),), (cds("MALK"), cds("KR")), ()]
    assert len({same, *(digest(*features) for features in others)}) == 6


# ---- which proteins of frames are part of them ----

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


def require_as_plainly_searched(proteins: list[str], queries: list[str]) -> None:
    expected = [any(query in protein for protein in proteins) for query in queries]
    assert occur_inside([query.encode() for query in queries], proteins).tolist() == expected


@pytest.fixture(params=["searched", "sorted words"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cds_module, "_WORTH_SORTING", 0 if request.param == "sorted words" else 1 << 62)


@st.composite
def proteins_and_queries(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Few bases and repeated blocks, so that words have many places; queries cut out, altered and foreign."""
    bases = draw(st.sampled_from(["A", "AB", "ABC", AMINO_ACIDS + "X*"]))
    blocks = draw(st.lists(st.text(bases, max_size=40), min_size=1, max_size=4))
    protein = st.lists(st.sampled_from(blocks), max_size=6).map("".join).filter(bool)
    proteins = draw(st.lists(protein, max_size=6))
    joined = "".join(proteins)
    queries = []
    for _ in range(draw(st.integers(0, 12))):
        start, length = draw(st.integers(0, max(0, len(joined) - 1))), draw(st.integers(1, 70))
        query = joined[start : start + length] or "A"
        if draw(st.booleans()):
            place = draw(st.integers(0, len(query)))
            query = query[:place] + draw(st.text(bases, min_size=1, max_size=2)) + query[place + 1 :]
        queries.append(query)
    return proteins, queries


@settings(max_examples=150, deadline=None)
@given(proteins_and_queries())
@example(([], ["A", "A" * 30]))
@example((["ABC", "DEF"], ["ABC", "CD", "ABCDEF", "B"]))
@example((["MKLV" * 6, "QRST" * 6], ["MKLV" * 6 + "QRST" * 6, "MKLV" * 6, "QRST" * 6, "KLVM" * 5 + "KLV"]))
def check_search(case: tuple[list[str], list[str]]) -> None:
    require_as_plainly_searched(*case)


@pytest.mark.usefixtures("way")
def test_it_finds_what_a_plain_search_finds() -> None:
    check_search()


UNIT = "".join(random.Random(6).choices(AMINO_ACIDS, k=100))


@pytest.mark.parametrize(
    ("proteins", "queries"),
    [
        (["A" * 35_000], ["A" * 100 + "C", "A" * 101] * 20),
        ([UNIT * 350], [UNIT[n % 100 :] + UNIT[: n % 100] + "W" for n in range(300)]),
        ([UNIT * 3] * 4000, [UNIT[n % 100 :] + UNIT for n in range(300)]),
    ],
    ids=["one letter", "titin", "equal proteins"],
)
@pytest.mark.usefixtures("way")
def test_repeats(proteins: list[str], queries: list[str]) -> None:
    """One word has thousands of places."""
    require_as_plainly_searched(proteins, queries)
