"""Tables and pictures of assets' pages: typed columns, numbers as they are, pictures that fit into an event."""

import base64
import math
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_assets.defs.metadata import Measured, result, shown_encoders, shown_facts, shown_table
from virnuc_assets.settings import EvaluationSettings
from virnuc_assets.storage.schemas import evaluation_schema

CELLS = st.none() | st.integers() | st.floats(allow_nan=True) | st.booleans() | st.text()
MAX_PICTURE = 150_000


def test_columns_have_the_type_of_their_values() -> None:
    rows = [
        {"name": "a", "count": 3, "share": None, "good": True, "other": None},
        {"name": "b", "count": None, "share": 0.5, "good": False, "other": None},
    ]
    shown = shown_table(rows)
    types = {column.name: column.type for column in shown.schema.columns}
    assert types == {"name": "string", "count": "int", "share": "float", "good": "bool", "other": "string"}
    assert [record.data for record in shown.records] == rows


@given(st.lists(st.fixed_dictionaries({"x": CELLS, "y": CELLS})))
def test_every_number_that_is_finite_is_kept(rows: list[dict[str, object]]) -> None:
    """To four digits, and larger ones to a tenth."""
    table = shown_table(rows, ("x", "y"))
    shown = [record.data for record in table.records]
    assert (len(shown), [column.name for column in table.schema.columns]) == (len(rows), ["x", "y"])
    for row, cells in zip(rows, shown, strict=True):
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                assert cells[name] is None
            elif isinstance(value, float):
                assert cells[name] == pytest.approx(value, rel=1e-3, abs=1e-300)
            else:
                assert cells[name] == value


def test_facts_and_encoders_are_rows() -> None:
    facts = [record.data for record in shown_facts({"seed": 0, "by": None}).records]
    assert facts == [{"name": "seed", "value": "0"}, {"name": "by", "value": "None"}]
    fingerprints = {"dna": {"encoder": "kmer_dna"}, "protein": {"encoder": "esm", "revision": "abc"}}
    found = [record.data for record in shown_encoders(fingerprints, {"dna_dim": 256, "protein_dim": 32}).records]
    assert [(row["role"], row["dim"], row["encoder"], row["revision"]) for row in found] == [
        ("dna", 256, "kmer_dna", ""),
        ("protein", 32, "esm", "abc"),
    ]


def test_a_check_counts_all_faults_and_shows_the_first() -> None:
    found = result({"a": [f"fault {number}" for number in range(15)], "b": ["other"] * 10}, records=7)
    counts = [found.metadata[name].value for name in ("faults", "records")]
    shown = [record.data for record in found.metadata["first_faults"].records]  # type: ignore[union-attr]
    assert (found.passed, counts, len(shown)) == (False, [25, 7], 20)
    assert (shown[1], shown[-1]) == ({"where": "a", "fault": "fault 1"}, {"where": "b", "fault": "other"})
    assert result({"a": []}).passed


def test_curves_of_many_rows_are_pictures_that_fit_into_an_event() -> None:
    """60,000 rows with distinct scores, each of 3 curves; drawn in colours of their own."""
    rows, random = 60_000, np.random.default_rng(0)
    viral = random.random(rows) < 0.4
    score = np.clip(random.normal(0.4 + 0.2 * viral, 0.15), 0, 1).astype(np.float32)
    names = [f"record{i // 10}" for i in range(rows)]
    label_of = dict(zip(names, np.where(viral, "viral", "host").tolist(), strict=True))
    labels = [label_of[name] for name in names]
    columns = {
        "frame_id": [f"{name}_chunk_{i}F1" for i, name in enumerate(names)],
        "chunk_id": [f"{name}_chunk_{i}" for i, name in enumerate(names)],
        "record_id": names,
        "label": labels,
        "group": labels,
        "cluster": names,
        "record_length_nt": [900] * rows,
        "score_other": 1 - score,
        "score_virus": score,
        "call": np.where(score >= 0.5, "virus", "other").tolist(),
    }
    table = pa.table({name: columns[name] for name in evaluation_schema().names}, schema=evaluation_schema())
    shown = Measured.of("variant", table, 1.5, EvaluationSettings()).metadata()
    pictures = re.findall(r"!\[(\w+)\]\(data:image/svg\+xml;base64,([^)]+)\)", str(shown["curves"].value))
    assert [name for name, _ in pictures] == ["roc", "precision_recall", "calibration"]
    for _, encoded in pictures:
        assert len(encoded) < MAX_PICTURE
        svg = base64.b64decode(encoded).decode()
        assert svg.startswith("<svg ") and "var(" not in svg and ">variant<" in svg
    groups = [record.data for record in shown["accuracy_by_group"].records]
    assert sum(row["rows"] for row in groups) == rows
    assert [row["accuracy"] for row in groups] == [float(f"{row['correct'] / row['rows']:.4g}") for row in groups]
