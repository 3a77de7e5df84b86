"""The test chunks with their frames by both rules and the k-mer baseline's probabilities; group `classifiers`."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.defs.metadata import result, shown_table
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.defs.provenance import (
    CHUNKS,
    contents,
    current_features,
    current_split,
    evaluation_provenance,
    reference_tables,
)
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.sharded_asset import code_version, inputs_of, made_table, retrained_asset, whole_result
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.layout import SPLIT
from virnuc_assets.storage.schemas import chunks_schema, evaluation_schema, frame_rules_schema
from virnuc_assets.storage.tables import content_digest, read_table, require_content, require_table

if TYPE_CHECKING:
    from virnuc_assets.classifier.checkpoint import ClassifierDescription
    from virnuc_assets.migration.frame_rules import FrameRules

FRAME_RULES = "frame_rules"


def build(workspace: Workspace) -> list[dg.AssetsDefinition]:
    """The comparison and its check."""
    return [_frame_rules_asset(workspace), _frame_rules_check(workspace)]


def _frame_rules_asset(workspace: Workspace) -> dg.AssetsDefinition:
    settings = workspace.settings
    shown_by = settings.decision.model_dump(include={"bootstrap_rounds", "confidence", "seed"})

    @retrained_asset(
        workspace,
        name=FRAME_RULES,
        deps=[f"{settings.decision.kmer_baseline}_evaluation", REFERENCE.key(CHUNKS), SPLIT],
        kinds={"parquet"},
        code_version=code_version("1", digest_of([settings.sequences.min_orf_aa, shown_by])),
    )
    def frame_rules(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        """All chunks of the test records: their frames by both frame rules, and the k-mer baseline's probability.

        Its page and the decision's report show what either rule covers, how good it is and how much there is to embed.

        If its check fails, chunks or split changed since: materialize the k-mer baseline's evaluation, then it.
        """
        from virnuc_assets.migration import frame_rules as rules

        inputs = inputs_of(context)
        provenance, described = _today(context.instance, workspace)

        def batches() -> Iterator[pa.Table]:
            yield frame_rules_schema().empty_table()
            split, scored = _test_records(workspace), _probabilities(workspace, described)
            for chunks in _test_chunks(context.instance, workspace, split):
                yield _rows(chunks, rules.frames_by_rule(chunks, settings.sequences.min_orf_aa), split, scored)

        outcome = made_table(workspace.layout.whole(FRAME_RULES), provenance, batches)
        found = rules.compare_rules(read_table(workspace.layout.whole(FRAME_RULES)), settings.decision)
        shown = {"rules": _shown(found), "recommendation": found.recommendation} if found else {}
        return whole_result(inputs, outcome.data_version, {**outcome.metadata, **shown})

    return frame_rules


def _shown(found: "FrameRules") -> dg.TableMetadataValue:
    """A line for each rule; shares of all chunks, bases and records that have a verdict."""
    return shown_table(
        {
            "rule": name,
            **vars(one.coverage["all"]),
            **{"chunk_accuracy": one.accuracy.value, "record_auroc": one.auroc.value},
            **{"frames_per_chunk": one.frames_per_chunk, "residues_per_chunk": one.residues_per_chunk},
        }
        for name, one in found.rules.items()
    )


def _frame_rules_check(workspace: Workspace) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=FRAME_RULES, name="every_test_chunk_is_there_once", blocking=True)
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """Its chunks are those of all test records without an ambiguity code, and all that are scored have a score."""
        table = read_table(workspace.layout.whole(FRAME_RULES), frame_rules_schema())
        tables = _test_chunks(context.instance, workspace, _test_records(workspace))
        planned = Counter(chunk for chunks in tables for chunk in chunks["chunk_id"].to_pylist())
        found = Counter(table["chunk_id"].to_pylist())
        faults = {
            chunk: [f"expected {planned[chunk]} row, found {found[chunk]}"]
            for chunk in sorted(planned | found)
            if planned[chunk] != found[chunk]
        }
        evaluation = workspace.layout.evaluation(workspace.settings.decision.kmer_baseline)
        scored, given = read_table(evaluation).num_rows, table.num_rows - table["probability"].null_count
        if scored != given:
            faults[FRAME_RULES] = [f"{scored} chunks are scored, {given} have a probability"]
        return result(faults, rows=table.num_rows)

    return check


def stored_frame_rules(instance: dg.DagsterInstance, workspace: Workspace) -> pa.Table:
    """The test chunks with their frames by both rules; refused where altered, or not made from today's inputs."""
    path = workspace.layout.whole(FRAME_RULES)
    require_content(path)
    return read_table(path, frame_rules_schema(), _today(instance, workspace)[0])


def _today(instance: dg.DagsterInstance, workspace: Workspace) -> tuple[dict[str, Any], "ClassifierDescription"]:
    """What the table is made from today, and the classifier that scored; raises where the evaluation is stale."""
    from virnuc_assets.classifier.checkpoint import load_classifier

    variant = workspace.variant(workspace.settings.decision.kmer_baseline)
    _, described = load_classifier(workspace.layout.classifier(variant.name))
    evaluation, split = workspace.layout.evaluation(variant.name), current_split(instance, workspace)
    features = current_features(instance, workspace, variant)
    require_table(evaluation, evaluation_schema(), evaluation_provenance(features, split, described.weights_sha256))
    chunks = reference_tables(instance, workspace, CHUNKS)
    provenance = {
        "table": FRAME_RULES,
        "evaluation": content_digest(evaluation),
        "temperature": described.temperature,
        "split": content_digest(split),
        "chunks": contents(chunks),
        "min_orf_aa": workspace.settings.sequences.min_orf_aa,
    }
    return provenance, described


def _test_records(workspace: Workspace) -> pa.Table:
    split = read_table(workspace.layout.split)
    return split.filter(pc.equal(split["split"], "test"))


def _test_chunks(instance: dg.DagsterInstance, workspace: Workspace, split: pa.Table) -> Iterator[pa.Table]:
    """Chunks of the test records by shard, without those that hold an ambiguity code."""
    from virnuc_assets.migration.frame_rules import unambiguous

    for path in reference_tables(instance, workspace, CHUNKS).values():
        chunks = read_table(path, chunks_schema())
        yield unambiguous(chunks.filter(pc.is_in(chunks["record_id"], split["record_id"].combine_chunks())))


def _probabilities(workspace: Workspace, described: "ClassifierDescription") -> pa.Table:
    """The calibrated probability of every scored chunk."""
    from virnuc_assets.classifier.calls import calibrated_scores

    table = read_table(workspace.layout.evaluation(described.variant), evaluation_schema())
    return calibrated_scores(table, described.temperature).select(["chunk_id", "score_virus"])


def _rows(chunks: pa.Table, frames: Mapping[str, pa.Array], split: pa.Table, scored: pa.Table) -> pa.Table:
    of_record = pc.index_in(chunks["record_id"], value_set=split["record_id"].combine_chunks())
    of_scored = pc.index_in(chunks["chunk_id"], value_set=scored["chunk_id"].combine_chunks())
    columns = {
        **{name: chunks[name] for name in ("chunk_id", "record_id")},
        **{name: split[name].take(of_record) for name in ("cluster", "label", "group")},
        "length_nt": pc.subtract(chunks["end_nt"], chunks["start_nt"]),
        **frames,
        "probability": scored["score_virus"].take(of_scored),
    }
    schema = frame_rules_schema()
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)
