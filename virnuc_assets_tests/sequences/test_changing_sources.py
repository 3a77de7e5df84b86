"""A source file that is replaced, grows or shrinks after or while it is read is refused, and nothing is written."""

import gzip
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from Bio import SeqIO
from Bio.Seq import Seq
from Bio.SeqFeature import FeatureLocation, SeqFeature
from Bio.SeqRecord import SeqRecord

from virnuc_assets.sequences import chunk_table as chunk_table_module
from virnuc_assets.sequences import planning
from virnuc_assets.sequences.catalogue import CatalogueError, Source
from virnuc_assets.sequences.chunk_table import ChunkReader
from virnuc_assets.sequences.opening import SequenceFileError, SourceChanged, SourceFile, open_source
from virnuc_assets.sequences.plan_table import make_plan, planned_proteins, read_plan
from virnuc_assets.sequences.planning import Plan, plan_source
from virnuc_assets.sequences.reading import Header, read_letters, read_records
from virnuc_assets.settings import SequenceSettings
from virnuc_assets.storage.layout import Layout
from virnuc_assets.storage.tables import TableMismatch, read_recipe, write_table

CHUNK_LENGTH = 300
SMALL = b">a\n" + b"ACGTT" * 100 + b"\n>b\n" + b"GGCTA" * 70 + b"\n"
# Longer than every buffer on the way, so that the file is still being read while its first records are handed out.
LARGE = b"".join(b">r%d\n" % number + b"ACGTTGCATT" * 6000 + b"\n" for number in range(60))
MORE = b">late\n" + b"TTGCA" * 100 + b"\n"


@pytest.fixture(params=["small", "large", "small gzip", "large gzip"])
def planned(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Plan]:
    content = SMALL if "small" in request.param else LARGE
    path = tmp_path / "source.fa"
    path.write_bytes(gzip.compress(content, 0) if "gzip" in request.param else content)
    return path, plan_source(path, "source", CHUNK_LENGTH, 10_000)


def compressed_like(path: Path, content: bytes) -> bytes:
    return gzip.compress(content, 0) if path.read_bytes()[:2] == b"\x1f\x8b" else content


def append(path: Path) -> None:
    more = compressed_like(path, MORE)
    with path.open("ab") as handle:
        handle.write(more)


def replace_one_base(path: Path) -> None:
    content = path.read_bytes()
    plain = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    path.write_bytes(compressed_like(path, plain[:-2] + b"C\n"))


def replace_by_other_records(path: Path) -> None:
    path.write_bytes(compressed_like(path, MORE))


def chunks_of(path: Path, plan: Plan) -> pa.Table:
    return ChunkReader(path, plan.sha256, CHUNK_LENGTH).table(plan.pieces)


def refused(path: Path, plan: Plan, table: Path) -> None:
    with pytest.raises(SourceChanged) as caught:
        write_table(table, chunks_of(path, plan), {})
    assert str(path) in str(caught.value)
    assert "Materialize shard_plan again" in str(caught.value)
    assert not table.exists()


def test_an_unchanged_source_is_read(planned: tuple[Path, Plan]) -> None:
    path, plan = planned
    chunks = sum(piece.end_chunk - piece.first_chunk for piece in plan.pieces)
    assert chunks_of(path, plan).num_rows == chunks > 3


@pytest.mark.parametrize("change", [append, replace_one_base, replace_by_other_records])
def test_changed_after_planning(planned: tuple[Path, Plan], change: Callable[[Path], None], tmp_path: Path) -> None:
    path, plan = planned
    change(path)
    refused(path, plan, tmp_path / "chunks.parquet")


