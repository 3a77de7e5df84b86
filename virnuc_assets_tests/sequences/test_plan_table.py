"""Plans of the reference and of samples: each continues the one before, and an update costs what it changed."""

import hashlib
import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from Bio import SeqIO
from Bio.Seq import Seq
from Bio.SeqFeature import FeatureLocation, SeqFeature
from Bio.SeqRecord import SeqRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_assets.sequences.catalogue import Label, Source
from virnuc_assets.sequences.incoming import read_intake_log
from virnuc_assets.sequences.opening import SequenceFileError
from virnuc_assets.sequences.plan_table import (
    SameRecords,
    changed_sources,
    plan_reference,
    plan_sample,
    planned_proteins,
    planned_shards,
    read_plan,
    read_shard,
)
from virnuc_assets.sequences.planning import ShardPlan, plan_faults, rows_of, table_of, whole_records
from virnuc_assets.settings import SequenceSettings
from virnuc_assets.storage.layout import Layout
from virnuc_assets.storage.tables import TableMismatch, write_table

SETTINGS = SequenceSettings(chunk_length=300, shard_chunks=4)


def bases(record: str) -> str:
    """600 nt, which are two chunks."""
    return "".join(random.Random(record).choices("ACGT", k=600))


def write(path: Path, records: str) -> None:
    path.write_text("".join(f">{record}\n{bases(record)}\n" for record in records))


