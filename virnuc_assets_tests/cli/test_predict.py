"""`virnuc predict`: any inputs together or each by itself, one folder, options, and what a killed run leaves."""

import bz2
import functools
import gzip
import json
import lzma
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from Bio import SeqIO
from Bio.Seq import Seq
from Bio.SeqRecord import SeqRecord

from virnuc_assets.cli.stages import SHARD_CHUNKS, sample_files
from virnuc_assets.reports.sample_results import RESULT_FILES
from virnuc_assets.sequences.frame_rule import FrameRule
from virnuc_assets.storage.tables import read_table
from virnuc_assets_tests.cli.commands import console, message, virnuc
from virnuc_assets_tests.cli.serving import kmer_project

pytest_plugins = ["virnuc_assets_tests.assets.finished"]
SCRIPT = Path(sys.executable).with_name("virnuc")
OTHER_SOURCE = ("frames.parquet", "report.html", "run.json", "ledger.tsv", "summary.tsv", "virnuc_mqc.json")
ALPHABETS = ("ACGT", "ACG", "AC", "CG", "ACgN", "GGGACG")  # without T there is no stop, so every frame is open


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kmer_project(tmp_path_factory.mktemp("kmer") / "project")


def contigs(seed: int, count: int = 12) -> list[SeqRecord]:
    """Records of several kinds and lengths; one is empty of codons, one a duplicate."""
    generator, records = random.Random(seed), []
    for number in range(count):
        bases = "".join(generator.choices(ALPHABETS[number % len(ALPHABETS)], k=generator.randint(200, 2600)))
        record = SeqRecord(Seq(bases), id=f"s{seed}.{number}", description=f"contig {number} of {seed}")
        records.append(record)
    records.append(SeqRecord(Seq("AC"), id=f"s{seed}.short", description="two"))
    records.append(records[0])
    return records


def fasta(records: list[SeqRecord]) -> str:
    return "".join(f">{record.id} {record.description}\n{record.seq}\n" for record in records)


def fastq(records: list[SeqRecord]) -> str:
    return "".join(f"@{record.id} {record.description}\n{record.seq}\n+\n{'I' * len(record)}\n" for record in records)


def every_input(folder: Path) -> list[Path]:
    """A file of each format and compression, each of records of its own."""
    import pyarrow as pa

    folder.mkdir()
    text = {name: fasta(contigs(seed)) for seed, name in enumerate(("plain.fa", "b.fa.bz2", "x.fna.xz", "g.fasta.gz"))}
    (folder / "plain.fa").write_text(text["plain.fa"])
    (folder / "b.fa.bz2").write_bytes(bz2.compress(text["b.fa.bz2"].encode()))
    (folder / "x.fna.xz").write_bytes(lzma.compress(text["x.fna.xz"].encode()))
    (folder / "g.fasta.gz").write_bytes(gzip.compress(text["g.fasta.gz"].encode()))
    with pa.CompressedOutputStream(str(folder / "z.fa.zst"), "zstd") as packed:
        packed.write(fasta(contigs(4)).encode())
    (folder / "reads.fastq").write_text(fastq(contigs(5)))
    records = [record for record in contigs(6) if record.id != "s6.short"][:-1]
    for record in records:
        record.annotations["molecule_type"] = "DNA"
    SeqIO.write(records, folder / "flat.gbk", "genbank")
    return sorted(folder.iterdir())


def summary_of(out: Path) -> pd.DataFrame:
    numbers = dict.fromkeys(("probability", "viral_fraction"), [""])
    return pd.read_csv(out / "summary.tsv", sep="\t", keep_default_na=False, na_values=numbers)


def predicted(project: Path, out: Path, *arguments: str | Path) -> pd.DataFrame:
    """The summary of a run that worked."""
    result = virnuc("predict", *arguments, "--out", out, "--project", project)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == sorted(RESULT_FILES)
    return summary_of(out)


