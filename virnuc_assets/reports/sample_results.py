"""The folder that the user of a sample receives: written once, by the same code for `virnuc predict` and the asset."""

from __future__ import annotations

import datetime
import itertools
import json
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.classifier.calls import VIRUS
from virnuc_assets.classifier.checkpoint import ClassifierDescription
from virnuc_assets.classifier.history import tested_on, trained_on
from virnuc_assets.classifier.novelty import load_sketch
from virnuc_assets.classifier.sample_calls import CALLS, CallCollector, SampleCalls, sample_frames_schema
from virnuc_assets.encoders.checkpoints import versions
from virnuc_assets.reports.genome_browser import BED_FILE, GFF_FILE, write_tracks
from virnuc_assets.reports.sample_page import write_html
from virnuc_assets.sequences.ledger import ledger_totals
from virnuc_assets.sequences.reading import copy_records
from virnuc_assets.settings import Settings
from virnuc_assets.storage.layout import SUMMARY_FILE, Layout
from virnuc_assets.storage.tables import TableWriter
from virnuc_assets.text import spreadsheet_cell, spreadsheet_text
from virnuc_assets.virnucpro.results import CHUNKS_FILE, FRAMES_FILE, write_chunks, written_frames

LEDGER_FILE, VIRUS_FILE, FRAMES_TABLE = "ledger.tsv", "virus.fna", "frames.parquet"
MULTIQC_FILE, RUN_FILE, PAGE_FILE = "virnuc_mqc.json", "run.json", "report.html"
RESULT_FILES = (
    PAGE_FILE,
    SUMMARY_FILE,
    LEDGER_FILE,
    VIRUS_FILE,
    BED_FILE,
    GFF_FILE,
    FRAMES_TABLE,
    FRAMES_FILE,
    CHUNKS_FILE,
    MULTIQC_FILE,
    RUN_FILE,
)
_BATCH_ROWS = 4096
Shards = Iterable[tuple[np.ndarray, pa.Table, Path]]


@dataclass(frozen=True)
class Input:
    """A file of sequences as it was planned."""

    source: str  # what it is called in the results
    path: Path
    sha256: str


@dataclass(frozen=True)
class Started:
    """A run of the stages, from its start: what the results say of it."""

    command: str
    settings: Mapping[str, Any]  # those that change results
    description: ClassifierDescription
    layout: Layout  # of the project, which may have on record what was trained on and how good the classifier is
    at: datetime.datetime
    clock: float  # when it started, in seconds of `time.perf_counter`

    @classmethod
    def now(
        cls, command: str, settings: Settings, description: ClassifierDescription, layout: Layout, min_length: int = 0
    ) -> Started:
        """A run that starts now."""
        chosen = {
            "chunk_length": settings.sequences.chunk_length,
            "frame_rule": description.rule.name,
            **description.rule.provenance,
            "min_confidence": settings.evaluation.min_confidence,
            "max_error": settings.evaluation.max_error,
            "min_length": min_length,
            "precision": settings.encoding.precision,
            "device": settings.encoding.device,
        }
        return cls(command, chosen, description, layout, datetime.datetime.now(datetime.UTC), time.perf_counter())

    def facts(self, inputs: Sequence[Input], records: pa.Table, totals: Mapping[str, int]) -> dict[str, Any]:
        """Content of `run.json`, at the end."""
        counts = {each["values"]: each["counts"] for each in pc.value_counts(records["source"]).to_pylist()}
        ended = datetime.datetime.now(datetime.UTC)
        libraries = ("torch", "transformers", "tokenizers", "numpy", "pyarrow", "biopython")
        description = self.description.model_dump(mode="json")
        of_mlp = () if self.description.is_kmer else ("training", "best_epoch")
        known = ("seed", *of_mlp, "inverse_strength", "split_digest", "data_digest", "temperature", "origin")
        tested = tested_on(self.layout, self.description, self.settings["max_error"])
        return {
            "virnuc_version": versions(["virnuc_assets"])["virnuc_assets"],
            "command": self.command,
            "started": self.at.isoformat(timespec="seconds"),
            "finished": ended.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - self.clock, 3),
            "versions": {"python": platform.python_version(), **versions(libraries)},
            "model": {
                "variant": self.description.variant,
                "reads": self.description.reads(),
                "encoders": self.description.encoders,
                "classifier": self.description.weights_sha256,
                "miniature": self.description.miniature,
                "trained_on": {
                    **{name: description[name] for name in known if description[name] is not None},
                    **trained_on(self.layout, self.description),
                },
                **{name: description[name] for name in ("record_rule", "sketch") if description[name] is not None},
                **({"tested": tested} if tested else {}),
            },
            "settings": dict(self.settings),
            "inputs": [
                {"source": each.source, "sha256": each.sha256, "records": counts.get(each.source, 0)} for each in inputs
            ],
            "totals": dict(totals),
        }


def write_ledger(folder: Path, ledger: pa.Table) -> tuple[pa.Table, dict[str, int]]:
    """Write the ledger of all records: source, and the columns of `ledger_schema`.

    Returns what the other files need of it, half of its memory, and its totals.
    """
    _write_tsv(folder / LEDGER_FILE, ledger)
    return ledger.select(["source", "record_id", "length_nt", "reason", "chunks", "chunks_kept"]), ledger_totals(ledger)