def write_cds(path: Path, record: str, *translations: str) -> None:
    found = [SeqFeature(FeatureLocation(0, 9), "CDS", qualifiers={"translation": [text]}) for text in translations]
    SeqIO.write(
        [SeqRecord(Seq(bases(record)), record, record, features=found, annotations={"molecule_type": "DNA"})],
        path,
        "genbank",
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "reference" / "shard_plan" / "plan.parquet"


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    """One host file of record a; viral files of b, c (which has CDS) and d, and of e."""
    for name, records in {"one": "a", "three": "bcd", "two": "e"}.items():
        write(tmp_path / f"{name}.fa", records)
    write_cds(tmp_path / "three.gbk", "c", "MALL", "KR")
    return [
        Source("one", tmp_path / "one.fa", "host", "fungi"),
        Source("three", tmp_path / "three.fa", "viral", "phage", genbank=tmp_path / "three.gbk"),
        Source("two", tmp_path / "two.fa", "viral", "ssRNA"),
    ]


def planned(path: Path, sources: list[Source], **options: Any) -> ShardPlan:  # noqa: ANN401
    plan, failures = plan_reference(path, sources, SETTINGS, **options)
    assert failures == {}
    assert read_plan(path) == plan
    return plan


def places(plan: ShardPlan) -> dict[str, str]:
    """Source and shard of every record, as none of these is spread over shards."""
    return {segment.record_id: f"{segment.source} {segment.shard}" for segment in plan.segments}


FIRST = {
    "a": "one host-0001",
    "b": "three viral-0001",
    "c": "three viral-0001",
    "d": "three viral-0002",
    "e": "two viral-0002",
}


def test_records_of_one_label_are_packed_across_files(path: Path, sources: list[Source]) -> None:
    plan = planned(path, sources)
    assert places(plan) == FIRST
    assert plan.numbered == {"host": 1, "viral": 2}
    assert planned_shards(path) == plan.shards == ["host-0001", "viral-0001", "viral-0002"]
    assert [segment.evidence for segment in plan.segments] == [
        *("no GenBank file", "record not in GenBank", "cds", "record not in GenBank", "no GenBank file")
    ]
    three, genbank = plan.sources["three"], sources[1].genbank
    assert genbank is not None
    for file, digest in {sources[1].fasta: three.sha256, genbank: three.genbank_sha256}.items():
        assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    shard = read_shard(path, "viral-0002")
    assert [segment.record_id for segment in shard.segments] == ["d", "e"]
    assert (shard.sources, shard.chunk_length) == ({name: plan.sources[name] for name in ("three", "two")}, 300)
    assert shard.groups == {"d": "phage", "e": "ssRNA"}


def test_a_shard_that_is_not_planned_is_refused(path: Path, sources: list[Source]) -> None:
    """Its partition may still be registered; without segments its table would be made without a row, and no word."""
    with pytest.raises(TableMismatch, match="does not exist"):
        read_shard(path, "viral-0001")
    assert planned_shards(path) == []
    planned(path, sources)
    planned(path, sources[1:])
    with pytest.raises(TableMismatch, match="host-0001 is not in today's plan; materialize reference/shard_plan"):
        read_shard(path, "host-0001")


def test_a_file_is_read_again_only_if_somebody_wrote_to_it(path: Path, sources: list[Source]) -> None:
    fasta = sources[2].fasta
    before, status = planned(path, sources), fasta.stat()
    write(fasta, "f")
    os.utime(fasta, ns=(status.st_atime_ns, status.st_mtime_ns))  # what nobody can see without reading
    assert (changed_sources(path, sources), planned(path, sources)) == ([], before)
    os.utime(fasta)
    assert changed_sources(path, sources) == ["two"]
    plan = planned(path, sources)
    assert places(plan) == {
        **{record: place for record, place in FIRST.items() if record != "e"},
        "f": "two viral-0003",
    }
    assert (plan.numbered, changed_sources(path, sources)) == ({"host": 1, "viral": 3}, [])


def test_what_the_catalogue_says_of_a_file_is_planned(path: Path, sources: list[Source]) -> None:
    planned(path, sources)
    one, three, two = sources
    for changed in (
        replace(two, label="host", group="fungi"),
        replace(two, group="dsRNA"),
        replace(two, organism="of its own"),
        replace(two, genbank=three.genbank),
    ):
        assert changed_sources(path, [one, three, changed]) == ["two"]
    assert changed_sources(path, [one, two, replace(two, name="new")]) == ["new", "three"]
    grouped = planned(path, [one, three, replace(two, group="dsRNA")])
    assert (places(grouped), grouped.groups["e"]) == (FIRST, "dsRNA")
    assert places(planned(path, [one, three, replace(two, label="host", group="fungi")])) == {
        **FIRST,
        "e": "two host-0002",
    }


def cut(three: Source) -> Source:
    three.fasta.write_text(">b\n>")
    return three


def removed(three: Source) -> Source:
    three.fasta.unlink()
    return three


def with_other_cds(three: Source) -> Source:
    assert three.genbank is not None
    write(three.fasta, "bcdf")
    write_cds(three.genbank, "other")
    return three


def with_a_record_of_another(three: Source) -> Source:
    assert three.genbank is not None
    write(three.fasta, "bcde")
    write_cds(three.genbank, "c", "KK")
    return three


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (cut, "without an id"),
        (removed, "no such sequence file"),
        (with_other_cds, "record 'other' is not in the FASTA"),
        (with_a_record_of_another, "record 'e' occurs in sources 'two' and 'three'; expected ids that are unique"),
        (lambda three: replace(three, fasta_sha256="0" * 64), "three.fa: not the file that is catalogued"),
        (lambda three: replace(three, genbank_sha256="0" * 64), "three.gbk: not the file that is catalogued"),
    ],
)
def test_a_broken_source_fails_alone_and_keeps_the_records_that_it_had(
    path: Path, sources: list[Source], broken: Callable[[Source], Source], message: str
) -> None:
    before, (one, three, two) = planned(path, sources), sources
    write(one.fasta, "ax")
    plan, failures = plan_reference(path, [one, broken(three), two], SETTINGS)
    assert [(name, message in str(error)) for name, error in failures.items()] == [("three", True)]
    assert places(plan) == {**FIRST, "x": "one host-0002"}
    assert [segment for segment in plan.segments if segment.source == "three"] == before.segments[1:4]
    assert planned_proteins(path, read_shard(path, "viral-0001")) == {"c": ("MALL", "KR")}
    write(three.fasta, "bc")
    write_cds(three.genbank, "c", "KK")  # type: ignore[arg-type]
    assert places(planned(path, [one, three, two])) == {
        **{record: place for record, place in FIRST.items() if record != "d"},
        "x": "one host-0002",
    }
    assert planned_proteins(path, read_shard(path, "viral-0001")) == {"c": ("KK",)}


