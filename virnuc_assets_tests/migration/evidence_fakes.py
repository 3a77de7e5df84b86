"""Small hand-written evidence: tables whose right answers can be counted by eye."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from virnuc_assets.migration.evidence import Evidence, VariantEvidence
from virnuc_assets.settings import DecisionSettings, EvaluationSettings
from virnuc_assets.storage.schemas import frame_rules_schema
from virnuc_assets_tests.classifier.evaluations import evaluated

SLOTS = {
    "fastesm2": ("dnabert_s", "fastesm2"),
    "esm2_3b": ("dnabert_s", "esm2_3b"),
    "kmer": ("kmer_dna", "kmer_protein"),
}
ALSO_COMPARED = {"esm2_650": ("dnabert_s", "esm2_650")}
DIMS = {"dnabert_s": 12, "fastesm2": 8, "esm2_650": 8, "esm2_3b": 20, "kmer_dna": 6, "kmer_protein": 5}
SETTINGS = DecisionSettings(min_test_rows=100, bootstrap_rounds=1_000, power_studies=20)
EVALUATION = EvaluationSettings()
# Record, cluster, label, frames by either rule, residues of the longest stretch, probability.
FrameRulesRow = tuple[str, str, str, int, int, int, float | None]
FRAME_RULES_ROWS: list[FrameRulesRow] = [
    ("v1", "a", "viral", 1, 3, 160, 0.9),
    ("v1", "a", "viral", 0, 2, 60, 0.6),
    ("v2", "b", "viral", 0, 1, 45, 0.7),
    ("v2", "b", "viral", 0, 0, 0, None),
    ("h1", "c", "host", 2, 4, 160, 0.6),
    ("h1", "c", "host", 0, 2, 60, 0.2),
    ("h2", "d", "host", 0, 3, 60, 0.4),
    ("h3", "d", "host", 1, 0, 0, None),  # a short one, open as a whole
]


def rows(viral_right: Sequence[bool], host_right: Sequence[bool], per_cluster: int = 5) -> pa.Table:
    """A table with one row for each flag, in clusters of `per_cluster` rows: True is a right call.

    Viral rows are of group "phage", host rows of "bacteria"; a record is a cluster.
    """
    records = []
    for label, group, flags in (("viral", "phage", viral_right), ("host", "bacteria", host_right)):
        for start in range(0, len(flags), per_cluster):
            # Scores differ from row to row and are exact in float32.
            sure = [0.75 + (number % 8) / 64 for number in range(start, len(flags))]
            calls = zip(sure, flags[start : start + per_cluster], strict=False)
            chunks = [[one if (label == "viral") == is_right else 1.0 - one] for one, is_right in calls]
            name = f"{label}{start // per_cluster}"
            records.append((name, 2_500, name, label, group, chunks))
    return evaluated(records)


def right(count: int, wrong: int = 0) -> list[bool]:
    """`count` flags, the last `wrong` of them False."""
    return [True] * (count - wrong) + [False] * wrong


def replaced(table: pa.Table, column: str, changes: Mapping[int, object]) -> pa.Table:
    """The table with single values of one column changed."""
    values = [changes.get(row, value) for row, value in enumerate(table[column].to_pylist())]
    index = table.column_names.index(column)
    return table.set_column(index, table.schema.field(column), pa.array(values, table.schema.field(column).type))


def fingerprint(name: str, suffix: str = "_miniature", **changes: str) -> dict[str, str]:
    """An encoder's fingerprint as `encoders.fingerprint` writes it, cut to what matters here."""
    names = {"fastesm2": "fastesm2_650"}
    facts = {
        "encoder": names.get(name, name) + ("" if name.startswith("kmer") else suffix),
        "checkpoint_digest": f"digest-of-{name}",
        "precision": "fp32",
        "version.torch": "2.13.0",
    }
    return {**facts, **changes}


def description(variant: str, **changes: object) -> dict[str, Any]:
    """A classifier's description that fits its encoders."""
    dna, protein = (SLOTS | ALSO_COMPARED)[variant]
    facts = {
        "dna_dim": DIMS[dna],
        "protein_dim": DIMS[protein],
        "merged_dim": DIMS[dna] + DIMS[protein],
        "chunk_length": 500,
        "seed": 0,
        "training": {"seed": 0, "hidden": 4},
        "split_digest": "split-1",
        "data_digest": f"features-of-{variant}",
        "encoders": {"dna": fingerprint(dna), "protein": fingerprint(protein)},
    }
    return {**facts, **changes}


def variant(name: str, predictions: pa.Table | None, **changes: Any) -> VariantEvidence:  # noqa: ANN401
    """A variant whose classifier is in order."""
    dna, protein = (SLOTS | ALSO_COMPARED)[name]
    return VariantEvidence(name, dna, protein, predictions, **{"description": description(name), **changes})


def measured(name: str, sequences_per_s: float, peak_memory_bytes: int, **changes: object) -> dict[str, Any]:
    """One encoder's row of the benchmark, the same in each of six rounds."""
    facts = {
        "encoder": fingerprint(name)["encoder"],
        "sequences_per_s": sequences_per_s,
        "round_seconds": [256 / sequences_per_s] * 6,
        "peak_memory_bytes": peak_memory_bytes,
        "precision": "fp32",
        "device": "cpu",
        "sequences": 256,
        "dim": DIMS[name],
    }
    return {**facts, **changes}


def benchmark() -> dict[str, dict[str, Any]]:
    """The candidate three times as fast, on half the memory."""
    return {
        "dnabert_s": measured("dnabert_s", 50.0, 3 * 2**20),
        "fastesm2": measured("fastesm2", 30.0, 10 * 2**20),
        "esm2_3b": measured("esm2_3b", 10.0, 20 * 2**20),
    }


def frame_rules_table(chunks: Sequence[FrameRulesRow] = FRAME_RULES_ROWS) -> pa.Table:
    """Test chunks of viral group "phage" and of hosts without a group; those without a stretch are short."""
    names = ("record_id", "cluster", "label", "stop_free", "longest_orf", "longest_aa", "probability")
    rows: list[dict[str, Any]] = [dict(zip(names, chunk, strict=True)) for chunk in chunks]
    for number, row in enumerate(rows):
        row |= {"chunk_id": f"{row['record_id']}_chunk_{number}", "length_nt": 100 if row["longest_aa"] == 0 else 500}
        row |= {"stop_free_aa": 160 * row["stop_free"], "longest_orf_aa": 40 * row["longest_orf"]}
        row["group"] = {"viral": "phage", "host": None}[row["label"]]
    return pa.Table.from_pylist(rows, schema=frame_rules_schema())


def evidence(**changes: Any) -> Evidence:  # noqa: ANN401
    """100 rows in 20 clusters: candidate and baseline make no error, the k-mer baseline one in each cluster."""
    one_wrong_in_five = right(5, wrong=1) * 10
    parts: dict[str, Any] = {
        "candidate": variant("fastesm2", rows(right(50), right(50))),
        "baseline": variant("esm2_3b", rows(right(50), right(50))),
        "kmer_baseline": variant("kmer", rows(one_wrong_in_five, one_wrong_in_five)),
        "benchmark": benchmark(),
        "environment": {"python": "3.11"},
    }
    return Evidence(**{**parts, **changes})
