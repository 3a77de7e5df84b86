"""CDS evidence: the treatment of each feature, the table of a source, and what occurs inside its proteins."""

import gzip
import hashlib
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from virnuc_assets.sequences import cds as cds_module
from virnuc_assets.sequences.cds import (
    Annotation,
    Annotations,
    Cds,
    Evidence,
    RecordEvidence,
    Treatment,
    occur_inside,
    read_annotations,
    read_proteins,
    write_annotations,
)
from virnuc_assets.sequences.opening import SequenceFileError, open_source
from virnuc_assets.sequences.records import LettersDigest
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.schemas import cds_schema
from virnuc_assets.storage.tables import TableMismatch, read_provenance, read_table
from virnuc_assets_tests.sequences.genbank_files import GENOMES, cds, entry, feature

# ---- treatment of a feature, evidence of a record ----


def read(path: Path) -> list[Annotation]:
    with open_source(path) as source:
        return list(read_annotations(source))


def annotation_of(folder: Path, *features: str) -> Annotation:
    path = folder / "one.gbk"
    path.write_text(entry("AB1.1", "ACGT" * 25, *features), encoding="utf-8")
    (found,) = read(path)
    return found


USED, PLACE = Treatment.USED, "[0:9](+)"


@pytest.mark.filterwarnings("ignore::Bio.BiopythonParserWarning")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (cds("MK", 'gene="g"', 'locus_tag="t"'), Cds(USED, PLACE, "g", "", "MK")),
        (cds("MK", 'gene="g"', 'product="a b"', 'protein_id="P.1"'), Cds(USED, PLACE, "a b", "P.1", "MK")),
        (cds("mk*"), Cds(USED, PLACE, "", "", "MK")),
        (cds("MXUOBZJK"), Cds(USED, PLACE, "", "", "MXUOBZJK")),
        (cds("MK", 'translation="KM"'), Cds(USED, PLACE, "", "", "KM")),
        (
            cds("MK", "ribosomal_slippage", location="join(1..9,9..17)"),
            Cds(USED, "join{[0:9](+), [8:17](+)}", "", "", "MK"),
        ),
        (
            cds("MK", location="complement(join(91..100,1..8))"),
            Cds(USED, "join{[0:8](-), [90:100](-)}", "", "", "MK"),
        ),
        (cds("MK", location="<1..>9"), Cds(USED, "[<0:>9](+)", "", "", "MK")),
        (cds("MK", location="9..nonsense"), Cds(USED, "", "", "", "MK")),
        (cds("MK", "pseudo"), Cds(Treatment.PSEUDO, PLACE, "", "", "MK")),
        (cds("MK", 'pseudogene="processed"'), Cds(Treatment.PSEUDO, PLACE, "", "", "MK")),
        (feature("CDS", "1..9", 'product="p"'), Cds(Treatment.NO_TRANSLATION, PLACE, "p", "", None)),
        (cds("*"), Cds(Treatment.EMPTY_TRANSLATION, PLACE, "", "", "")),
        (cds("M*K"), Cds(Treatment.NOT_PROTEIN, PLACE, "", "", "M*K")),
        (cds("MÄ"), Cds(Treatment.NOT_PROTEIN, PLACE, "", "", "MÄ")),
    ],
    ids=lambda value: "" if isinstance(value, Cds) else value[21:].replace("\n" + " " * 21, " ").strip()[:70],
)
def test_each_feature_has_one_treatment(tmp_path: Path, text: str, expected: Cds) -> None:
    found = annotation_of(tmp_path, text)
    assert found.cds == (expected,)
    assert found.proteins == ([expected.translation] if expected.treatment is USED else [])


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
    found = annotation_of(tmp_path, *features)
    assert found.evidence is evidence
    assert bool(found.proteins) == (evidence is Evidence.CDS)


def bundled(name: str) -> Annotation:
    (found,) = read(next(GENOMES.glob(f"*/{name}.gbk.gz")))
    return found