def test_a_new_source_that_is_broken_or_repeats_an_id_is_not_planned(path: Path, sources: list[Source]) -> None:
    """Whoever has an id already keeps it, also if the other comes first in the catalogue."""
    planned(path, sources[:2])
    write(sources[2].fasta, "de")
    sources[0].fasta.with_name("empty.fa").touch()
    sources[0].fasta.with_name("reads.fa").write_text("@r\nACGT\n+\nIIII\n")
    empty, reads = (Source(n, sources[0].fasta.with_name(f"{n}.fa"), "host", "fungi") for n in ("empty", "reads"))
    plan, failures = plan_reference(path, [empty, reads, sources[2], *sources[:2]], SETTINGS)
    assert {name: str(error).partition(";")[0] for name, error in failures.items()} == {
        "empty": f"{empty.fasta}: the file is empty",
        "reads": f"{reads.fasta}: expected FASTA, found FASTQ",
        "two": "record 'd' occurs in sources 'three' and 'two'",
    }
    assert places(plan) == {record: place for record, place in FIRST.items() if record != "e"}
    assert list(plan.sources) == ["one", "three"]


def test_a_record_that_is_not_planned_lends_its_group_to_no_record_of_its_id(path: Path, sources: list[Source]) -> None:
    two = sources[2].fasta
    two.write_text(f">b\nACGT\n>b\nACGA\n>e\n{bases('e')}\n")
    plan = planned(path, sources)
    assert [(segment.record_id, segment.status) for segment in plan.segments if segment.source == "two"] == [
        *(("b", "failed"), ("b", "failed"), ("e", "planned"))
    ]
    assert plan.groups == {**dict.fromkeys("bcd", "phage"), "a": "fungi", "e": "ssRNA"}


def test_other_settings_or_a_damaged_plan_are_not_continued(path: Path, sources: list[Source]) -> None:
    write(sources[2].fasta, "f")
    planned(path, sources)
    write(sources[2].fasta, "e")
    assert places(planned(path, sources))["e"] == "two viral-0003"
    assert plan_reference(path, sources, SequenceSettings(chunk_length=300, shard_chunks=8))[0].shards == [
        *("host-0001", "viral-0001")
    ]
    path.write_bytes(b"damaged")
    assert places(planned(path, sources)) == FIRST


def test_cds_that_are_not_those_that_were_planned_are_refused(path: Path, sources: list[Source]) -> None:
    """A run that died after the annotation was written must not lend it to the plan before."""
    planned(path, sources)
    kept, genbank = path.read_bytes(), sources[1].genbank
    assert genbank is not None
    write_cds(genbank, "c", "MALL", "KK")
    planned(path, sources)
    path.write_bytes(kept)
    with pytest.raises(TableMismatch, match="record 'c' and 0 more: not the CDS that were planned; materialize"):
        planned_proteins(path, read_shard(path, "viral-0001"))
    planned(path, sources)
    assert planned_proteins(path, read_shard(path, "viral-0001")) == {"c": ("MALL", "KK")}


def test_a_sample_has_shards_of_its_own_and_continues_them(path: Path, tmp_path: Path) -> None:
    sample = Source("s", tmp_path / "s.fa")
    write(sample.fasta, "abcd")
    first = plan_sample(path, sample, SETTINGS)
    assert places(first) == {"a": "s s-000001", "b": "s s-000001", "c": "s s-000002", "d": "s s-000002"}
    write(sample.fasta, "ab")
    plan_sample(path, sample, SETTINGS)
    sample.fasta.write_text(f">x other words\n{bases('x').lower()}\n>a\n{bases('a')}\n")
    third = plan_sample(path, sample, SETTINGS)
    assert places(third) == {"x": "s s-000003", "a": "s s-000001"}
    assert (read_plan(path).segments, read_plan(path).numbered) == (third.segments, {"s": 3})
    sample.fasta.write_text(">")
    with pytest.raises(SequenceFileError, match="without an id"):
        plan_sample(path, sample, SETTINGS)
    assert read_plan(path).segments == third.segments


def test_a_new_sample_with_the_records_of_another_is_not_planned(path: Path, tmp_path: Path) -> None:
    sample = Source("s", tmp_path / "s.fa")
    write(sample.fasta, "ab")
    content = plan_sample(path, sample, SETTINGS).content
    with pytest.raises(SameRecords, match="holds the same records as t, whose results hold for it") as caught:
        plan_sample(path.with_name("other.parquet"), sample, SETTINGS, {content: "t"})
    assert (caught.value.source, caught.value.content) == ("t", content)
    assert planned_shards(path.with_name("other.parquet")) == []
    assert plan_sample(path, sample, SETTINGS, {content: "t"}).shards == ["s-000001"]  # it was planned before