def test_all_inputs_in_one_command_are_classified_as_each_by_itself(project: Path, tmp_path: Path) -> None:
    files = every_input(tmp_path / "inputs")
    together = predicted(project, tmp_path / "together", *files)
    of_folder = predicted(project, tmp_path / "folder", tmp_path / "inputs")
    alone = [predicted(project, tmp_path / path.name.replace(".", "_"), path) for path in files]
    pd.testing.assert_frame_equal(together, pd.concat(alone, ignore_index=True))
    pd.testing.assert_frame_equal(together, of_folder)
    assert set(together["call"]) == {"virus", "other", "uncertain", "not scored"}
    assert together["source"].unique().tolist() == list(map(str, files))
    assert len(together) == 6 * 14 + 12
    folders = [tmp_path / path.name.replace(".", "_") for path in files]
    for name in ("virus.fna", "chunks.bed", "prediction_results.txt"):
        lines = [(folder / name).read_text().splitlines() for folder in folders]
        heads = 1 if name.endswith("txt") else 0
        expected = [*lines[0][:heads], *(line for each in lines for line in each[heads:])]
        assert (tmp_path / "together" / name).read_text().splitlines() == expected, name


def test_viral_records_are_as_they_were_in_every_format(project: Path, tmp_path: Path) -> None:
    files = every_input(tmp_path / "inputs")
    summary = predicted(project, tmp_path / "out", *files)
    viral = summary.loc[summary["call"] == "virus", "record_id"].tolist()
    originals = {record.id: record for seed in range(7) for record in contigs(seed)}
    found = list(SeqIO.parse(tmp_path / "out/virus.fna", "fasta"))
    assert [record.id for record in found] == viral
    assert {name[:2] for name in viral} == {f"s{seed}" for seed in range(7)}
    for record in found:
        original = originals[record.id]
        assert record.description == f"{original.id} {original.description}"
        same = str.lower if record.id.startswith("s6") else str  # Biopython writes GenBank in lower case
        assert str(record.seq) == same(str(original.seq))
    assert any(set("acgt") & set(str(record.seq)) for record in found)
    assert max(map(len, (tmp_path / "out/virus.fna").read_text().splitlines())) <= 80


