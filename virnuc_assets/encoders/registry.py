"""Every encoder and every variant as a row, what virnuc.toml adds to them, and which sequences an encoder may be given.

Imports nothing heavy.

Sources: DNABERT-S (Zhou et al. 2024, huggingface.co/zhihan1996/DNABERT-S), ESM2 (Lin et al. 2023,
huggingface.co/facebook), FastESM2 (huggingface.co/Synthyra/FastESM2_650).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import Settings

Alphabet = Literal["dna", "protein"]
Architecture = Literal["mosaic_bert", "esm", "kmer"]
Pooling = Literal["residues", "tokens", "composition"]

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
NUCLEOTIDES = "ACGT"

# IUPAC nucleotides without U, which the readers replace by T. IUPAC amino acids: the vocabulary of ESM has all but J
# (leucine or isoleucine), each of which is read as one <unk>. (EsmTokenizer reads a run of them as one.)
ALPHABET: dict[Alphabet, frozenset[str]] = {
    "dna": frozenset("ACGTRYSWKMBDHVN"),
    "protein": frozenset(AMINO_ACIDS + "XBZUOJ"),
}
_EXAMPLES = 5  # of faults in a message
MINIATURE, FINETUNED = "miniature", "finetuned"
_COLUMNS: dict[Alphabet, str] = {"dna": "nucleotides", "protein": "protein"}


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder: all that decides its numbers, apart from the weights themselves."""

    name: str  # also of a miniature's or a fine-tuned checkpoint's folder
    alphabet: Alphabet
    architecture: Architecture
    pooling: Pooling  # mean over `residues` (no BOS, EOS, padding), `tokens` (all but padding), or of `composition`
    checkpoint: str = ""  # hub id, `MINIATURE`, `FINETUNED`; empty where there are no weights or a folder is named
    revision: str = ""  # commit of the hub repository: the registry's or the settings' until virnuc.lock names one
    max_length: int | None = None  # residues or bases encoded of a sequence, the rest is cut; None = all (ALiBi)
    token_dropout: bool | None = None  # whether an ESM scales embeddings as with masked tokens; None = as its config
    base: str = ""  # encoder that this one was made from, by other settings of the same weights or by fine-tuning
    folder: str = ""  # instead of the hub's cache; where weights are stored changes no number
    file: str = ""  # fair-esm's `.pt` that is converted into a folder
    digest: str = ""  # content of the checkpoint as virnuc.lock has it

    @property
    def from_hub(self) -> bool:
        """Whether its weights are a snapshot of the model hub."""
        return self.checkpoint not in ("", MINIATURE, FINETUNED)

    @property
    def is_locked(self) -> bool:
        """Whether virnuc.lock decides what its checkpoint holds: neither computed, drawn nor trained here."""
        return self.from_hub or bool(self.folder or self.file)

    @property
    def column(self) -> str:
        """Column of the frames table that this encoder reads."""
        return _COLUMNS[self.alphabet]


@dataclass(frozen=True)
class Variant:
    """A nucleotide encoder and a protein encoder whose vectors are joined for one classifier."""

    name: str
    dna: str
    protein: str

    @property
    def is_kmer(self) -> bool:
        """Whether it reads the composition of chunks (`sequences.composition`), in two parts, and no encoder."""
        return self.dna == KMERS[0].name