# ---- any sequence of releases ----

SMALL_SHARDS = SequenceSettings(chunk_length=300, shard_chunks=3)
LABEL_OF_FILE: dict[str, Label] = {"a": "host", "b": "viral", "c": "viral"}
Release = dict[str, tuple[str, int, int]]  # file, seed and length of the bases, by record id
RECORDS = st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.sampled_from([0, 1, 299, 301, 2000]))
RELEASES = st.lists(st.dictionaries(st.sampled_from("pqrstuvw"), RECORDS, min_size=1), min_size=2, max_size=5)


def released(folder: Path, release: Release, time: int) -> list[Source]:
    """Writes the files that are not as they were; of these the time of change is another."""
    texts: dict[str, str] = {}
    for record, (file, seed, length_nt) in release.items():
        bases = "".join(random.Random(seed).choices("ACGT", k=length_nt))
        texts[file] = texts.get(file, "") + f">{record}\n{bases}\n"
    for file, text in texts.items():
        path = folder / f"{file}.fa"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            os.utime(path, ns=(time, time))
    return [Source(file, folder / f"{file}.fa", label, "x") for file, label in LABEL_OF_FILE.items() if file in texts]


def chunk_places(plan: ShardPlan) -> dict[tuple[str, str, str], list[tuple[str, int, int]]]:
    """Where the chunks of every record are, by label, id and bases."""
    found: dict[tuple[str, str, str], list[tuple[str, int, int]]] = {}
    for segment in plan.segments:
        key = LABEL_OF_FILE[segment.source], segment.record_id, segment.digest
        found.setdefault(key, []).append((segment.shard, segment.first_chunk, segment.end_chunk))
    return found


def sizes(plan: ShardPlan) -> Counter[str]:
    found = Counter(dict.fromkeys(plan.shards, 0))
    for segment in plan.segments:
        assert segment.shard.startswith(f"{LABEL_OF_FILE[segment.source]}-")
        found[segment.shard] += segment.chunks
    return found


def require_continued(before: ShardPlan, after: ShardPlan) -> None:
    """Known records are where they were, all others in new shards, full but the last, with the next numbers."""
    earlier, later = chunk_places(before), chunk_places(after)
    kept = earlier.keys() & later.keys()
    assert {record: later[record] for record in kept} == {record: earlier[record] for record in kept}
    for label in ("host", "viral"):
        new = {
            segment[0]
            for record in later.keys() - kept
            for segment in later[record]
            if record[0] == label and segment[2]
        }
        first = before.numbered.get(label, 0)
        opened = [f"{label}-{number + 1:04d}" for number in range(first, after.numbered[label])]
        assert sorted(new) == [shard for shard in opened if sizes(after)[shard]]
        assert [sizes(after)[shard] for shard in opened[:-1]] == [3] * (len(opened) - 1 if opened else 0)


@settings(max_examples=60, deadline=None)
@given(releases=RELEASES)
def test_any_sequence_of_releases_holds_every_chunk_once(
    tmp_path_factory: pytest.TempPathFactory, releases: list[Release]
) -> None:
    """Records come, go, change their bases, and move to another file or label."""
    folder = tmp_path_factory.mktemp("releases")
    path, plan = folder / "var" / "plan.parquet", ShardPlan(table_of([]), {}, {}, 300)
    for number, release in enumerate(releases, start=1):
        before, sources = plan, released(folder, release, number * 10**9)
        plan, failures = plan_reference(path, sources, SMALL_SHARDS)
        assert failures == {}
        assert list(plan_faults(plan.segments, 300)) == []
        found = [(record.record_id, record.source, record.length_nt) for record in rows_of(whole_records(plan.table))]
        assert sorted(found) == sorted((record, file, length) for record, (file, _, length) in release.items())
        assert max(sizes(plan).values()) <= 3
        require_continued(before, plan)
        assert plan_reference(path, sources, SMALL_SHARDS) == (plan, {})


def test_an_intake_log_that_cannot_be_read_is_empty(tmp_path: Path) -> None:
    """So that all files of the folder are planned again."""
    layout = Layout(tmp_path, "miniature")
    assert read_intake_log(layout) == {}
    write_table(layout.intake_log, pa.table({"file": ["a.fa"]}), {"table": "incoming"})
    assert read_intake_log(layout) == {}