def test_a_slipped_polyprotein_is_used_as_it_is() -> None:
    """MERS: ORF1ab slips back by one nucleotide; both it and ORF1a are evidence."""
    slipped, orf1a = bundled("MERS").cds[:2]
    assert slipped.location == "join{[277:13431](+), [13430:21513](+)}"
    both = [slipped.translation or "", orf1a.translation or ""]
    assert list(map(len, both)) == [7078, 4391]
    assert os.path.commonprefix(both) == both[0][: (13431 - 277) // 3]


def test_all_bundled_genomes() -> None:
    """As counted by another program that reads these files: 964 CDS, 958 of them with a translation."""
    found = [record for path in GENOMES.glob("*/*.gbk.gz") for record in read(path)]
    assert Counter(cds.treatment for record in found for cds in record.cds) == {"used": 958, "pseudo": 6}
    assert {record.evidence for record in found} == {Evidence.CDS}
    assert sum(cds.location.startswith("join{") for cds in bundled("Arabidopsis_F14F8").cds) == 20


# ---- the table of a source ----


def known(**letters: str) -> dict[str, tuple[int, str]]:
    """What a FASTA of these records is known by; `AB1="ACGT"` is the record AB1.1."""
    digests = {f"{name}.1": LettersDigest([text.upper().encode()]) for name, text in letters.items()}
    return {name: (digest.length_nt, digest.hexdigest()) for name, digest in digests.items()}


FOUR = (
    entry("AB1.1", "acgtacgtac", cds("MALL", 'product="p"', 'protein_id="P.1"'), cds("MK", "pseudo"), cds("KR"))
    + entry("AB2.1", "acgt", feature("CDS"))
    + entry("AB3.1", "ggg")
    + entry("AB4.1", "", cds("WW"), tail="CONTIG      join(CD1.1:1..500)\n", length_nt=500)
)
OF_FOUR = known(AB1="acgtacgtac", AB2="acgt", AB4="A" * 500, AB9="TT")


def test_what_is_written_and_reported(tmp_path: Path) -> None:
    path, table = tmp_path / "four.gbk", tmp_path / "cds.parquet"
    path.write_text(FOUR, encoding="utf-8")
    sha256 = hashlib.sha256(FOUR.encode()).hexdigest()
    assert write_annotations(table, path, OF_FOUR) == Annotations(
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


def test_a_record_is_known_by_its_letters_alone(tmp_path: Path) -> None:
    path = tmp_path / "four.gbk"
    path.write_text(FOUR + entry("AB5.1", ""), encoding="utf-8")
    digests = known(AB1="ACGTACGTAC", AB2="ACGT", AB3="GGG", AB5="")
    assert {record.record_id: (record.length_nt, record.sequence_digest) for record in read(path)} == {
        **digests,
        "AB4.1": (500, None),
    }


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
        path = tmp_path / "one.gbk"
        path.write_text(entry("AB1.1", "ACGT", *features), encoding="utf-8")
        return write_annotations(tmp_path / "t.parquet", path, known(AB1="ACGT")).records["AB1.1"].evidence_digest

    same = digest(cds("MALL"), cds("KR"))
    assert digest(cds("MALL", 'product="x"'), feature("gene"), feature("CDS", "1..9", "pseudo"), cds("kr*")) == same
    others = [(cds("KR"), cds("MALL")), (cds("MALLKR"),), (cds("MALL"),), (cds("MALK"), cds("KR")), ()]
    assert len({same, *(digest(*features) for features in others)}) == 6


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
    found = write_annotations(table, path, known(**{f"AB{n}": "ACGT" * n for n in range(len(features))}))
    assert sum(found.treatments.values()) == sum(map(len, features)) == read_table(table).num_rows
    proteins = {f"AB{n}.1": used(made) for n, made in enumerate(features)}
    assert {name: of.evidence is Evidence.CDS for name, of in found.records.items()} == {
        name: bool(translations) for name, translations in proteins.items()
    }
    assert read_proteins(table, [f"AB{n}.1" for n in asked]) == {
        name: translations for n in asked if (translations := proteins.get(name := f"AB{n}.1"))
    }


def test_what_was_written_is_read_back_however_it_was_batched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cds_module, "_BATCH_ROWS", 3)
    check_round_trip(tmp_path)


# ---- which proteins of frames lie inside of them ----

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


def require_as_plainly_searched(proteins: list[str], queries: list[str]) -> None:
    expected = [any(query in protein for protein in proteins) for query in queries]
    assert occur_inside([query.encode() for query in queries], proteins).tolist() == expected


@pytest.fixture(params=["searched", "sorted words"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cds_module, "_WORTH_SORTING", 0 if request.param == "sorted words" else 1 << 62)


@st.composite
def proteins_and_queries(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Few letters and repeated blocks, so that words have many places; queries cut out, altered and foreign."""
    letters = draw(st.sampled_from(["A", "AB", "ABC", AMINO_ACIDS + "X*"]))
    blocks = draw(st.lists(st.text(letters, max_size=40), min_size=1, max_size=4))
    protein = st.lists(st.sampled_from(blocks), max_size=6).map("".join).filter(bool)
    proteins = draw(st.lists(protein, max_size=6))
    joined = "".join(proteins)
    queries = []
    for _ in range(draw(st.integers(0, 12))):
        start, length = draw(st.integers(0, max(0, len(joined) - 1))), draw(st.integers(1, 70))
        query = joined[start : start + length] or "A"
        if draw(st.booleans()):
            place = draw(st.integers(0, len(query)))
            query = query[:place] + draw(st.text(letters, min_size=1, max_size=2)) + query[place + 1 :]
        queries.append(query)
    return proteins, queries


@settings(max_examples=150, deadline=None, suppress_health_check=[])
@given(proteins_and_queries())
@example(([], ["A", "A" * 30]))
@example((["ABC", "DEF"], ["ABC", "CD", "ABCDEF", "B"]))
@example((["MKLV" * 6, "QRST" * 6], ["MKLV" * 6 + "QRST" * 6, "MKLV" * 6, "QRST" * 6, "KLVM" * 5 + "KLV"]))
def check_search(case: tuple[list[str], list[str]]) -> None:
    require_as_plainly_searched(*case)


@pytest.mark.usefixtures("way")
def test_it_finds_what_a_plain_search_finds() -> None:
    check_search()


@pytest.mark.usefixtures("way")
def test_every_part_of_real_letters_at_every_offset() -> None:
    draw = random.Random(4)
    proteins = ["".join(draw.choices(AMINO_ACIDS, k=length)) for length in (5, 22, 23, 24, 39, 40, 41, 200)]
    inside = [p[a:b] for p in proteins for a in range(0, len(p), 3) for b in (a + 22, a + 23, a + 41, len(p))]
    across = [proteins[-1][-n:] + proteins[-2][:n] for n in (11, 12, 20)]
    require_as_plainly_searched(proteins, [*inside, *across, *(query[::-1] for query in inside)])


def test_a_bacterial_genome() -> None:
    draw = random.Random(1)
    proteins = ["".join(draw.choices(AMINO_ACIDS, k=draw.randint(60, 600))) for _ in range(4000)]
    queries = [draw.choice(proteins)[: draw.randint(60, 166)] for _ in range(250)]
    require_as_plainly_searched(proteins, [*queries, *(query[::-1] for query in queries)])


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
