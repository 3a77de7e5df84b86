"""The numbers of the page are those of the decision's JSON."""

from __future__ import annotations

import re

from virnuc_assets.reports import decision_report as views
from virnuc_assets.reports.decision_report import METRICS, probability, span
from virnuc_assets.reports.pages import percent, score, signed, times
from virnuc_assets_tests.migration.evidence_fakes import right, rows, variant

from .report_fakes import HALF_WRONG, Page, by_role, decided, good, page_of, rich_decision, rich_json, rich_page


def test_criteria_show_number_interval_threshold_and_outcome() -> None:
    words = {"met": "✓ met", "failed": "✗ failed", "inconclusive": "? inconclusive", "missing": "– missing"}
    for criterion in rich_json()["criteria"]:
        (row,) = (one for one in rich_page().rows if len(one) == 5 and f" {criterion['name']} " in f"{one[0]} ")
        if criterion["unit"] == "times":
            low, high = times(criterion["low"]), times(criterion["high"])
            assert row[1:3] == [f"{times(criterion['value'])} (miniature)", "–" if low == "–" else f"{low} to {high}"]
        else:
            assert row[1:3] == [signed(criterion["value"]), span(criterion["low"], criterion["high"])]
        assert row[4] == words[criterion["outcome"]]
    assert "≥ 2×" in rich_page().text and "≤ 0.05" in rich_page().text and "> 0" in rich_page().text


def test_metrics_of_every_variant_and_level_are_those_of_the_decision() -> None:
    variants = [one["performance"]["levels"] for one in by_role(rich_json()["variants"])]
    for level in ("frame", "chunk", "record"):
        for metric, title in METRICS.items():
            assert [title, *(score(levels[level][metric]) for levels in variants)] in rich_page().rows
        for levels in variants:
            tn, fp, fn, tp = (levels[level][cell] for cell in ("tn", "fp", "fn", "tp"))
            host, viral = tn + fp, fn + tp
            for label, total, cells in (("host", host, (tn, fp)), ("viral", viral, (fn, tp))):
                assert [label, *(f"{cell:.0f} {100 * cell / total:.1f} %" for cell in cells)] in rich_page().rows


def test_comparisons_and_mcnemar_are_those_of_the_decision() -> None:
    names = {
        "baseline": "baseline, esm2_3b",
        "kmer_baseline": "kmer_baseline, kmer",
        "esm2_650": "esm2_650",
        "prot_t5": "prot_t5",
    }
    assert set(rich_json()["comparisons"]) == set(names)
    for role, found in rich_json()["comparisons"].items():
        drops = [found["accuracy_drop"], found["f1_drop"]]
        cells = [text for drop in drops for text in (signed(drop["value"]), span(drop["low"], drop["high"]))]
        assert [names[role], *cells] in rich_page().rows
        for test in found["mcnemar"]:
            counts = [str(test[name]) for name in ("rows", "only_candidate_right", "only_other_right")]
            assert [names[role], f"{test['level']}s", *counts, probability(test["p"])] in rich_page().rows
    assert "It takes rows to be independent. Frames, chunks and related records are not" in rich_page().text


def test_calibration_and_abstention_are_those_of_the_decision() -> None:
    found = rich_json()["variants"]["candidate"]["performance"]
    before, after, band = found["levels"]["frame"], found["calibration"], found["abstention"]
    assert after["ece"] != before["ece"]
    arrows = [f"{score(before[metric])} → {score(after[metric])}" for metric in ("ece", "brier")]
    assert ["candidate, fastesm2", "0.5000", *arrows] in rich_page().rows
    called, share = f"{band['called']} of {band['chunks']}", f"{100 * band['called'] / band['chunks']:.1f} %"
    accuracies = f"{score(found['levels']['chunk']['accuracy'])} → {score(band['accuracy'])}"
    assert ["candidate, fastesm2", called, share, accuracies] in rich_page().rows


def test_groups_are_shown_whether_tested_or_not() -> None:
    found = {(one["label"], one["group"]): one for one in rich_json()["comparisons"]["baseline"]["groups"]}
    shown = {(row[1], row[0]): row for row in rich_page().rows if len(row) == 11 and row[1] in ("viral", "host")}
    assert set(shown) == set(found)
    for key, group in found.items():
        drop = group["drop"]
        numbers = [score(group["candidate_accuracy"]), score(group["other_accuracy"]), signed(drop["value"])]
        counts = [str(group["rows"]), str(group["clusters"])]
        tests = [probability(group["p_worse"]), probability(group["p_lost"])]
        assert shown[key][2:10] == [*counts, *numbers, span(drop["low"], drop["high"]), *tests]
    outcomes = {group: row[10] for (_, group), row in shown.items()}
    none, few = "✓ no loss", "too few"
    assert outcomes == {"rare": few, "lonely": few, "phage": none, "bacteria": none}
    assert shown["viral", "lonely"][7:10] == ["–", "–", "–"]