def test_standard_input_and_pipes_are_inputs_like_files(project: Path, tmp_path: Path) -> None:
    (tmp_path / "a.fa").write_text(fasta(contigs(1)))
    command = 'zcat -f a.fa | "$0" predict - <(cat a.fa) a.fa --out out --project "$1"'
    done = subprocess.run(["bash", "-c", command, SCRIPT, project], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = pd.read_csv(tmp_path / "out/summary.tsv", sep="\t", keep_default_na=False)
    first, second, third = (rows.drop(columns="source").reset_index(drop=True) for _, rows in
                            summary.groupby("source", sort=False))  # fmt: skip
    assert summary["source"].unique()[0] == "'-" and summary["source"].unique()[2] == "a.fa"
    pd.testing.assert_frame_equal(first, second)
    pd.testing.assert_frame_equal(first, third)
    assert "13 record ids are in more than one input, e.g. s1.0" in done.stderr


def test_errors_name_a_pipe_as_it_was_given_and_not_its_copy(project: Path, tmp_path: Path) -> None:
    command = '"$0" predict <(echo "LOCUS x") --out out --project "$1"'
    done = subprocess.run(["bash", "-c", command, SCRIPT, project], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr.startswith("error: /dev/fd/")) == (1, True), done.stderr
    done = console("predict", "-", "--out", "out", "--project", project, cwd=tmp_path, stdin="")
    assert (done.returncode, done.stderr.startswith("error: standard input: the file is empty")) == (1, True)


def test_an_id_in_two_inputs_has_its_source_where_there_is_no_column_for_it(project: Path, tmp_path: Path) -> None:
    for name, seed in (("a b.fa", 1), ("c.fa", 1), ("d.fa", 2)):
        (tmp_path / name).write_text(fasta(contigs(seed)))
    os.chdir(tmp_path)
    summary = predicted(project, tmp_path / "out", "a b.fa", "c.fa", "d.fa")
    assert summary["record_id"].str.startswith("s").all()
    assert summary["source"].value_counts().to_dict() == {"a b.fa": 14, "c.fa": 14, "d.fa": 14}
    lines = (tmp_path / "out/chunks.bed").read_text().splitlines()
    names = {line.split("\t")[0] for line in lines}
    assert {name.rpartition(":")[0] for name in names} == {"a%20b.fa", "c.fa", ""}
    chunks = [line.split("\t")[3] for line in lines]
    assert len(chunks) == len(set(chunks))
    highest = pd.read_csv(tmp_path / "out/prediction_results_highestscore.csv", sep="\t")["Modified_ID"].tolist()
    assert highest == sorted(highest) and set(highest) < set(chunks)
    frames = pd.read_csv(tmp_path / "out/prediction_results.txt", sep="\t")["Sequence_ID"]
    assert frames.is_unique and set(frames.str[:-2]) == set(highest)
    stored = read_table(tmp_path / "out/frames.parquet").to_pandas()
    assert stored["frame_id"].str.startswith("s").all() and not stored.duplicated(["source", "frame_id"]).any()


def test_each_chunk_is_scored_by_its_longest_stretch_and_that_is_where_the_table_says(tmp_path: Path) -> None:
    other = kmer_project(tmp_path / "project", FrameRule("longest_orf", 40))
    source, frames = tmp_path / "a.fa", tmp_path / "frames.parquet"
    source.write_text(fasta(contigs(1)))
    predicted(other, tmp_path / "out", source)
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert (run["settings"]["frame_rule"], run["settings"]["min_orf_aa"]) == ("longest_orf", 40)
    assert "if it codes for 40 residues or more" in (tmp_path / "out/report.html").read_text()

    assert virnuc("frames", source, "--frame-rule", "longest_orf", "--min-orf-aa", 40, "--out", frames).exit_code == 0
    framed = read_table(frames).to_pylist()
    longest = dict[str, dict[str, Any]]()
    for row in framed:
        if len(row["protein"]) > len(longest.get(row["chunk_id"], {"protein": ""})["protein"]):
            longest[row["chunk_id"]] = row
    scored = read_table(tmp_path / "out/frames.parquet").to_pylist()
    for name in ("frame_id", "strand", "frame", "start_nt", "end_nt"):
        assert [row[name] for row in scored] == [row[name] for row in longest.values()]
    records = {record.id: record.seq.upper() for record in contigs(1)}
    for row in framed:
        cut = records[row["record_id"]][row["start_nt"] : row["end_nt"]]
        read = cut if row["strand"] == "+" else cut.reverse_complement()
        assert read == row["nucleotides"]
        assert str(read.translate()) == row["protein"] or "N" in read  # Biopython knows that GGN is glycine
        assert "*" not in row["protein"] and len(row["protein"]) >= 40


def test_options_are_in_effect_and_in_run_json(project: Path, tmp_path: Path) -> None:
    source = tmp_path / "a.fa"
    source.write_text(fasta(contigs(1)))
    summary = predicted(
        project, tmp_path / "out", source, "--min-length", "1000", "--threads", "1", "--device", "cpu", "--quiet"
    )
    short = summary["length_nt"] < 1000
    assert (
        set(summary.loc[short, "reason"])
        <= {
            "shorter than the minimum of 1000 nt",
        }
        and short.sum() > 2
    )
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["settings"] == {
        "chunk_length": 500,
        "frame_rule": "longest_orf",
        "min_orf_aa": 30,
        "min_confidence": 0.6,
        "max_error": 0.2,
        "min_length": 1000,
        "precision": "fp32",
        "device": "cpu",
    }
    (found,) = run["inputs"]
    assert (found["source"], found["records"], len(found["sha256"])) == (str(source), 14, 64)
    assert run["totals"]["records_skipped: shorter than the minimum of 1000 nt"] == int(short.sum())
    assert run["finished"] >= run["started"] and run["seconds"] > 0
    assert run["model"]["miniature"] is False and run["model"]["encoders"]["dna"]["encoder"] == "kmer_dna"
    assert run["model"]["trained_on"] == {"temperature": 1.5} and "tested" not in run["model"]  # it is not trained
    printed = virnuc("predict", source, "--out", tmp_path / "again", "--project", project).stdout.splitlines()
    assert [" ".join(line.split()) for line in printed[-2:]] == [
        "classifier kmer: composition of chunks and of their longest open stretches",
        f"written to {tmp_path / 'again'}",
    ]


def test_more_records_without_chunks_than_a_shard_has_chunks(project: Path, tmp_path: Path) -> None:
    source = tmp_path / "many.fa"
    short = "".join(f">s{number}\n{'ACG' * 20}\n" for number in range(SHARD_CHUNKS + 100))
    source.write_text(f"{short}>long\n{'ACG' * 400}\n")
    found = predicted(project, tmp_path / "out", source, "--min-length", "200")
    assert len(found) == SHARD_CHUNKS + 101 and found["chunks_scored"].tolist()[-1] == 3


def test_what_the_classifier_was_not_trained_for_is_refused(project: Path, tmp_path: Path) -> None:
    source = tmp_path / "a.fa"
    source.write_text(fasta(contigs(1)))
    for option, value, words in (
        ("--precision", "bf16", "dna encoder: precision: expected 'fp32', found 'bf16'"),
        ("--chunk-length", "300", "chunk_length: expected 500, found 300"),
        ("--chunk-length", "400", "--chunk-length: expected one of 300, 500, found 400"),
    ):
        assert words in message(
            virnuc("predict", source, "--out", tmp_path / "out", option, value, "--project", project)
        )
    result = virnuc("predict", source, "--out", tmp_path / "out", "--threads", "0", "--project", project)
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_one_bad_input_among_many_is_refused_and_nothing_is_written(project: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.fa", tmp_path / "bad.fa"
    good.write_text(fasta(contigs(1)))
    bad.write_text(">p\nMKELVF\n")
    config = ("--project", project)
    text = message(virnuc("predict", good, bad, "--out", tmp_path / "made/out", *config))
    assert f"{bad}: record 'p', line 2" in text
    (tmp_path / "none").mkdir()
    (tmp_path / "none/notes.md").write_text("")
    assert "no sequence file in this folder" in message(virnuc("predict", tmp_path / "none", "--out", "x", *config))
    assert "is among the inputs twice" in message(virnuc("predict", good, tmp_path, "--out", "x", *config))
    assert not (tmp_path / "made").exists() and not Path("x").exists()


def test_a_file_of_a_folder_is_read_once_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "b.fa").write_text(">r\nACGT\n")
    for link in ("a.fa", "c.fa"):
        (tmp_path / link).symlink_to("b.fa")
    (tmp_path / "d.fa").write_text(">r\nACGT\n")
    lines = list[str]()
    assert sample_files([tmp_path], lines.append) == [
        (str(path), path) for path in (tmp_path / "b.fa", tmp_path / "d.fa")
    ]
    assert lines == [f"{tmp_path}: not read, since what they link to is: 2 files, e.g. a.fa."]


def test_nothing_scored_is_status_1_with_results_that_say_why(project: Path, tmp_path: Path) -> None:
    source = tmp_path / "a.fa"
    source.write_text(">short\nAC\n")
    result = virnuc("predict", source, "--out", tmp_path / "out", "--project", project)
    assert "none of 1 records could be scored; most frequent reason (1): too short for a codon" in message(result)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(RESULT_FILES)
    assert (tmp_path / "out/virus.fna").read_text() == ""


def test_results_are_replaced_only_if_forced(project: Path, tmp_path: Path) -> None:
    """Also through a link to their folder."""
    source, out = tmp_path / "a.fa", tmp_path / "out"
    (tmp_path / "elsewhere").mkdir()
    out.symlink_to("elsewhere")
    source.write_text(fasta(contigs(1)))
    first = predicted(project, out, source)
    source.write_text(fasta(contigs(2)))
    config = ("--project", project)
    assert "expected an empty folder" in message(virnuc("predict", source, "--out", out, *config))
    assert summary_of(out).equals(first)
    second = predicted(project, out, source, "--force")
    assert second["record_id"].str.startswith("s2").all()
    (out / "mine.txt").write_text("mine")
    assert virnuc("predict", source, "--out", out, "--force", *config).exit_code == 0
    assert (out / "mine.txt").read_text() == "mine"


def stages(out: Path) -> list[str]:
    """Which stages have tables, and whether results are being written."""
    work = out / ".unfinished"
    found = [kind for kind in ("ledger", "dna", "protein") if list(work.glob(f"{kind}/*.parquet"))]
    return found + ["results"] * bool(list(out.glob(".results.*.partial/*")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], tuple[Path, Path]]:
    """A file of several shards, and its results by a project's classifier."""
    folder, generator = tmp_path_factory.mktemp("whole"), random.Random(3)
    bases = ["".join(generator.choices("ACG" if number % 10 == 0 else "ACGT", k=5000)) for number in range(1000)]
    (source := folder / "long.fa").write_text("".join(f">c{number}\n{each}\n" for number, each in enumerate(bases)))

    @functools.cache
    def results(root: Path) -> tuple[Path, Path]:
        out = folder / f"of-{root.parent.name}"
        assert virnuc("predict", source, "--out", out, "--project", root).exit_code == 0
        return source, out

    return results


@pytest.mark.parametrize(
    ("classifier", "stage"),
    [
        *(("kmer", stage) for stage in ("ledger", "results")),
        *(pytest.param("language models", stage, marks=pytest.mark.slow) for stage in ("dna", "protein", "results")),
    ],
)
def test_a_killed_run_leaves_nothing_that_looks_complete_and_is_continued(
    request: pytest.FixtureRequest,
    whole: Callable[[Path], tuple[Path, Path]],
    tmp_path: Path,
    classifier: str,
    stage: str,
) -> None:
    root = request.getfixturevalue("project") if classifier == "kmer" else request.getfixturevalue("finished").root
    (source, expected), out = whole(root), tmp_path / "out"
    command = [SCRIPT, "predict", source, "--out", out, "--project", root]
    with subprocess.Popen(["nice", "-n", "19", *command], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as run:
        while stage not in stages(out):
            assert run.poll() is None
            time.sleep(0.002)
        run.send_signal(signal.SIGKILL)
    assert [path.name for path in out.glob("[!.]*")] == []
    framed = {path.name for path in out.glob(".unfinished/ledger/*.parquet")}  # the last table of a shard's frames
    tables = [*out.glob(".unfinished/*/*.parquet")]
    kept = {path: path.stat().st_mtime_ns for path in tables if path.name in framed}
    assert kept != {}
    continued = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    touched = set()
    while continued.poll() is None:
        touched |= {path for path, at in kept.items() if path.exists() and path.stat().st_mtime_ns != at}
        time.sleep(0.01)
    assert continued.returncode == 0, continued.stderr.read() if continued.stderr else ""
    assert touched == set()
    assert sorted(path.name for path in out.iterdir()) == sorted(RESULT_FILES)
    for name in set(RESULT_FILES) - {"run.json", "report.html"}:
        assert (out / name).read_bytes() == (expected / name).read_bytes(), name


def test_results_that_appeared_in_part_are_none(project: Path, tmp_path: Path) -> None:
    """What a process leaves that dies while its files get their names."""
    source, out = tmp_path / "a.fa", tmp_path / "out"
    source.write_text(fasta(contigs(1)))
    (out / ".unfinished").mkdir(parents=True)
    (out / ".unfinished/publishing").touch()
    (out / "summary.tsv").write_text("in part")
    assert len(predicted(project, out, source)) == 14
    (out / ".unfinished").mkdir()
    (out / ".unfinished/publishing").touch()
    (out / "mine.txt").touch()
    assert "expected an empty folder" in message(virnuc("predict", source, "--out", out, "--project", project))


def test_a_folder_that_another_run_writes_into_is_refused(project: Path, tmp_path: Path) -> None:
    from filelock import FileLock

    source, out = tmp_path / "a.fa", tmp_path / "out"
    source.write_text(fasta(contigs(1)))
    (out / ".unfinished").mkdir(parents=True)
    with FileLock(out / ".unfinished/lock"):
        done = console("predict", source, "--out", out, "--project", project, cwd=tmp_path)
        assert "another process is writing results there" in " ".join(done.stderr.split())
    predicted(project, out, source)
