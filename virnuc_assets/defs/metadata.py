"""Metadata as the UI and MLflow show it best: tables with typed columns, numbers that plot, and pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow as pa

if TYPE_CHECKING:
    from virnuc_assets.classifier.metrics import GroupAccuracy, Performance
    from virnuc_assets.classifier.record_rule import RecordRule
    from virnuc_assets.settings import EvaluationSettings

_TYPES = {bool: "bool", int: "int", float: "float"}
_LARGE = 1000
_SHOWN_FAULTS = 20
# Of an encoder's fingerprint: which weights, and how they are read.
_OF_ENCODER = (
    *("encoder", "architecture", "checkpoint", "revision", "checkpoint_digest"),
    *("pooling", "max_length", "token_dropout", "precision"),
)


def shown_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = ()) -> dg.TableMetadataValue:
    """A table; columns are those of the first row if they are not given.

    Numbers have four digits, or one decimal where they are large; one that is not finite is left out.
    """
    records = [{name: _cell(value) for name, value in row.items()} for row in rows]
    names = columns or (list(records[0]) if records else [])
    values = {name: [record[name] for record in records if record[name] is not None] for name in names}
    types = {name: _TYPES.get(type(found[0]), "string") if found else "string" for name, found in values.items()}
    schema = dg.TableSchema([dg.TableColumn(name, types[name]) for name in names])
    return dg.MetadataValue.table([dg.TableRecord(record) for record in records], schema)


def shown_pairs(pairs: Mapping[str, Any], *names: str) -> dg.TableMetadataValue:
    """A row for each pair, under two names."""
    return shown_table((dict(zip(names, pair, strict=True)) for pair in pairs.items()), names)


def shown_facts(facts: Mapping[str, Any]) -> dg.TableMetadataValue:
    """Names and values, one row each."""
    return shown_pairs({name: str(value) for name, value in facts.items()}, "name", "value")


def shown_rows(table: pa.Table, rows: int = 50) -> dg.TableMetadataValue:
    """The first rows of a table, for its page."""
    return shown_table(table.slice(0, rows).to_pylist(), table.column_names)


def shown_encoders(encoders: Mapping[str, Mapping[str, str]], dims: Mapping[str, int]) -> dg.TableMetadataValue:
    """Encoders of a classifier by role: dim, weights, and what else decides their vectors."""
    return shown_table(
        {"role": role, "dim": dims[f"{role}_dim"], **{name: fingerprint.get(name, "") for name in _OF_ENCODER}}
        for role, fingerprint in encoders.items()
    )


def shown_pictures(charts: Mapping[str, str]) -> dg.MarkdownMetadataValue:
    """SVG charts by name. Dagster's pages show data: addresses in pictures, and file: addresses nowhere."""
    from virnuc_assets.reports.pages import picture

    return dg.MetadataValue.md("\n\n".join(f"![{name}]({picture(svg)})" for name, svg in charts.items()))


def result(
    faults: Mapping[str, Sequence[str]],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    **facts: Any,  # noqa: ANN401
) -> dg.AssetCheckResult:
    """Of a check: passed where nothing has a fault; otherwise the first of them are shown and all are counted."""
    shown = [{"where": where, "fault": fault} for where, found in faults.items() for fault in found]
    metadata = {**facts, "faults": len(shown)}
    if shown:
        metadata["first_faults"] = shown_table(shown[:_SHOWN_FAULTS])
    return dg.AssetCheckResult(passed=not shown, severity=severity, metadata=metadata)


def _cell(value: Any) -> str | int | float | bool | None:  # noqa: ANN401
    if isinstance(value, float):
        rounded = round(value, 1) if abs(value) >= _LARGE else float(f"{value:.4g}")
        return rounded if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | float) else str(value)


@dataclass(frozen=True)
class Measured:
    """The performance of one classifier, and its charts by name."""

    performance: Performance
    charts: Mapping[str, str]

    @classmethod
    def of(
        cls,
        name: str,
        table: pa.Table,
        temperature: float | None,
        settings: EvaluationSettings,
        rule: RecordRule | None = None,
    ) -> Measured:
        """Measure test rows (`evaluation_schema`) and draw them; a VirnucError where all are of one label."""
        from virnuc_assets.classifier.metrics import performance
        from virnuc_assets.reports import charts

        found, style = performance(table, temperature, settings, rule), {name: charts.Style("candidate")}
        drawn = {
            "roc": charts.roc_svg({name: table}, style, legend=True),
            "precision_recall": charts.precision_recall_svg({name: table}, style, legend=True),
            "calibration": charts.reliability_svg({name: found.calibration.bins}, style, legend=True),
        }
        return cls(found, drawn)

    @property
    def metrics(self) -> dict[str, float]:
        """Names and numbers: frames' metrics by their plain names, those of other levels with theirs."""
        levels, calibration = self.performance.levels, self.performance.calibration
        abstention, records = self.performance.abstention, self.performance.records
        flat = {
            **levels["frame"],
            **{f"{level}_{name}": value for level in ("chunk", "record") for name, value in levels[level].items()},
            "brier_calibrated": calibration.brier,
            "ece_calibrated": calibration.ece,
            "temperature": calibration.temperature,
            "chunks_called_share": abstention.called / abstention.chunks,
            "chunks_called_accuracy": abstention.accuracy,
            "record_rule_auroc": records.auroc,
            "records_certain_share": records.certain / records.records,
            "records_certain_accuracy": records.accuracy,
        }
        return {name: value for name, value in flat.items() if value is not None}

    @property
    def test_metrics(self) -> dict[str, float]:
        """The metrics as a training run has them, next to those of its epochs."""
        return {f"test_{name}": value for name, value in self.metrics.items()}

    @property
    def files(self) -> dict[str, str]:
        """The curves as files of a run."""
        from virnuc_assets.reports.pages import in_light_colours

        return {f"curves/{name}.svg": in_light_colours(svg) for name, svg in self.charts.items()}

    def metadata(self) -> dict[str, Any]:
        """For the page of an asset."""
        return {
            "curves": shown_pictures(self.charts),
            "accuracy_by_group": _accuracies(self.performance.groups, "group"),
            "accuracy_by_record_length": _accuracies(self.performance.lengths, "record_length"),
            **self.metrics,
        }


def _accuracies(groups: Iterable[GroupAccuracy], name: str) -> Any:  # noqa: ANN401
    return shown_table(
        {"label": one.label, name: one.group, "rows": one.rows, "correct": one.correct, "accuracy": one.accuracy}
        for one in groups
    )
