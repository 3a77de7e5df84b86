"""What an evaluation amounts to, as the UI and MLflow show it: numbers that plot, tables, and curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from virnuc_assets.defs.metadata import shown_pictures, shown_table

if TYPE_CHECKING:
    import pyarrow as pa

    from virnuc_assets.classifier.metrics import GroupAccuracy, Performance
    from virnuc_assets.classifier.record_rule import RecordRule
    from virnuc_assets.settings import EvaluationSettings


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
        """Measure test rows (`evaluation_schema`) and draw them.

        Raises:
            MetricsError: all rows are of one label.
        """
        from virnuc_assets.classifier.metrics import performance
        from virnuc_assets.reports import charts

        found, style = performance(table, temperature, settings, rule), {name: charts.Style("candidate")}
        return cls(
            found,
            {
                "roc": charts.roc_svg({name: table}, style, legend=True),
                "precision_recall": charts.precision_recall_svg({name: table}, style, legend=True),
                "calibration": charts.reliability_svg({name: found.calibration.bins}, style, legend=True),
            },
        )

    @property
    def metrics(self) -> dict[str, float]:
        """Names and numbers: frames' metrics by their plain names, those of other levels with theirs."""
        found = self.performance
        flat = dict(found.levels["frame"])
        for level in ("chunk", "record"):
            flat |= {f"{level}_{name}": value for name, value in found.levels[level].items()}
        calibration, abstention = found.calibration, found.abstention
        flat |= {"brier_calibrated": calibration.brier, "ece_calibrated": calibration.ece}
        if calibration.temperature is not None:
            flat["temperature"] = calibration.temperature
        flat["chunks_called_share"] = abstention.called / abstention.chunks
        records = found.records
        flat |= {"record_rule_auroc": records.auroc, "records_certain_share": records.certain / records.records}
        accuracies = {"chunks_called_accuracy": abstention.accuracy, "records_certain_accuracy": records.accuracy}
        return flat | {name: value for name, value in accuracies.items() if value is not None}

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
