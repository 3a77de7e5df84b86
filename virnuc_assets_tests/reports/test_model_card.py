"""The card of a classifier says what it was trained on, how it was tested, and what is not known of it."""

from virnuc_assets.classifier.checkpoint import ClassifierDescription
from virnuc_assets.classifier.metrics import performance
from virnuc_assets.migration.decision import MINIATURE_WARNING
from virnuc_assets.reports.model_card import ModelCard
from virnuc_assets_tests.migration.evidence_fakes import EVALUATION, description, fingerprint, right, rows

SPLIT = [
    {"record_id": "a", "label": "viral", "group": "phage", "cluster": "a", "rows": 1200, "split": "train"},
    {"record_id": "b", "label": "viral", "group": "phage", "cluster": "a", "rows": 34, "split": "train"},
    {"record_id": "c", "label": "viral", "group": "phage", "cluster": "c", "rows": 50, "split": "test"},
    {"record_id": "d", "label": "host", "group": "bacteria", "cluster": "d", "rows": 50, "split": "test"},
    {"record_id": "e", "label": "host", "group": "plant_a", "cluster": "e", "rows": 7, "split": "validation"},
    {"record_id": "f", "label": "host", "group": "fungi", "cluster": "f", "rows": 9, "split": "left_out"},
]
RULE = {"by": "clusters", "seed": 0, "test_groups": [], "test_from": None}


def card(suffix: str = "") -> ModelCard:
    hub = {"checkpoint": "hub", "revision": "0123abcd"}
    encoders = {
        "dna": fingerprint("dnabert_s", suffix, **hub),
        "protein": fingerprint("fastesm2", suffix, checkpoint="miniature" if suffix else "folder"),
    }
    facts = {**description("fastesm2", encoders=encoders), "variant": "fastesm2"}
    described = ClassifierDescription.model_validate(facts)
    found = performance(rows(right(50, wrong=5), right(50, wrong=10)), 2.0, EVALUATION)
    return ModelCard(described, SPLIT, RULE, found, {"asset": "http://127.0.0.1:3000/assets/x"})


def test_the_summary_has_data_split_metrics_limits_and_links() -> None:
    text = card().summary()
    for line in (
        "# Classifier of fastesm2",
        "- dna: dnabert_s (hub 0123abcd), 12 columns",
        "- protein: fastesm2_650 (folder digest-of-fastesm2), 8 columns",
        "4 clusters of related records; a whole cluster goes to one split (by clusters, seed 0).",
        "| train | 2 | 1,234 |",
        "| validation | 1 | 7 |",
        "| test | 2 | 100 |",
        "| Accuracy | 0.8500 | 0.8500 | 0.8500 |",
        "- Groups without test rows: host fungi, host plant\\_a. Viruses and hosts of other groups than those of the "
        "reference are not tested either.",
        "[asset](http://127.0.0.1:3000/assets/x)",
    ):
        assert line in text.splitlines(), (line, text)
    assert "Calibrated by temperature 2.0000: ECE " in text
    assert MINIATURE_WARNING not in text
    assert "## Records and rows by group" not in text


def test_the_whole_card_counts_every_group() -> None:
    text = card().text()
    assert text.startswith(card().summary())
    for line in (
        "| host | bacteria | 0 | 0 | 0 | 0 | 1 | 50 |",
        "| host | fungi | 0 | 0 | 0 | 0 | 0 | 0 |",
        "| host | plant\\_a | 0 | 0 | 1 | 7 | 0 | 0 |",
        "| viral | phage | 2 | 1,234 | 0 | 0 | 1 | 50 |",
        "| host | bacteria | 50 | 40 | 0.8000 |",
        "| viral | phage | 50 | 45 | 0.9000 |",
    ):
        assert line in text.splitlines(), (line, text)


def test_random_weights_are_a_limit() -> None:
    assert f"- Miniature encoders: {MINIATURE_WARNING}." in card("_miniature").summary().splitlines()
