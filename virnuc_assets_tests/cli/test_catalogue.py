"""`virnuc catalogue`: a person's own genomes become rows that the project reads."""

from pathlib import Path

import pytest
from click.testing import Result

from virnuc_assets.defs.resources import Workspace
from virnuc_assets.settings import load_settings
from virnuc_assets_tests.cli.commands import message, virnuc


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("own/a.fna", "own/b.fa"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(">x\nACGT\n")
    (tmp_path / "own/a.gbk").write_text("LOCUS       x\n")
    (tmp_path / "virnuc.toml").write_text("[paths]\ngenomes = 'genomes'\ncatalogues = ['mine']\n")
    return tmp_path


def catalogue(root: Path, *arguments: str | Path) -> Result:
    return virnuc("catalogue", *arguments, "--project", root)


def test_a_folder_of_genomes(root: Path) -> None:
    for to, more in (("genomes", ()), ("mine", ("--to", root / "mine", "--set", "name=c", "--set", "organism=Me = I"))):
        files = root / ("own" if to == "genomes" else "own/b.fa")
        done = catalogue(root, files, "--label", "viral", "--group", "+ssRNA", *more)
        assert done.exit_code == 0, done.output
        assert "not read yet" not in done.output
    a, b, c = Workspace(load_settings(root)).catalogue()
    assert (a.name, a.fasta, a.genbank, a.label, a.group) == (
        "a", (root / "own/a.fna").resolve(), (root / "own/a.gbk").resolve(), "viral", "+ssRNA",
    )  # fmt: skip
    assert (b.name, b.genbank, c.name, c.organism) == ("b", None, "c", "Me = I")


def test_other_catalogues_are_minded(root: Path) -> None:
    """One that the settings do not name is written and reported; a name of one that they name is refused."""
    own, words = root / "own/a.fna", ("--label", "viral", "--group", "x")
    shown = catalogue(root, own, *words, "--to", root / "new").output
    assert f"add {root / 'new'} to catalogues under [paths] of {root / 'virnuc.toml'}" in shown
    assert (root / "new/MANIFEST.tsv").is_file()
    assert catalogue(root, own, *words).exit_code == 0
    assert "name a exists" in message(catalogue(root, own, *words, "--to", root / "mine"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("own", "--label", "viral", "--group", "x", "--set", "name=y"), "of one FASTA, found 2"),
        (("own", "--label", "viral", "--group", "x", "--genbank", "own/a.gbk"), "of one FASTA, found 2"),
        (("own/a.fna", "--label", "viral", "--group", "x", "--set", "fasta=y"), "expected COLUMN=TEXT"),
        (("own/a.fna", "own/a.fna", "--label", "viral", "--group", "x"), "name a exists"),
    ],
)
def test_what_is_refused_writes_nothing(
    arguments: tuple[str, ...], words: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    assert words in message(catalogue(root, *arguments))
    assert not (root / "genomes/MANIFEST.tsv").exists()
