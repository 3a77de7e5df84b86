"""What the project that trained a classifier has on record of it: the records trained on, and its results on others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.classifier.calls import calibrated_scores
from virnuc_assets.classifier.checkpoint import ClassifierDescription
from virnuc_assets.errors import VirnucError
from virnuc_assets.split.assignment import split_schema
from virnuc_assets.storage.layout import Layout
from virnuc_assets.storage.schemas import evaluation_schema
from virnuc_assets.storage.tables import TableMismatch, content_digest, read_provenance, read_table


def trained_on(layout: Layout, description: ClassifierDescription) -> dict[str, Any]:
    """The records trained on by label and group, and how many clusters of relatives they are.

    Empty where the project has not the split that the classifier was trained with; why, where it cannot be read.
    """
    try:
        if content_digest(layout.split) != description.split_digest:
            return {}
        columns = ["cluster", "label", "group", "split"]
        table = read_table(layout.split, split_schema(), columns=columns)
        # The k-mer baseline's penalty is chosen on parts of both, and its weights are of all.
        splits = ["train", "validation"] if description.is_kmer else ["train"]
        table = table.filter(pc.is_in(table["split"], pa.array(splits)))
    except TableMismatch as error:
        return _unreadable(layout.split, error)
    counted = table.group_by(["label", "group"], use_threads=False).aggregate([([], "count_all")])
    groups = counted.sort_by("group").to_pylist()
    return {
        "clusters": pc.count_distinct(table["cluster"]).as_py(),
        "records": {
            label: {each["group"] or "": each["count_all"] for each in groups if each["label"] == label}
            for label in ("viral", "host")
        },
    }


def tested_on(layout: Layout, description: ClassifierDescription, max_error: float) -> dict[str, Any]:
    """How good the classifier was on the test records, none of which has a relative among those trained on.

    By level its accuracy, recall (share of what is viral that is found), specificity (share of what is host that is not
    called virus) and AUROC, none left uncertain; the records whose expected error is not above `max_error`, by the
    classifier's own rule; and the accuracy by group. Empty where the project has no evaluation of this classifier, or
    one whose test rows are of one label; why, where it cannot be read.
    """
    path = layout.evaluation(description.variant)
    try:
        if read_provenance(path).get("classifier") != description.weights_sha256:
            return {}
        columns = [name for name in evaluation_schema().names if name != "record_length_nt"]
        table = read_table(path, evaluation_schema(), columns=columns)
        # scikit-learn takes half a second to import: not where there is nothing to measure.
        from virnuc_assets.classifier import metrics

        levels = metrics.levels_of(table)
        found = {level: metrics.classification_metrics(scored) for level, scored in levels.items()}
        calibrated = calibrated_scores(table, description.temperature)
        certain = metrics.certain_records(calibrated, levels["record"], max_error, description.record_rule)
    except TableMismatch as error:
        return _unreadable(path, error)
    except VirnucError:  # no metrics of one label
        return {}
    known = table.group_by("record_id", use_threads=False).aggregate([("group", "first")])
    of_record = known["group_first"].take(pc.index_in(levels["record"].ids, value_set=known["record_id"]))
    frames = metrics.group_accuracies(levels["frame"], table["group"].fill_null("").to_pylist())
    records = metrics.group_accuracies(levels["record"], of_record.fill_null("").to_pylist())
    return {
        "clusters": pc.count_distinct(table["cluster"]).as_py(),
        **{
            f"{level}s": {
                "count": int(one["rows"]),
                **{name: one[name] for name in ("accuracy", "recall")},
                "specificity": one["tn"] / (one["tn"] + one["fp"]),
                "auroc": one["auroc"],
            }
            for level, one in found.items()
        },
        "certain_records": {
            "count": certain.certain,
            **{name: getattr(certain, name) for name in ("accuracy", "auroc", "max_error")},
        },
        "groups": [
            {
                "label": of_frames.label,
                "group": of_frames.group,
                "records": {"count": of_records.rows, "accuracy": of_records.accuracy},
                "frames": {"count": of_frames.rows, "accuracy": of_frames.accuracy},
            }
            for of_frames, of_records in zip(frames, records, strict=True)
        ],
    }


def _unreadable(path: Path, error: TableMismatch) -> dict[str, Any]:
    return {"unreadable": str(error)} if path.is_file() else {}