def test_a_group_that_lost_and_one_that_is_worse() -> None:
    three_of_five_clusters = (right(5, wrong=1) * 3 + right(5) * 2) * 2
    given = good(candidate=variant("fastesm2", rows(three_of_five_clusters, HALF_WRONG)))
    assert [(one.group, one.status) for one in views.sorted_groups(decided(given))] == [
        ("bacteria", "lost"),
        ("phage", "worse"),
    ]
    text = Page(page_of(given)).text
    assert re.search(r"bacteria host 50 10 0\.5000 1\.0000 \+0\.5000 .* ✗ lost more phage", text)
    assert re.search(r"phage viral 50 10 0\.8800 1\.0000 \+0\.1200 .* \? worse", text)


def test_power_is_that_of_the_decision() -> None:
    found = rich_json()["power"]
    for one in found["chances"]:
        shares = [percent(share) for share in (one["go"], 1 - one["go"] - one["no_go"], one["no_go"])]
        assert [one["lost_in"], str(one["margins"]), *shares] in rich_page().rows
    equal = percent(found["chances"][0]["go"])
    assert f"two equally good models would get GO in {equal} of studies" in rich_page().text


def test_single_encoders_are_listed_next_to_both() -> None:
    lines = views.ablation_lines(rich_decision())
    assert [vectors for vectors, _ in lines] == [
        "DNA only: dnabert_s",
        "protein only: fastesm2",
        "both: dnabert_s + fastesm2 (candidate)",
        "both: dnabert_s + esm2_3b (baseline)",
        "both: kmer_dna + kmer_protein (kmer_baseline)",
        "both: dnabert_s + esm2_650 (esm2_650)",
        "both: dnabert_s + prot_t5 (prot_t5)",
    ]
    alone = rich_json()["ablations"]["dnabert_s"]["levels"]
    numbers = [score(alone["frame"][metric]) for metric in ("accuracy", "f1", "mcc", "auroc")]
    assert ["DNA only: dnabert_s", *numbers, score(alone["record"]["accuracy"])] in rich_page().rows


def test_both_frame_rules_are_side_by_side_with_their_difference() -> None:
    found = rich_json()["frame_rules"]
    old, new = found["rules"]["stop_free"], found["rules"]["longest_orf"]
    assert found["recommendation"] in rich_page().text
    covered = [percent(one["coverage"]["viral"]["bases"]) for one in (old, new)]
    assert ["Viral bases with a verdict", *covered, ""] in rich_page().rows
    gain = found["auroc_gain"]
    values = [
        f"{score(one['auroc']['value'])} {one['auroc']['low']:.4f} to {one['auroc']['high']:.4f}" for one in (old, new)
    ]
    difference = f"{signed(gain['value'])} {span(gain['low'], gain['high'])}"
    assert ["AUROC, all records", *values, difference] in rich_page().rows
    assert ["Frames per chunk, to be embedded", "0.50", "1.88", ""] in rich_page().rows
    assert ["Residues in these", "80.0", "75.0", ""] in rich_page().rows
    assert ["longest_orf", "0 to 49 aa", "1", "0.7000", "1.0000"] in rich_page().rows
    assert ["stop_free", "160 aa and more", "2", "0.7500", "0.5000"] in rich_page().rows
    shares = ["50.0 %", "0.0000", "0.6000", "75.0 %", "0.6667", "0.4000"]
    assert ["(no group)", "host", "3", "4", *shares] in rich_page().rows


def test_dims_and_lengths_are_side_by_side() -> None:
    assert ["Joined dim", "20", "32", "11", "20", "20"] in rich_page().rows
    assert ["training.hidden", "4", "4", "4", "4", "4"] in rich_page().rows
    assert ["1,000 to 2,999 nt", "host", "10", "0.9000", "1.0000", "0.6000", "0.9000", "0.8000"] in rich_page().rows


def test_speed_ratios_are_those_of_protein_encoders() -> None:
    shown = {row[0]: row[1:5] for row in rich_page().rows if len(row) == 10 and row[-1] == "cpu"}
    assert shown["fastesm2 (miniature)"] == ["30.0", "3×", "10.0", "0.5×"]
    assert shown["dnabert_s (miniature)"] == ["50.0", "–", "3.0", "–"]
    assert ["fastesm2", "protein encoder", "3× (miniature)", "3× to 3×"] in rich_page().rows
    assert ["fastesm2", "DNA and protein encoder", "2.25× (miniature)", "2.25× to 2.25×"] in rich_page().rows
