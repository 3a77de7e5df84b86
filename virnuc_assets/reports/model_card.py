"""The card of a trained classifier: what it is, its data and split, its test metrics and its limits, as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from virnuc_assets.classifier.checkpoint import ClassifierDescription
from virnuc_assets.classifier.metrics import LEVELS, Performance
from virnuc_assets.migration.decision import MINIATURE_WARNING
from virnuc_assets.reports.decision_report import METRICS
from virnuc_assets.reports.pages import score
from virnuc_assets.split.assignment import SPLITS
from virnuc_assets.text import markdown_cell

_NAMED = 5  # groups in the summary, which MLflow's registry limits to 5,000 characters; the tables have all


@dataclass(frozen=True)
class ModelCard:
    """What a card is written from."""

    description: ClassifierDescription
    split: Sequence[Mapping[str, Any]]  # rows of the split's table
    rule: Mapping[str, Any]  # settings of the split
    performance: Performance  # on the test rows
    links: Mapping[str, str]  # addresses by what they show

    def summary(self) -> str:
        """The card without its tables by group: short, whatever the number of groups."""
        one = self.description
        encoders = (
            f"- {role}: {facts['encoder']} ({_weights(facts)}), {dim} columns"
            for (role, facts), dim in zip(one.encoders.items(), (one.dna_dim, one.protein_dim), strict=True)
        )
        calibration = self.performance.calibration
        parts = [
            f"# Classifier of {one.variant}",
            "Scores (other, virus) of a chunk, by a logistic regression on its composition and its longest stretch's:"
            if one.is_kmer
            else "Scores (other, virus) of an open reading frame, by an MLP on the joined vectors of two encoders:",
            "\n".join(encoders),
            "## Data and split",
            self._split(),
            "## Test metrics",
            self._metrics(),
            f"Calibrated by temperature {score(calibration.temperature)}: ECE {score(calibration.ece)}, Brier score "
            f"{score(calibration.brier)} (frames).",
            "## Limits",
            "\n".join(f"- {limit}" for limit in self._limits()),
            " · ".join(f"[{text}]({address})" for text, address in self.links.items()),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def text(self) -> str:
        """The whole card."""
        head = ("label", "group", *(f"{split} {what}" for split in SPLITS for what in ("records", "rows")))
        rows = ((one.label, one.group, one.rows, one.correct, score(one.accuracy)) for one in self.performance.groups)
        tested = _table(("label", "group", "rows", "correct", "accuracy"), rows)
        return (
            f"{self.summary()}\n## Records and rows by group\n\n{_table(head, self._groups())}\n\n"
            f"## Test accuracy of frames by group\n\n{tested}\n"
        )

    def _split(self) -> str:
        rows, records = Counter[str](), Counter[str]()
        for record in self.split:
            rows[record["split"]] += record["rows"]
            records[record["split"]] += 1
        clusters = len({record["cluster"] for record in self.split if record["split"] in SPLITS})
        rule = ", ".join(f"{name} {value}" for name, value in self.rule.items() if value not in (None, "", []))
        return (
            f"{clusters:,} clusters of related records; a whole cluster goes to one split ({markdown_cell(rule)}).\n\n"
            + _table(("split", "records", "rows"), ((name, records[name], rows[name]) for name in SPLITS))
        )

    def _metrics(self) -> str:
        found = self.performance.levels
        lines = ((text, *(score(found[level][name]) for level in LEVELS)) for name, text in METRICS.items())
        return _table(("metric", *LEVELS), lines)

    def _groups(self) -> Iterable[tuple[Any, ...]]:
        counts = Counter[tuple[str, str, str, str]]()
        for record in self.split:
            of = (record["label"], record["group"] or "", record["split"])
            counts[*of, "records"] += 1
            counts[*of, "rows"] += record["rows"]
        for group in sorted({(label, group) for label, group, _, _ in counts}):
            yield (*group, *(counts[*group, split, what] for split in SPLITS for what in ("records", "rows")))

    def _limits(self) -> list[str]:
        one, tested = self.description, {(each.label, each.group) for each in self.performance.groups}
        known = {(record["label"], record["group"] or "") for record in self.split if record["rows"]}
        untested = [f"{label} {group}" for label, group in sorted(known - tested)]
        named = ", ".join(untested[:_NAMED]) + (f" and {len(untested) - _NAMED} more" if len(untested) > _NAMED else "")
        return [
            *([f"Miniature encoders: {MINIATURE_WARNING}."] if one.miniature else []),
            f"For chunks of {one.chunk_length} nt and frames by {one.rule} only; others are refused.",
            f"One training, with seed {one.seed}: variation between trainings is not measured.",
            f"Groups without test rows: {markdown_cell(named) or 'none'}. Viruses and hosts of other groups than "
            "those of the reference are not tested either.",
        ]


def _weights(fingerprint: Mapping[str, str]) -> str:
    found = fingerprint.get("revision") or fingerprint.get("checkpoint_digest") or "without weights"
    return f"{fingerprint.get('checkpoint', '')} {found}".strip()


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    cells = ([f"{one:,}" if isinstance(one, int) else markdown_cell(one) for one in row] for row in rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *cells))