def is_kmer(fingerprints: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a classifier of these encoders is that of the k-mer variant, which scores each chunk once."""
    return fingerprints.get("protein", {}).get("architecture") == "kmer"


_ESM = EncoderSpec("", "protein", "esm", "residues", max_length=1024)
_MOSAIC_BERT = EncoderSpec("", "dna", "mosaic_bert", "tokens")


_MODELS = tuple(
    replace(kind, name=name, checkpoint=checkpoint, revision=revision)
    for kind, name, checkpoint, revision in (
        (_MOSAIC_BERT, "dnabert_s", "zhihan1996/DNABERT-S", "00e47f96cdea35e4b6f5df89e5419cbe47d490c6"),
        (_ESM, "fastesm2_650", "Synthyra/FastESM2_650", "373bed152898892446d2dd4ab7ea2ccf9b4da170"),
        (_ESM, "esm2_8m", "facebook/esm2_t6_8M_UR50D", "c731040fcd8d73dceaa04b0a8e6329b345b0f5df"),
        (_ESM, "esm2_35m", "facebook/esm2_t12_35M_UR50D", "6fbf070e65b0b7291e7bbcd451118c216cff79d8"),
        (_ESM, "esm2_150m", "facebook/esm2_t30_150M_UR50D", "a695f6045e2e32885fa60af20c13cb35398ce30c"),
        (_ESM, "esm2_650", "facebook/esm2_t33_650M_UR50D", "08e4846e537177426273712802403f7ba8261b6c"),
        (_ESM, "esm2_3b", "facebook/esm2_t36_3B_UR50D", "476b639933c8baad5ad09a60ac1a87f987b656fc"),
    )
)
KMERS = (
    EncoderSpec("kmer_dna", "dna", "kmer", "composition"),
    EncoderSpec("kmer_protein", "protein", "kmer", "composition"),
)


def miniature_of(spec: EncoderSpec) -> EncoderSpec:
    """The tiny twin of a published encoder: the same architecture, tokenizer and pooling, and random weights."""
    return replace(_made_here(spec, MINIATURE), name=f"{spec.name}_miniature")


def _made_here(spec: EncoderSpec, how: str) -> EncoderSpec:
    return replace(spec, checkpoint=how, revision="", folder="", file="")


PUBLISHED = {spec.name: None for spec in _MODELS}.keys()
"""Names of the encoders whose weights somebody published, in the order of the registry."""
ENCODERS: Mapping[str, EncoderSpec] = {spec.name: spec for spec in (*_MODELS, *map(miniature_of, _MODELS), *KMERS)}

VARIANTS: Mapping[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("fastesm2", dna="dnabert_s", protein="fastesm2_650"),
        *(Variant(spec.name, dna="dnabert_s", protein=spec.name) for spec in _MODELS[2:]),
        Variant("kmer", dna="kmer_dna", protein="kmer_protein"),
    )
}


def all_encoders(settings: Settings) -> dict[str, EncoderSpec]:
    """Rows of the registry and of virnuc.toml by name, with the checkpoints that the settings name."""

    def local(path: str | None) -> str:
        return str(settings.root / Path(path).expanduser()) if path else ""

    rows = dict(ENCODERS)
    for name, source in settings.checkpoints.items():
        rows[name] = replace(
            rows[_known("encoder", name, rows)],
            revision=source.revision or "",
            checkpoint=rows[name].checkpoint if source.revision else "",
            folder=local(source.folder),
            file=local(source.file),
        )
    for name, given in settings.encoders.items():
        chosen = given.model_dump(include={"pooling", "max_length", "token_dropout"}, exclude_none=True)
        if name in PUBLISHED:
            row = rows[name]
            rows[f"{name}_miniature"] = replace(rows[f"{name}_miniature"], **chosen)
        elif given.like:
            like = rows[_known("encoder", given.like, rows)]
            row = replace(like, name=name, base=like.base or like.name)
        else:
            row = _ESM if given.architecture == "esm" else _MOSAIC_BERT
            row = replace(row, name=name, checkpoint=given.hub or "", folder=local(given.folder))
            row = replace(row, revision=given.revision or "", alphabet=given.alphabet or row.alphabet)
        rows[name] = replace(row, **chosen)
    for name in settings.finetuning.encoders:
        base = _in_graph(settings, rows[_known("encoder", name, rows)])
        tuned = f"{FINETUNED}_{base.name}"
        rows[f"{FINETUNED}_{name}"] = replace(_made_here(base, FINETUNED), name=tuned, base=base.name)
    return rows


def all_variants(settings: Settings) -> dict[str, Variant]:
    """Variants of the registry and of virnuc.toml by name."""
    added = {name: Variant(name, given.dna, given.protein) for name, given in settings.variants.items()}
    return {**VARIANTS, **added}


def graph_encoder(settings: Settings, name: str) -> EncoderSpec:
    """The encoder that a name stands for in the asset graph: with profile "miniature", the twin of a published one."""
    return _in_graph(settings, encoder_named(settings, name))


def encoder_named(settings: Settings, name: str) -> EncoderSpec:
    """The row of exactly this name, whatever the profile; an unknown name is refused with those that exist."""
    rows = all_encoders(settings)
    return rows[_known("encoder", name, rows)]


def variant_named(settings: Settings, name: str) -> Variant:
    """A variant of the registry or of virnuc.toml; an unknown name is refused with those that exist."""
    variants = all_variants(settings)
    return variants[_known("variant", name, variants)]


def registered(name: str) -> EncoderSpec:
    """Row of the registry, whatever virnuc.toml says; an unknown name is refused with those that exist."""
    return ENCODERS[_known("encoder", name, ENCODERS)]


def _in_graph(settings: Settings, row: EncoderSpec) -> EncoderSpec:
    published = row.name in PUBLISHED or (row.base in PUBLISHED and row.checkpoint != FINETUNED)
    return miniature_of(row) if settings.profile == "miniature" and published else row


def _known(kind: str, name: str, existing: Mapping[str, object]) -> str:
    if name not in existing:
        raise VirnucError(f"no {kind} is called {name!r}; there are: {', '.join(sorted(existing))}")
    return name


class AlphabetError(VirnucError):
    """A sequence is empty, holds letters that its encoder does not know, or is DNA for a protein encoder."""


def reads_as_dna(sequence: str) -> bool:
    """Whether a sequence that could be a protein by its letters is taken for DNA.

    A frame of random sequence has such a protein with probability below 1e-11, and no tandem repeat with a unit below
    12 nt has one.
    """
    return len(sequence) >= 20 and set(NUCLEOTIDES) <= set(sequence) <= set("ACGTN")


def check_alphabet(sequences: Sequence[str], alphabet: Alphabet, encoder: str, ids: Sequence[str]) -> None:
    """Refuse other sequences than upper-case ones of an encoder's alphabet: their count, and the first by name."""
    found = zip(ids, (_fault(sequence, alphabet) for sequence in sequences), strict=True)
    faults = [f"{name}: {fault}" for name, fault in found if fault]
    if faults:
        more = f"\n  and {len(faults) - _EXAMPLES} more" if len(faults) > _EXAMPLES else ""
        raise AlphabetError(
            f"{encoder} reads {alphabet} (letters {''.join(sorted(ALPHABET[alphabet]))}, upper case), "
            f"but {len(faults)} of {len(sequences)} sequences are something else:\n  "
            + "\n  ".join(faults[:_EXAMPLES])
            + more
            + "\nGive it the column made for it: nucleotides for a dna encoder, protein for a protein encoder."
        )


def _fault(sequence: str, alphabet: Alphabet) -> str:
    if not sequence:
        return "is empty"
    if unknown := set(sequence) - ALPHABET[alphabet]:
        return f"has letters outside the alphabet: {' '.join(sorted(map(repr, unknown)))}"
    if alphabet == "protein" and reads_as_dna(sequence):
        return f"this looks like DNA: {len(sequence)} letters, all of A, C, G, T, N ({sequence[:20]}...)"
    return ""
