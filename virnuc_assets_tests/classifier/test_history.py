"""What a project has on record of a classifier: counted by hand, and absent where it is of another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from virnuc_assets.classifier import history
from virnuc_assets.classifier.checkpoint import ClassifierDescription
from virnuc_assets.split.assignment import split_schema
from virnuc_assets.storage.layout import Layout
from virnuc_assets.storage.tables import content_digest, write_table

from .evaluations import Evaluated, evaluated

# record, cluster, label, group, split
SPLIT = [
    ("p1", "c1", "viral", "phage", "train"),
    ("p2", "c1", "viral", "phage", "train"),
    ("r1", "c2", "viral", "retro", "train"),
    ("b1", "c3", "host", "bacteria", "train"),
    ("x1", "c4", "host", None, "train"),
    ("b2", "c5", "host", "bacteria", "validation"),
    ("p3", "c6", "viral", "phage", "test"),
    ("b3", "b3", "host", "bacteria", "left_out"),
]
TESTED: list[Evaluated] = [
    ("p3", 1000, "c6", "viral", "phage", [[0.75, 0.25], [0.875]]),
    ("p4", 1000, "c6", "viral", "phage", [[0.25], [0.375]]),
    ("b4", 1000, "c7", "host", "bacteria", [[0.125], [0.25]]),
    ("x2", 1000, "c8", "host", None, [[0.625]]),
]


def split_table() -> pa.Table:
    names = ("record_id", "cluster", "label", "group", "split")
    rows = [{**dict(zip(names, row, strict=True)), "rows": 9, "relatives": "", "reason": ""} for row in SPLIT]
    return pa.Table.from_pylist(rows, schema=split_schema())


def classifier(**facts: str) -> ClassifierDescription:
    widths = {"dna_dim": 1, "protein_dim": 1, "merged_dim": 2}
    return ClassifierDescription(variant="v", encoders={}, chunk_length=500, **widths, **facts)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Of a project with a split and an evaluation of classifier "w"."""
    found = Layout(tmp_path, "profile")
    write_table(found.split, split_table(), {})
    write_table(found.evaluation("v"), evaluated(TESTED), {"classifier": "w"})
    return found


def test_training_records_are_counted_by_label_and_group(layout: Layout) -> None:
    assert history.trained_on(layout, classifier(split_digest=content_digest(layout.split))) == {
        "clusters": 4,
        "records": {"viral": {"phage": 2, "retro": 1}, "host": {"": 1, "bacteria": 1}},
    }


def test_the_k_mer_baseline_is_trained_on_validation_records_too(layout: Layout) -> None:
    described = classifier(split_digest=content_digest(layout.split))
    composed = described.model_copy(update={"encoders": {"protein": {"architecture": "kmer"}}})
    more = [row for row in SPLIT if row[-1] in ("train", "validation")]
    found = history.trained_on(layout, composed)
    assert found["clusters"] == len({row[1] for row in more}) > history.trained_on(layout, described)["clusters"]
    assert sum(sum(groups.values()) for groups in found["records"].values()) == len(more)


def level(count: int, accuracy: float, recall: float, specificity: float, auroc: float) -> dict[str, Any]:
    facts = {"count": count, "accuracy": accuracy, "recall": recall, "specificity": specificity}
    return {**facts, "auroc": pytest.approx(auroc)}


def group(label: str, name: str, *levels: tuple[int, float]) -> dict[str, Any]:
    """Of records and of frames: how many, and which share is right."""
    records, frames = ({"count": count, "accuracy": accuracy} for count, accuracy in levels)
    return {"label": label, "group": name, "records": records, "frames": frames}


def test_results_are_those_of_the_test_records(layout: Layout) -> None:
    assert history.tested_on(layout, classifier(weights_sha256="w"), 0.25) == {
        "clusters": 3,
        # Of 5 viral frames 2 are found, of 3 host frames 1 is called virus; 10 of 15 pairs are in order, 2 even.
        "frames": level(8, 4 / 8, 2 / 5, 2 / 3, 11 / 15),
        "chunks": level(7, 4 / 7, 2 / 4, 2 / 3, 8.5 / 12),
        "records": level(4, 2 / 4, 1 / 2, 1 / 2, 0.5),
        # Means of the chunks: 0.69 and 0.31 of the viruses, 0.19 and 0.625 of the hosts; the third is sure, and right.
        "certain_records": {"count": 1, "accuracy": 1.0, "auroc": pytest.approx(3 / 4), "max_error": 0.25},
        "groups": [
            group("host", "", (1, 0.0), (1, 0.0)),
            group("host", "bacteria", (1, 1.0), (2, 1.0)),
            group("viral", "phage", (2, 0.5), (5, 0.4)),
        ],
    }


def test_nothing_is_said_that_is_of_another_classifier_or_not_there(layout: Layout, tmp_path: Path) -> None:
    for other in (classifier(split_digest="another", weights_sha256="another"), classifier()):
        assert history.trained_on(layout, other) == history.tested_on(layout, other, 0.2) == {}
    described = classifier(weights_sha256="w", split_digest=content_digest(layout.split))
    elsewhere = Layout(tmp_path / "empty", "profile")
    assert history.trained_on(elsewhere, described) == history.tested_on(elsewhere, described, 0.2) == {}
    write_table(layout.evaluation("v"), evaluated(TESTED[:2]), {"classifier": "w"})
    assert history.tested_on(layout, described, 0.2) == {}  # all viral: no specificity, no AUROC


def test_a_damaged_table_is_named(layout: Layout) -> None:
    described = classifier(weights_sha256="w", split_digest=content_digest(layout.split))
    reads = ((layout.split, history.trained_on, ()), (layout.evaluation("v"), history.tested_on, (0.2,)))
    for path, found, more in reads:
        path.write_bytes(b"PAR1")
        assert str(found(layout, described, *more)["unreadable"]).startswith(f"{path}: damaged, or not a Parquet file")