def write_results(
    folder: Path,
    inputs: Sequence[Input],
    ledger: pa.Table,
    totals: Mapping[str, int],
    shards: Shards,
    run: Started,
) -> SampleCalls:
    """Write all other result files; who calls publishes them together.

    Args:
        folder: of this machine, with the ledger in it.
        inputs: the files that the records are from, in the order of the ledger.
        ledger: of all records, as `write_ledger` returns it.
        totals: of the ledger.
        shards: of each shard, which rows of the ledger it holds chunks of, the predictions of its frames, in the order
            of the chunks, and their table. No shard is asked for before the one before it is written.
        run: what was called, with chunk_length, min_confidence and max_error among its settings.
    """
    limits = {name: run.settings[name] for name in ("chunk_length", "min_confidence", "max_error")}
    model = run.description
    sketch = load_sketch(run.layout.classifier(model.variant), model.sketch)
    collector = CallCollector(ledger, **limits, temperature=model.temperature, rule=model.record_rule, sketch=sketch)
    repeated = repeated_ids(ledger)
    provenance = {
        "table": "sample_frames",
        "inputs": [each.sha256 for each in inputs],
        "classifier": model.weights_sha256,
        "temperature": model.temperature,
        **{name: run.settings[name] for name in ("chunk_length", "min_length")},
        **model.rule.provenance,
    }

    def named() -> Iterator[pa.Table]:
        with TableWriter(folder / FRAMES_TABLE, sample_frames_schema(), provenance) as table:
            for rows, predictions, proteins in shards:
                collector.compare(rows, proteins)
                table.write(frames := collector.add(rows, predictions))
                ids = written_ids(frames["frame_id"], frames["source"], pc.is_in(frames["record_id"], repeated))
                yield frames.set_column(frames.column_names.index("frame_id"), "frame_id", ids)

    for _ in written_frames(folder, named()):
        pass
    calls = collector.calls()
    records = calls.records
    _write_tsv(folder / SUMMARY_FILE, records)
    # Of the records that an id names one is planned; all others have no chunks.
    names = written_ids(records["record_id"], records["source"], pc.is_in(records["record_id"], repeated))
    write_chunks(folder, calls, names)
    write_tracks(folder, calls, names)
    with (folder / VIRUS_FILE).open("wb") as handle:
        for each in inputs:
            viral = pc.equal(records["call"].filter(pc.equal(records["source"], each.source)), VIRUS)
            if pc.any(viral).as_py():
                copy_records(each.path, each.sha256, np.asarray(viral), handle)
    (folder / MULTIQC_FILE).write_text(json.dumps(_multiqc(calls), indent=1) + "\n", encoding="utf-8")
    facts = run.facts(inputs, records, totals)
    write_html(folder / PAGE_FILE, calls, facts)
    (folder / RUN_FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return calls


def repeated_ids(ledger: pa.Table) -> pa.Array:
    """Ids under which records of more than one input are scored, and those that `written_ids` makes of such ids."""
    if len(pc.unique(ledger["source"])) < 2:
        return pa.array([], pa.string())
    scored = ledger.filter(pc.greater(ledger["chunks"], 0))
    ids = scored["record_id"]
    repeated = _of_several(ids)
    while len(repeated):
        names = written_ids(ids, scored["source"], pc.is_in(ids, repeated))
        clashing = pc.unique(ids.filter(pc.is_in(ids, _of_several(names))))
        if not len(clashing):
            break
        repeated = pa.concat_arrays([repeated, clashing])
    return repeated


def _of_several(names: pa.ChunkedArray) -> pa.Array:
    counted = pc.value_counts(names)
    return counted.field("values").filter(pc.greater(counted.field("counts"), 1))


def written_ids(ids: pa.ChunkedArray, sources: pa.ChunkedArray, repeated: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids of records, chunks or frames with their source before them where they are `repeated`; blanks there as %20."""
    if not pc.any(repeated).as_py():
        return ids
    return pc.if_else(repeated, pc.binary_join_element_wise(pc.replace_substring(sources, " ", "%20"), ids, ":"), ids)


def _write_tsv(path: Path, table: pa.Table) -> None:
    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
    with path.open("w", encoding="utf-8", newline="") as handle:
        for batch in itertools.chain([table.slice(0, 0)], table.to_batches(max_chunksize=_BATCH_ROWS)):
            cells = batch.to_pandas()
            for name in texts:
                cells[name] = cells[name].map(spreadsheet_cell, na_action="ignore")
            form = {"sep": "\t", "index": False, "lineterminator": "\n", "float_format": "%.4f"}
            cells.to_csv(handle, header=not batch.num_rows, **form)


def read_record_ids(folder: Path) -> list[str]:
    """Record ids of written results, in order."""
    import pandas as pd

    with (folder / SUMMARY_FILE).open(encoding="utf-8", newline="") as handle:  # the folder may be in an object store
        ids = pd.read_csv(handle, sep="\t", usecols=["record_id"], dtype=str, keep_default_na=False)
    return [spreadsheet_text(each) for each in ids["record_id"]]


def call_counts(records: pa.Table) -> dict[str, int]:
    """How many records have each call, in the order of `CALLS`."""
    return {call: pc.sum(pc.equal(records["call"], call)).as_py() or 0 for call in CALLS}


def _multiqc(calls: SampleCalls) -> dict[str, Any]:
    """Custom content of MultiQC: of each input, records by call. It joins the `data` of several folders by its id."""
    records, sources = calls.records, pc.unique(calls.records["source"]).to_pylist()
    return {
        "id": "virnuc_calls",
        "section_name": "virnuc",
        "description": "Viral or not: records by call.",
        "plot_type": "bargraph",
        "pconfig": {"id": "virnuc_calls_plot", "title": "virnuc: calls", "ylab": "records"},
        "categories": list(CALLS),
        "data": {one: call_counts(records.filter(pc.equal(records["source"], one))) for one in sources},
    }