def test_grown_between_two_records(planned: tuple[Path, Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, plan = planned

    def growing(source: SourceFile) -> Iterator[Header | bytes]:
        events = read_letters(source)
        yield next(events)
        yield next(events)
        append(path)
        yield from events

    monkeypatch.setattr(chunk_table_module, "read_letters", growing)
    refused(path, plan, tmp_path / "chunks.parquet")


def test_overwritten_between_two_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records already handed out are the old ones, those to come are new: a mixture that no file ever held."""
    path = tmp_path / "source.fa"
    path.write_bytes(LARGE)
    plan = plan_source(path, "source", CHUNK_LENGTH, 10_000)

    def overwritten(source: SourceFile) -> Iterator[Header | bytes]:
        events = read_letters(source)
        yield next(events)
        yield next(events)
        with path.open("r+b") as handle:
            handle.seek(len(LARGE) - 500)
            handle.write(b"C" * 400)
        yield from events

    monkeypatch.setattr(chunk_table_module, "read_letters", overwritten)
    refused(path, plan, tmp_path / "chunks.parquet")


def test_cut_between_two_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "source.fa"
    path.write_bytes(LARGE)
    plan = plan_source(path, "source", CHUNK_LENGTH, 10_000)

    def cut(source: SourceFile) -> Iterator[Header | bytes]:
        events = read_letters(source)
        yield next(events)
        yield next(events)
        with path.open("r+b") as handle:
            handle.truncate(len(LARGE) // 2 + 1000)
        yield from events

    monkeypatch.setattr(chunk_table_module, "read_letters", cut)
    refused(path, plan, tmp_path / "chunks.parquet")


def test_removed_after_planning(planned: tuple[Path, Plan]) -> None:
    path, plan = planned
    path.unlink()
    with pytest.raises(SequenceFileError, match="no such sequence file"):
        chunks_of(path, plan)


def test_a_planned_record_that_lost_all_its_letters(tmp_path: Path) -> None:
    path = tmp_path / "source.fa"
    path.write_bytes(SMALL)
    plan = plan_source(path, "source", CHUNK_LENGTH, 10_000)
    path.write_bytes(b">a\n>b\n")
    refused(path, plan, tmp_path / "chunks.parquet")


def test_a_planned_record_that_became_shorter(tmp_path: Path) -> None:
    path = tmp_path / "source.fa"
    path.write_bytes(SMALL)
    plan = plan_source(path, "source", CHUNK_LENGTH, 10_000)
    path.write_bytes(b">a\nACG\n>b\nACG\n")
    refused(path, plan, tmp_path / "chunks.parquet")


def test_records_that_come_between_the_last_one_and_the_digest_are_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is still being copied: planned with a digest of more than was counted, its tail would be lost."""
    path = tmp_path / "source.fa"
    path.write_bytes(SMALL)

    def growing(source: SourceFile) -> Iterator[Header | bytes]:
        yield from read_letters(source)
        append(path)

    monkeypatch.setattr(planning, "read_letters", growing)
    try:
        plan = plan_source(path, "source", CHUNK_LENGTH, 10_000)
    except SourceChanged:
        return
    with open_source(path) as source:
        now = [record.id for record in read_records(source)]
        same_file = source.digest() == plan.sha256
    assert not same_file or [piece.record_id for piece in plan.pieces] == now


def test_a_file_that_is_replaced_between_two_shards_is_refused(tmp_path: Path) -> None:
    """Also where the records of the second shard are as they were: the file is not the one that was planned."""
    path = tmp_path / "source.fa"
    path.write_bytes(SMALL)
    plan = plan_source(path, "source", CHUNK_LENGTH, 2)
    reader = ChunkReader(path, plan.sha256, CHUNK_LENGTH)
    assert reader.table(plan.pieces[:1]).num_rows == 2
    path.write_bytes(SMALL + b"\n")
    with pytest.raises(SourceChanged, match="Materialize shard_plan again"):
        reader.table(plan.pieces[1:])
    path.write_bytes(SMALL)
    assert reader.table(plan.pieces[1:]).column("record_id").to_pylist() == ["b", "b"]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 2, 0, 3, 1]])
def test_shards_are_read_in_any_order(tmp_path: Path, order: list[int]) -> None:
    path = tmp_path / "source.fa"
    path.write_bytes(b">long\n" + b"ACGTTGCATTAC" * 200_000 + b"\n>short\nACGT\n")
    plan = plan_source(path, "source", CHUNK_LENGTH, 2100)
    whole = chunks_of(path, plan)
    shards = [[piece for piece in plan.pieces if piece.shard == shard] for shard in plan.shards]
    assert len(shards) == 4
    reader = ChunkReader(path, plan.sha256, CHUNK_LENGTH)
    for index in order:
        assert reader.table(shards[index]) == whole.slice(2100 * index, 2100)


