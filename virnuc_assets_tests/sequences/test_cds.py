"""Each kind of CDS feature has the treatment that is stated, also in the bundled genomes."""

import os
from collections import Counter
from pathlib import Path

import pytest

from virnuc_assets.sequences.annotation import Annotation, read_annotations
from virnuc_assets.sequences.cds import Cds, Evidence, Treatment
from virnuc_assets.sequences.opening import open_source
from virnuc_assets_tests.sequences.genbank_files import GENOMES, cds, entry, feature

LETTERS = "ACGT" * 25


def read(path: Path) -> list[Annotation]:
    with open_source(path) as source:
        return list(read_annotations(source))


def annotation_of(folder: Path, *features: str) -> Annotation:
    path = folder / "one.gbk"
    path.write_text(entry("AB1.1", LETTERS, *features), encoding="utf-8")
    (found,) = read(path)
    return found


@pytest.mark.filterwarnings("ignore::Bio.BiopythonParserWarning")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (cds("MK"), Cds(Treatment.USED, "[0:9](+)", "", "", "MK")),
        (cds("MK", 'gene="g"', 'locus_tag="t"'), Cds(Treatment.USED, "[0:9](+)", "g", "", "MK")),
        (
            cds("MK", 'gene="g"', 'product="a b"', 'protein_id="P.1"'),
            Cds(Treatment.USED, "[0:9](+)", "a b", "P.1", "MK"),
        ),
        (cds("MK", 'locus_tag="t"'), Cds(Treatment.USED, "[0:9](+)", "t", "", "MK")),
        (cds("mk"), Cds(Treatment.USED, "[0:9](+)", "", "", "MK")),
        (cds("MK*"), Cds(Treatment.USED, "[0:9](+)", "", "", "MK")),
        (cds("MXUOBZJK"), Cds(Treatment.USED, "[0:9](+)", "", "", "MXUOBZJK")),
        (cds("MK" * 60), Cds(Treatment.USED, "[0:9](+)", "", "", "MK" * 60)),
        (cds("MK", 'translation="KM"'), Cds(Treatment.USED, "[0:9](+)", "", "", "KM")),
        (cds("MK", location="join(1..9,20..28)"), Cds(Treatment.USED, "join{[0:9](+), [19:28](+)}", "", "", "MK")),
        (
            cds("MK", "ribosomal_slippage", location="join(1..9,9..17)"),
            Cds(Treatment.USED, "join{[0:9](+), [8:17](+)}", "", "", "MK"),
        ),
        (
            cds("MK", "trans_splicing", location="join(complement(1..9),20..28)"),
            Cds(Treatment.USED, "join{[0:9](-), [19:28](+)}", "", "", "MK"),
        ),
        (
            cds("MK", location="complement(join(91..100,1..8))"),
            Cds(Treatment.USED, "join{[0:8](-), [90:100](-)}", "", "", "MK"),
        ),
        (cds("MK", location="<1..>9"), Cds(Treatment.USED, "[<0:>9](+)", "", "", "MK")),
        (cds("MK", location="9..nonsense"), Cds(Treatment.USED, "", "", "", "MK")),
        (cds("MK", 'exception="RNA editing"'), Cds(Treatment.USED, "[0:9](+)", "", "", "MK")),
        (feature("CDS", "1..9", "pseudo"), Cds(Treatment.PSEUDO, "[0:9](+)", "", "", None)),
        (cds("MK", "pseudo"), Cds(Treatment.PSEUDO, "[0:9](+)", "", "", "MK")),
        (cds("MK", 'pseudogene="processed"'), Cds(Treatment.PSEUDO, "[0:9](+)", "", "", "MK")),
        (feature("CDS", "1..9", 'product="p"'), Cds(Treatment.NO_TRANSLATION, "[0:9](+)", "p", "", None)),
        (feature("CDS"), Cds(Treatment.NO_TRANSLATION, "[0:9](+)", "", "", None)),
        (cds(""), Cds(Treatment.EMPTY_TRANSLATION, "[0:9](+)", "", "", "")),
        (cds("*"), Cds(Treatment.EMPTY_TRANSLATION, "[0:9](+)", "", "", "")),
        (cds("M*K"), Cds(Treatment.NOT_PROTEIN, "[0:9](+)", "", "", "M*K")),
        (cds("M-K"), Cds(Treatment.NOT_PROTEIN, "[0:9](+)", "", "", "M-K")),
        (cds("MK1"), Cds(Treatment.NOT_PROTEIN, "[0:9](+)", "", "", "MK1")),
        (cds("MÄ"), Cds(Treatment.NOT_PROTEIN, "[0:9](+)", "", "", "MÄ")),
    ],
    ids=lambda value: "" if isinstance(value, Cds) else value[21:].replace("\n" + " " * 21, " ").strip()[:70],
)
def test_each_feature_has_one_treatment(tmp_path: Path, text: str, expected: Cds) -> None:
    found = annotation_of(tmp_path, text)
    assert found.cds == (expected,)
    assert found.proteins == ((expected.translation,) if expected.treatment is Treatment.USED else ())


