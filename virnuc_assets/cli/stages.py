"""The stages on files, for the command line: the assets' domain functions, without an orchestrator."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.defs.resources import Workspace
from virnuc_assets.encoders.checkpoints import find_checkpoint, versions
from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.catalogue import sequence_files, source_name
from virnuc_assets.sequences.chunk_table import chunk_tables
from virnuc_assets.sequences.composition import composition_features
from virnuc_assets.sequences.frame_rule import STOP_FREE, FrameRule
from virnuc_assets.sequences.frame_table import open_frames
from virnuc_assets.sequences.ledger import MergedLedger, ledger_table, merged_ledger
from virnuc_assets.sequences.planning import ShardPlan, plan_source
from virnuc_assets.settings import SequenceSettings
from virnuc_assets.storage.outputs import (
    published,
    require_free,
    require_output,
    require_outputs,
    require_space,
    unfinished_folder,
    unwritable,
)
from virnuc_assets.storage.schemas import embeddings_schema, ledger_schema, predictions_schema
from virnuc_assets.storage.tables import (
    TableWriter,
    content_digest,
    in_windows,
    is_made_by,
    read_rows,
    read_table,
    read_windows,
    write_table,
)
from virnuc_assets.text import printable
from virnuc_assets.workstation.device_lock import DeviceLock

if TYPE_CHECKING:
    from virnuc_assets.classifier.checkpoint import ClassifierDescription, ServingClassifier
    from virnuc_assets.cli.choices import Choices
    from virnuc_assets.encoders.loading import Encoder
    from virnuc_assets.encoders.registry import EncoderSpec
    from virnuc_assets.reports.sample_results import Input, Started

Report = Callable[[int, int], None]  # how many were done since the last call, and how many there are in all
Step = Callable[[str], AbstractContextManager[Report]]  # shows how far a stage of several is
Log = Callable[[str], None]
STDIN = Path("-")
CHUNK_WINDOW = 1000
SHARD_CHUNKS = 4_000  # what is lost at most of a stage that is killed; fewer, and small tables take most of the time
FLOAT_BYTES = 4
# Frames whose vectors are in memory at once. With 4096 a file of 50 Mb took 70 MB more than one of 5 Mb, with few each
# part of a table takes some kilobytes while it is written or read.
VECTOR_ROWS = 1024


def spooled(path: Path, copy: Path) -> Path:
    """The file; of what comes through a pipe (`-`, `<(…)`) a copy, as it is read more than once."""
    if path != STDIN and not path.is_fifo():
        return path
    with nullcontext(sys.stdin.buffer) if path == STDIN else path.open("rb") as pipe, copy.open("wb") as file:
        shutil.copyfileobj(pipe, file)
    return copy


def shown_as(path: Path) -> str:
    """What messages call an input, of which a copy may be read."""
    return "standard input" if path == STDIN else str(path)


def require_chunk_length(chunk_length: int) -> None:
    """Raise unless VirNucPro knows this chunk length."""
    if chunk_length not in (allowed := SequenceSettings.model_fields["chunk_length"].annotation.__args__):  # type: ignore[union-attr]
        raise VirnucError(f"--chunk-length: expected one of {', '.join(map(str, allowed))}, found {chunk_length}")


def frame_file(
    source: Path, to: Path, chunk_length: int, report: Report, rule: FrameRule = STOP_FREE, shown: str = ""
) -> pa.Table:
    """Write the frames table of a file, which messages may call otherwise; returns its ledger, in file order."""
    require_output(to, [source])
    plan = plan_source(source, source_name(source), chunk_length, CHUNK_WINDOW, shown=shown)
    # A third of what a plan takes in memory is in columns that are not read here.
    plan = replace(plan, table=plan.table.drop_columns(["digest", "source", "evidence_digest"]))
    ledger, (read,) = MergedLedger(plan.table), plan.sources.values()
    total = pc.sum(pc.subtract(plan.table["end_chunk"], plan.table["first_chunk"])).as_py()
    provenance = {"table": "frames", "source_sha256": read.sha256, "chunk_length": chunk_length, **rule.provenance}
    with TableWriter(to, rule.schema, provenance) as writer:
        for rows, (segments, chunks) in zip(plan.rows_by_shard.values(), chunk_tables(plan), strict=True):
            frames, counts = open_frames(chunks, None, rule)
            ledger.add(rows, ledger_table(segments, counts))
            writer.write(frames)
            report(chunks.num_rows, total)
    return ledger.table()


def embed_file(
    workspace: Workspace, frames: Path, encoder_name: str, to: Path, report: Report, log: Log
) -> dict[str, Any]:
    """Write the embeddings of a frames table by a named encoder; returns what was counted."""
    from virnuc_assets.encoders.embedding import read_frames

    require_output(to, [frames])
    rows = read_rows(frames)
    with loaded_encoder(workspace, workspace.encoder_named(encoder_name), log) as encoder:
        require_space(to.parent, rows * encoder.dim * FLOAT_BYTES, "the vectors")
        provenance = {"table": "embeddings", "frames": content_digest(frames), "encoder": encoder.fingerprint}
        write_embeddings(to, encoder, read_frames(encoder, frames), provenance, lambda done: report(done, rows))
    return {"frames": rows, "encoder": encoder.spec.name, "dim": encoder.dim, "device": encoder.device}


def write_embeddings(
    path: Path,
    encoder: Encoder,
    windows: Iterator[pa.Table],
    provenance: dict[str, Any],
    progress: Callable[[int], None],
) -> None:
    """Write the embeddings table of frames that come in windows."""
    from virnuc_assets.encoders.embedding import embed_windows

    with TableWriter(path, embeddings_schema(encoder.dim), provenance) as writer:
        for table in in_windows(embed_windows(encoder, windows, progress), VECTOR_ROWS):
            writer.write(table)


@contextmanager
def loaded_encoder(workspace: Workspace, spec: EncoderSpec, log: Log, threads: int | None = None) -> Iterator[Encoder]:
    """The encoder and its device, which is locked for the block; torch has so many threads."""
    import torch

    from virnuc_assets.encoders.golden import load_for_run

    with device_locked(workspace, log):
        encoder = load_for_run(spec, workspace.layout.checkpoints, workspace.settings.encoding)
        if threads:  # loading sets it to the cores there are
            torch.set_num_threads(threads)
        yield encoder


def device_locked(workspace: Workspace, log: Log) -> AbstractContextManager[None]:
    """The device, locked for a block; not locked where the project is read-only, as for a user who only predicts."""
    if fault := unwritable(workspace.layout.locks):
        log(f"The device is not locked, other runs may use it at the same time: {fault}.")
        return nullcontext()
    return DeviceLock(workspace.layout.locks, workspace.settings.encoding.device, log).computing()


def _applied(choices: Choices, workspace: Workspace) -> Workspace:
    """The workspace with what a call chose in place of its settings."""
    settings = workspace.settings
    encoding = {name: value for name in ("device", "precision") if (value := getattr(choices, name)) is not None}
    chunk_length = choices.chunk_length or settings.sequences.chunk_length
    require_chunk_length(chunk_length)
    update = {
        "encoding": settings.encoding.model_copy(update=encoding),
        "sequences": settings.sequences.model_copy(update={"chunk_length": chunk_length}),
    }
    return Workspace(settings.model_copy(update=update))


@dataclass(frozen=True)
class _Serving:
    """The classifier of the settings, found to fit its encoders, and what they are."""

    classifier: ServingClassifier
    specs: dict[str, EncoderSpec]
    fingerprints: dict[str, dict[str, str]]
    widths: dict[str, int]

    @classmethod
    def load(cls, workspace: Workspace) -> _Serving:
        from virnuc_assets.classifier.checkpoint import ServingClassifier
        from virnuc_assets.encoders.checkpoints import fingerprint
        from virnuc_assets.encoders.loading import vector_width

        settings, layout = workspace.settings, workspace.layout
        variant = workspace.variant(settings.serving.variant)
        specs = {"dna": workspace.encoder(variant.dna), "protein": workspace.encoder(variant.protein)}
        folders = {alphabet: find_checkpoint(spec, layout.checkpoints) for alphabet, spec in specs.items()}
        precision = settings.encoding.precision
        fingerprints = {alphabet: fingerprint(spec, folders[alphabet], precision) for alphabet, spec in specs.items()}
        widths = {alphabet: vector_width(spec, folders[alphabet]) for alphabet, spec in specs.items()}
        chunk_length = settings.sequences.chunk_length
        classifier = ServingClassifier.load(layout.classifier(variant.name), fingerprints, widths, chunk_length, None)
        return cls(classifier, specs, fingerprints, widths)


@dataclass(frozen=True)
class _Shard:
    """Some chunks of an input: where its tables are, and which rows of the ledger they are of."""

    tables: Path
    name: str
    rows: np.ndarray

    def table(self, kind: str) -> Path:
        """Where a table of it is."""
        return self.tables / kind / f"{self.name}.parquet"


def predict_files(
    workspace: Workspace, given: Sequence[Path], to: Path, choices: Choices, command: str, step: Step, log: Log
) -> dict[str, Any]:
    """Write the results of files and folders of sequences, together; returns what was counted.

    What is missing or does not fit is refused before any work, an input that cannot be read before any encoder is
    loaded. One encoder is in memory at a time; all else is in tables, below the folder of the results until then.
    """
    from virnuc_assets.encoders.machine import resolve_device
    from virnuc_assets.reports.sample_results import RESULT_FILES, Started, call_counts, write_ledger, write_results

    files = sample_files(given, log)
    require_outputs(to, RESULT_FILES, [path for _, path in files])
    if not choices.force:
        require_free(to, RESULT_FILES)
    workspace = _applied(choices, workspace)
    resolve_device(workspace.settings.encoding.device)
    serving = _Serving.load(workspace)
    model = serving.classifier.description
    run = Started.now(command, workspace.settings, model, workspace.layout, choices.min_length)
    with unfinished_folder(to) as work, ExitStack() as stack:
        planned = [_planned(work, stack, *each, run.settings) for each in files]
        inputs, ledger, shards = _framed(work, planned, run, step)
        _warn_of_repeated_ids(ledger, log)
        del planned
        for alphabet in () if model.is_kmer else serving.specs:
            _embedded(workspace, serving, alphabet, shards, choices.threads, (step, log))
        with step("predictions, by shard") as report, published(to) as temporary:
            scored = _scored(serving, shards, report)
            ledger, totals = write_ledger(temporary, ledger)
            calls = write_results(temporary, inputs, ledger, totals, scored, run)
    counts = {f"records classified as {call}": count for call, count in call_counts(calls.records).items() if count}
    if model.miniature:
        log("Warning: the encoders have random weights; the calls say nothing.")
    return {**totals, **counts, "classifier": f"{model.variant}: {model.reads()}", **_trained_on(workspace, model)}


def _trained_on(workspace: Workspace, model: ClassifierDescription) -> dict[str, str]:
    """What the classifier was trained on, where the project has that on record."""
    from virnuc_assets.classifier.history import trained_on

    known = trained_on(workspace.layout, model)
    if "records" not in known:
        return {}
    counts = " and ".join(f"{sum(groups.values())} {label}" for label, groups in known["records"].items())
    return {"trained on": f"{counts} records, {known['clusters']} clusters of relatives"}


def sample_files(given: Sequence[Path], log: Log) -> list[tuple[str, Path]]:
    """The files that are read, each once, and what they are called; of a folder those with the usual endings."""
    files, seen = list[Path](), set[str]()
    for path in given:
        files += _files_in(path, log) if path.is_dir() else [path]
    for file in files:
        if (real := os.path.realpath(file)) in seen:
            raise VirnucError(f"{file}: is among the inputs twice; expected each file once")
        seen.add(real)
    return [(printable(str(file)), file) for file in files]


def _files_in(folder: Path, log: Log) -> list[Path]:
    found = sequence_files(folder)
    if others := [file for file in folder.glob("[!.]*") if file.is_file() and file not in found]:
        log(f"{folder}: not read for their endings: {len(others)} files, e.g. {min(others).name}.")
    links_first = sorted(found, key=Path.is_symlink, reverse=True)  # so that a file is read by its own name
    once = {os.path.realpath(file): file for file in links_first}
    if again := sorted(set(found) - {*once.values()}):
        log(f"{folder}: not read, since what they link to is: {len(again)} files, e.g. {again[0].name}.")
    return sorted(once.values())


def _planned(
    work: Path, stack: ExitStack, source: str, path: Path, settings: Mapping[str, Any]
) -> tuple[Input, ShardPlan]:
    from virnuc_assets.reports.sample_results import Input

    copy = work / ("stdin" if path == STDIN else f"pipe{len(list(work.glob('pipe*'))) + 1}")
    stack.callback(copy.unlink, missing_ok=True)
    file, shortest = spooled(path, copy), settings["min_length"]
    length, shown = settings["chunk_length"], shown_as(path)
    plan = plan_source(file, "input", length, SHARD_CHUNKS, min_length_nt=shortest, shown=shown)
    return Input(source, file, plan.sources["input"].sha256), plan


def _framed(
    work: Path, planned: Sequence[tuple[Input, ShardPlan]], run: Started, step: Step
) -> tuple[list[Input], pa.Table, list[_Shard]]:
    """Frames of all inputs, in tables; the ledger of all records, and the shards."""
    total = sum(len(plan.shards) for _, plan in planned)
    shards, ledgers, records = list[_Shard](), list[pa.Table](), 0
    with step("frames, by shard") as report:
        for read, plan in planned:
            record = records + np.cumsum(np.asarray(pc.equal(plan.table["first_chunk"], 0))) - 1
            found = [
                _Shard(work, f"{read.sha256[:32]}-{number}", record[rows])
                for number, rows in enumerate(plan.rows_by_shard.values())
            ]
            _write_frames(plan, read.sha256, found, run, lambda done: report(done, total))
            ledger = merged_ledger(plan.table, (read_table(each.table("ledger"), ledger_schema()) for each in found))
            ledgers.append(ledger.add_column(0, "source", pa.repeat(read.source, ledger.num_rows)))
            shards += found
            records += ledger.num_rows
    return [read for read, _ in planned], pa.concat_tables(ledgers), shards


def _write_frames(
    plan: ShardPlan, sha256: str, shards: Sequence[_Shard], run: Started, done: Callable[[int], None]
) -> None:
    """Write frames and ledger of the shards that have none yet."""
    rule = run.description.rule
    provenance = {
        "source_sha256": sha256,
        **{name: run.settings[name] for name in ("chunk_length", "min_length")},
        "shard_chunks": SHARD_CHUNKS,
        **rule.provenance,
        **versions(["virnuc_assets"]),
    }
    kinds = ("chunks", "frames", "ledger") if run.description.is_kmer else ("frames", "ledger")
    made = {kind: {"table": kind, **provenance} for kind in kinds}
    missing = {
        key: shard
        for key, shard in zip(plan.shards, shards, strict=True)
        if not all(is_made_by(shard.table(kind), made[kind]) for kind in made)
    }
    done(len(shards) - len(missing))
    for shard, (segments, chunks) in zip(missing.values(), chunk_tables(plan, missing), strict=True):
        frames, counts = open_frames(chunks, None, rule)
        tables = {"chunks": chunks, "frames": frames, "ledger": ledger_table(segments, counts)}
        for kind in kinds:
            write_table(shard.table(kind), tables[kind], made[kind])
        done(1)


def _embedded(
    workspace: Workspace,
    serving: _Serving,
    alphabet: str,
    shards: Sequence[_Shard],
    threads: int | None,
    shown: tuple[Step, Log],
) -> None:
    """Embeddings of all shards by one encoder, which is loaded if any of them is missing."""
    from virnuc_assets.encoders.embedding import read_frames

    (step, log), spec, fingerprint = shown, serving.specs[alphabet], serving.fingerprints[alphabet]
    missing = list[tuple[_Shard, dict[str, Any]]]()
    for shard in shards:
        made = {"table": "embeddings", "frames": content_digest(shard.table("frames")), "encoder": fingerprint}
        if not is_made_by(shard.table(alphabet), made):
            missing.append((shard, made))
    if not missing:
        return
    total = sum(read_rows(shard.table("frames")) for shard, _ in missing)
    require_space(missing[0][0].tables, total * serving.widths[alphabet] * FLOAT_BYTES, "the vectors")
    with step(f"vectors of {spec.name}") as report, loaded_encoder(workspace, spec, log, threads) as encoder:
        for shard, made in missing:
            frames = read_frames(encoder, shard.table("frames"))
            write_embeddings(shard.table(alphabet), encoder, frames, made, lambda done: report(done, total))


def _scored(serving: _Serving, shards: Sequence[_Shard], report: Report) -> Iterator[tuple[np.ndarray, pa.Table, Path]]:
    """Which records a shard is of, the predictions of its frames, and their table."""
    from virnuc_assets.encoders.machine import give_freed_memory_back

    predictions = _chunk_predictions if serving.classifier.description.is_kmer else _predictions
    for shard in shards:
        found = pa.concat_tables([*predictions(serving, shard)] or [predictions_schema().empty_table()])
        yield shard.rows, found, shard.table("frames")
        report(1, len(shards))
    give_freed_memory_back()  # before the files of all records are written


def _chunk_predictions(serving: _Serving, shard: _Shard) -> Iterator[pa.Table]:
    from virnuc_assets.classifier.sample_calls import located

    rule = serving.classifier.description.rule
    chunks, frames = read_table(shard.table("chunks")), read_table(shard.table("frames"), rule.schema)
    features = composition_features(chunks, frames, rule.min_orf_aa)
    yield located(serving.classifier.predictions(features), frames)


def _predictions(serving: _Serving, shard: _Shard) -> Iterator[pa.Table]:
    from virnuc_assets.classifier.sample_calls import located
    from virnuc_assets.storage.merging import merge_features

    schemas = {"frames": serving.classifier.description.rule.schema}
    schemas |= {alphabet: embeddings_schema(serving.widths[alphabet]) for alphabet in ("dna", "protein")}
    tables = (read_windows(shard.table(kind), VECTOR_ROWS, schema) for kind, schema in schemas.items())
    windows = (in_windows(table, VECTOR_ROWS) for table in tables)
    for frames, dna, protein in zip(*windows, strict=True):
        if frames.num_rows:  # else the tables have no rows
            features = merge_features(frames, dna, protein)
            yield located(serving.classifier.predictions(features), frames)


def _warn_of_repeated_ids(ledger: pa.Table, log: Log) -> None:
    from virnuc_assets.reports.sample_results import repeated_ids

    if len(repeated := repeated_ids(ledger)):
        log(
            f"{len(repeated)} record ids are in more than one input, e.g. {repeated[0]}: VirNucPro's files, BED and "
            "GFF3 have them as SOURCE:ID, virus.fna as they are; the other tables have a column source."
        )
