"""Headers are data: ids with paths, shell, formulas, HTML, Markdown or escapes never act, from FASTA to report."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from typer.testing import CliRunner

from virnuc_assets.cli.main import app
from virnuc_assets.defs import jobs
from virnuc_assets.defs.partitions import SAMPLES
from virnuc_assets.storage.tables import read_table
from virnuc_assets.text import spreadsheet_text
from virnuc_assets_tests.assets.project import Project, failures

pytest_plugins = ["virnuc_assets_tests.assets.finished"]

SHARDS = ("hostile-000001",)
FILES = ("prediction_results.txt", "prediction_results_highestscore.csv", "summary.tsv")
CHARACTERS = tuple("=+-@＝＋－＠\t\r\n")
# header as it is in the file → id in every table
HOSTILE = {
    "../../etc/passwd; rm -rf x": "../../etc/passwd;",
    "/etc/cron.d/x": "/etc/cron.d/x",
    "$(touch${IFS}acted)": "$(touch${IFS}acted)",
    "`id` $(id)": "`id`",
    "|tee${IFS}acted": "|tee${IFS}acted",
    "--help": "--help",
    "=cmd|'/C_calc'!A0": "=cmd|'/C_calc'!A0",
    "@SUM(1+1)": "@SUM(1+1)",
    "＝1+1": "＝1+1",
    '"=1+1': '"=1+1',
    "'=1+1": "'=1+1",
    'x,=HYPERLINK("http://e.x";"y")': 'x,=HYPERLINK("http://e.x";"y")',
    "x;@SUM(1)": "x;@SUM(1)",
    "<script>alert(1)</script>": "<script>alert(1)</script>",
    "|a|b|": "|a|b|",
    "![x](http://e.x/y.png)": "![x](http://e.x/y.png)",
    "[red]x[/blue]": "[red]x[/blue]",
    "a\x1b[31m\x1b]0;t\x07b": r"a\x1b[31m\x1b]0;t\x07b",
    "nul\x00\\x00": r"nul\x00\x00",
    "right\u202eleft": r"right\u202eleft",
    "zero\u200bwidth\ufeff": r"zero\u200bwidth\ufeff",
    "one\u2028two": "one",
    "seven\u00a0eight": "seven",
    "x" * 1000: "x" * 1000,
    "日本脳炎ウイルス": "日本脳炎ウイルス",
}
SEQUENCE, OPEN = "GCAGGCGTTCGTGATCTGCTGCGCGAAGCC" * 5, ("F1", "F2", "R1", "R2", "R3")


@pytest.fixture
def hostile(copied: Project) -> Iterator[Project]:
    """A project with one sample whose every header is hostile; the other sample is gone."""
    incoming = copied.settings.incoming
    for path in incoming.iterdir():
        path.unlink()
    text = "".join(f">{header} said of it\n{SEQUENCE}\n" for header in HOSTILE)
    (incoming / "hostile.fasta").write_text(text, encoding="utf-8", newline="")
    yield copied


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def cells(path: Path, separator: str = "\t") -> list[list[str]]:
    """Cells of a file as a spreadsheet that cuts it at a separator sees them."""
    return list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""), delimiter=separator))


def require_inert(folder: Path) -> None:
    """No cell of the three files is a formula; every id can be had back, each on a line of its own."""
    ids = list(HOSTILE.values())
    for name in FILES:
        text = (folder / name).read_text(encoding="utf-8")
        assert [letter for letter in text if not letter.isprintable() and letter not in "\t\n"] == []
        for separator in "\t,;" if name.endswith(".csv") else "\t":
            found = [cell for row in cells(folder / name, separator) for cell in row]
            assert [cell for cell in found if cell.startswith(CHARACTERS)] == []
    frames, chunks, records = (
        [spreadsheet_text(row[column]) for row in cells(folder / name)[1:]]
        for name, column in zip(FILES, (0, 0, 1), strict=True)
    )
    plain = (folder / FILES[0]).read_text(encoding="utf-8").splitlines()[1:]
    assert [spreadsheet_text(line.split("\t")[0]) for line in plain] == frames
    assert records == ids
    assert chunks == sorted(f"{record}_chunk_1" for record in ids)
    assert set(frames) == {f"{record}_chunk_1{frame}" for record in ids for frame in OPEN}


def test_hostile_ids_go_from_fasta_to_report_as_data(hostile: Project) -> None:
    before = names(hostile.root.parent)
    results = [hostile.job(jobs.PLAN_SAMPLES_JOB), hostile.job(jobs.SAMPLE_JOB, partition_key="hostile")]
    assert failures(*results) == []

    made = {name for name in names(hostile.root.parent) - before if "hostile" in name}
    assert made != set()
    assert {Path(name).stem for name in made if name.endswith(".parquet")} == {"hostile", "frames", *SHARDS}
    assert [name for name in names(hostile.root.parent) - before if not re.fullmatch(r"[A-Za-z0-9._/-]+", name)] == []
    assert SAMPLES.shards(hostile.workspace.layout, "hostile") == list(SHARDS)
    frames = [read_table(hostile.workspace.layout.table("samples", "translated_proteins", key)) for key in SHARDS]
    found = [record_id for table in frames for record_id in table.column("record_id").to_pylist()]
    assert list(dict.fromkeys(found)) == list(HOSTILE.values())
    require_inert(hostile.workspace.layout.sample_report("hostile"))
    (event,) = results[-1].asset_materializations_for_node("samples__report")
    shown = event.metadata["records_table"]
    assert isinstance(shown, dg.TableMetadataValue)  # whose cells the UI shows as text
    assert [record.data["record_id"] for record in shown.records] == list(HOSTILE.values())


def test_paths_with_markup_and_escapes_are_shown_as_they_are(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.fa", tmp_path / "x\x1b[31m[bold]\u202e.fa"
    good.write_text(">a\nGGCGGC\n")
    bad.write_text(">a\nMKEL\n")
    out = tmp_path / "o[red]x[/blue].parquet"
    result = CliRunner().invoke(app, ["frames", str(good), "--out", str(out)])
    assert result.exit_code == 0
    assert "o[red]x[/blue].parquet" in result.stdout
    refused = CliRunner().invoke(app, ["frames", str(bad), "--out", str(tmp_path / "y.parquet")])
    assert refused.exit_code == 1
    assert r"x\x1b[31m[bold]\u202e.fa: record 'a', line 2" in refused.stderr
    assert "\x1b" not in refused.stderr
