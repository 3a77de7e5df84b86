"""What each CDS feature of a record is worth as evidence; every feature has one stated treatment.

Sources: the INSDC feature table, version 11 (qualifiers /translation, /pseudo, /pseudogene, /exception), and
upstream's `create_refseq_pro_list` in units.py, which takes the first /translation of each CDS as it stands.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from string import ascii_uppercase

from Bio.SeqFeature import SeqFeature

# All 26 are amino acid codes of IUPAC or INSDC: X, B, Z and J stand for several, U and O for the rare ones. No frame
# of the standard code holds one of these six, so that a frame beside them finds evidence and one across them none.
_AMINO_ACIDS = frozenset(ascii_uppercase)
_STOP = "*"


class Treatment(StrEnum):
    """What is done with a CDS feature."""

    USED = "used"
    """Its translation is evidence: also of joined, slipped, trans-spliced, origin-spanning and partial features."""
    PSEUDO = "pseudo"
    """/pseudo or /pseudogene: no protein is made, even if a translation is given."""
    NO_TRANSLATION = "no_translation"
    """No /translation. We make none: genetic code and exceptions are the annotator's to know."""
    EMPTY_TRANSLATION = "empty_translation"
    NOT_PROTEIN = "not_protein"
    """The translation holds a stop before its end, or what is no letter from A to Z."""


class Evidence(StrEnum):
    """Whether a record's frames can be held against CDS; if not, they are kept as they are and marked by this word."""

    CDS = "cds"
    NO_GENBANK = "no GenBank file"
    NOT_IN_GENBANK = "record not in GenBank"
    NO_FEATURE = "no CDS feature"
    PSEUDOGENES = "pseudogenes only"
    NO_TRANSLATION = "CDS without translation"
    """None of the CDS has a translation that can be used, and not all of them are pseudogenes."""


@dataclass(frozen=True)
class Cds:
    """One CDS feature.

    Attributes:
        treatment: what is done with it.
        location: as Biopython writes it, 0-based and half-open; empty where the file's cannot be read.
        product: /product, else /gene, else /locus_tag, else empty.
        protein_id: /protein_id, or empty.
        translation: the first /translation in upper case without a stop at its end; None without one.
    """

    treatment: Treatment
    location: str
    product: str
    protein_id: str
    translation: str | None


def cds_of(feature: SeqFeature) -> Cds:
    """A CDS feature with its treatment."""
    told = {name: values[0] for name, values in feature.qualifiers.items() if values}
    translation = told["translation"].upper().removesuffix(_STOP) if "translation" in told else None
    return Cds(
        _treatment(told.keys(), translation),
        "" if feature.location is None else str(feature.location),
        told.get("product") or told.get("gene") or told.get("locus_tag") or "",
        told.get("protein_id", ""),
        translation,
    )


def _treatment(qualifiers: Iterable[str], translation: str | None) -> Treatment:
    if {"pseudo", "pseudogene"} & set(qualifiers):
        return Treatment.PSEUDO
    if translation is None:
        return Treatment.NO_TRANSLATION
    if not translation:
        return Treatment.EMPTY_TRANSLATION
    return Treatment.USED if _AMINO_ACIDS.issuperset(translation) else Treatment.NOT_PROTEIN


def proteins_of(features: Iterable[Cds]) -> tuple[str, ...]:
    """Translations that are evidence, in the order of the file."""
    return tuple(cds.translation or "" for cds in features if cds.treatment is Treatment.USED)


def evidence_of(features: Iterable[Cds]) -> Evidence:
    """What the CDS of a record give together."""
    treatments = {cds.treatment for cds in features}
    if not treatments:
        return Evidence.NO_FEATURE
    if Treatment.USED in treatments:
        return Evidence.CDS
    return Evidence.PSEUDOGENES if treatments == {Treatment.PSEUDO} else Evidence.NO_TRANSLATION