def test_a_plan_remembers_the_digests_of_both_files(tmp_path: Path) -> None:
    fasta, genbank = tmp_path / "s.fa", tmp_path / "s.gbk"
    fasta.write_bytes(SMALL)
    annotated = SeqRecord(Seq("ACGTT" * 100), id="a", annotations={"molecule_type": "DNA"})
    SeqIO.write([annotated], genbank, "genbank")
    layout = Layout(tmp_path / "var", "miniature")
    source = Source("s", fasta, "host", "fungi", genbank=genbank)
    plan = make_plan(layout.plan("reference", "s"), source, SequenceSettings(chunk_length=300, shard_chunks=2))
    assert plan.shards == ["s-000001", "s-000002"]  # 500 nt are two chunks, 350 nt are two
    found, pieces = read_plan(layout, "reference", "s-000002")
    assert [(piece.record_id, piece.first_chunk, piece.end_chunk) for piece in pieces] == [("b", 0, 2)]
    assert found.fasta == fasta
    assert (found.label, found.group, found.chunk_length) == ("host", "fungi", 300)
    assert found.sha256 == hashlib.sha256(SMALL).hexdigest()
    assert read_recipe(layout.plan("reference", "s"))["genbank_sha256"] == (
        hashlib.sha256(genbank.read_bytes()).hexdigest()
    )
    assert [(piece.record_id, piece.evidence) for piece in plan.pieces] == [
        ("a", "no CDS feature"),
        ("b", "record not in GenBank"),
    ]


def test_annotation_of_other_records_is_refused(tmp_path: Path) -> None:
    """Otherwise every record would silently count as not annotated."""
    fasta, genbank = tmp_path / "s.fa", tmp_path / "s.gbk"
    fasta.write_bytes(SMALL)
    SeqIO.write([SeqRecord(Seq("ACGT"), id="other", annotations={"molecule_type": "DNA"})], genbank, "genbank")
    plan = tmp_path / "plan.parquet"
    with pytest.raises(SequenceFileError, match=r"s\.gbk: record 'other'.*not in the FASTA"):
        make_plan(plan, Source("s", fasta, "host", "fungi", genbank=genbank), SequenceSettings())
    assert not plan.exists()


def test_a_shard_that_the_plan_no_longer_has_is_refused(tmp_path: Path) -> None:
    """Its partition may still be registered; without pieces its table would be made with no row, and no word."""
    fasta, layout = tmp_path / "s.fa", Layout(tmp_path / "var", "miniature")
    settings = SequenceSettings(chunk_length=300, shard_chunks=2)
    fasta.write_bytes(SMALL)
    assert make_plan(layout.plan("samples", "s"), Source("s", fasta), settings).shards == ["s-000001", "s-000002"]
    fasta.write_bytes(SMALL[: SMALL.index(b">b")])
    make_plan(layout.plan("samples", "s"), Source("s", fasta), settings)
    assert len(read_plan(layout, "samples", "s-000001")[1]) == 1
    with pytest.raises(TableMismatch, match="s-000002 is not in today's plan of its source; materialize samples/"):
        read_plan(layout, "samples", "s-000002")


def coding(*translations: str) -> SeqRecord:
    features = [SeqFeature(FeatureLocation(0, 9), "CDS", qualifiers={"translation": [text]}) for text in translations]
    return SeqRecord(Seq("ACGTT" * 100), id="a", name="a", features=features, annotations={"molecule_type": "DNA"})


def test_cds_that_are_not_those_that_were_planned_are_refused(tmp_path: Path) -> None:
    """A plan that failed after the annotation was written must not lend it to the plan before."""
    fasta, genbank = tmp_path / "s.fa", tmp_path / "s.gbk"
    fasta.write_bytes(SMALL)
    SeqIO.write([coding("MALL", "KR")], genbank, "genbank")
    layout = Layout(tmp_path / "var", "miniature")
    source = Source("s", fasta, "host", "fungi", genbank=genbank)
    settings = SequenceSettings(chunk_length=300, shard_chunks=10)
    plan = layout.plan("reference", "s")
    make_plan(plan, source, settings)
    found, pieces = read_plan(layout, "reference", "s-000001")
    assert planned_proteins(found, pieces) == {"a": ("MALL", "KR")}

    SeqIO.write([coding("MALL", "KK")], genbank, "genbank")
    with pytest.raises(CatalogueError, match="expected sha256"):
        make_plan(plan, replace(source, genbank_sha256="0" * 64), settings)
    assert planned_proteins(found, pieces) == {"a": ("MALL", "KR")}

    kept = plan.read_bytes()
    make_plan(plan, source, settings)
    plan.write_bytes(kept)
    with pytest.raises(TableMismatch, match="record 'a' and 0 more: not the CDS that were planned"):
        planned_proteins(found, pieces)