PSEUDO, UNTRANSLATED, ODD = feature("CDS", "1..9", "pseudo"), feature("CDS"), cds("M*K")


@pytest.mark.parametrize(
    ("features", "evidence"),
    [
        ([], Evidence.NO_FEATURE),
        ([feature("mat_peptide", "1..9", 'translation="MK"'), feature("gene")], Evidence.NO_FEATURE),
        ([PSEUDO, PSEUDO], Evidence.PSEUDOGENES),
        ([PSEUDO, UNTRANSLATED], Evidence.NO_TRANSLATION),
        ([UNTRANSLATED], Evidence.NO_TRANSLATION),
        ([ODD, cds("")], Evidence.NO_TRANSLATION),
        ([PSEUDO, UNTRANSLATED, ODD, cds("MK")], Evidence.CDS),
    ],
)
def test_the_word_for_a_record(tmp_path: Path, features: list[str], evidence: Evidence) -> None:
    found = annotation_of(tmp_path, *features)
    assert found.evidence is evidence
    assert sum(found.treatments.values()) == len(found.cds) == sum(text.startswith("     CDS") for text in features)
    assert bool(found.proteins) == (evidence is Evidence.CDS)


def bundled(name: str) -> list[Annotation]:
    return read(next(GENOMES.glob(f"*/{name}.gbk.gz")))


def test_a_slipped_polyprotein_is_used_as_it_stands() -> None:
    """MERS: ORF1ab slips back by one nucleotide; both it and ORF1a are evidence."""
    (mers,) = bundled("MERS")
    assert mers.treatments == {"used": 10}
    slipped, orf1a = mers.cds[:2]
    assert slipped.location == "join{[277:13431](+), [13430:21513](+)}"
    assert slipped.translation is not None
    assert orf1a.translation is not None
    assert (len(slipped.translation), len(orf1a.translation)) == (7078, 4391)
    assert os.path.commonprefix([slipped.translation, orf1a.translation]) == slipped.translation[: (13431 - 277) // 3]


def test_a_polyprotein_without_its_peptides() -> None:
    (polio,) = bundled("poliovirus")
    assert [(cds.location, len(cds.translation or "")) for cds in polio.cds] == [("[742:7372](+)", 2209)]


def test_introns_are_joined() -> None:
    (clone,) = bundled("Arabidopsis_F14F8")
    assert clone.treatments == {"used": 24}
    assert sum(cds.location.startswith("join{") for cds in clone.cds) == 20


@pytest.mark.parametrize(
    ("name", "treatments"),
    [("Leptospira", {"used": 65, "pseudo": 5}), ("human_HBB", {"used": 6, "pseudo": 1})],
)
def test_pseudogenes_are_counted(name: str, treatments: dict[str, int]) -> None:
    (found,) = bundled(name)
    assert found.treatments == treatments
    assert all(cds.translation is None for cds in found.cds if cds.treatment is Treatment.PSEUDO)


def test_all_bundled_genomes() -> None:
    """As counted by another program that reads these files: 964 CDS, 958 of them with a translation."""
    found = [record for path in GENOMES.glob("*/*.gbk.gz") for record in read(path)]
    assert sum((record.treatments for record in found), Counter()) == {"used": 958, "pseudo": 6}
    assert {record.evidence for record in found} == {Evidence.CDS}
