"""README and docs: every command parses, those that need no server run, links lead somewhere, toml blocks load."""

from __future__ import annotations

import re
import shlex
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import typer
from dagster._cli import create_dagster_cli
from dagster_dg_cli.cli import create_dg_cli

from virnuc_assets.cli.main import app
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.settings import load_settings
from virnuc_assets.storage.tables import read_table
from virnuc_assets_tests import settings_page
from virnuc_assets_tests.assets.project import DATA, SAMPLE_RECORDS, Finished, write_sample
from virnuc_assets_tests.cli.commands import virnuc
from virnuc_assets_tests.virnucpro import files

pytest_plugins = ["virnuc_assets_tests.assets.finished"]

PROJECT = Path(__file__).parents[1]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")), *sorted((PROJECT / "deploy").glob("*/*.md"))]
PROGRAMS = ("virnuc", "make", "dagster", "dg")
STARTS_MORE = ("setup", "demo", "up")  # tested where set-up, demo and servers are
DNA_DIM, PROTEIN_DIM = 768, 8  # columns of VirNucPro's files; the pages name the first


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of a language, or of none."""
    found = re.findall(r"^ *```(\w*)\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(text) for tag, text in found if tag == language]


def commands(page: Path) -> list[list[str]]:
    """The words of every command line that begins with one of the programs."""
    lines = [line for block in blocks(page, "") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.partition(" ")[0] in PROGRAMS]


def inline_commands(page: Path) -> list[list[str]]:
    """`virnuc NAME ...` and `make TARGET` in the text."""
    found = re.findall(r"`((?:virnuc|make) [^`]+)`", page.read_text(encoding="utf-8"))
    return [shlex.split(text) for text in found if not text.startswith("make TARGET")]


def by_page(found: Any) -> list[Any]:
    """A parameter for each of what is found in each page, named by both."""
    return [pytest.param(each, id=f"{page.name}:{' '.join(each)}") for page in PAGES for each in found(page)]


def named(group: Any, arguments: list[str]) -> tuple[Any, list[str]]:
    """The command of a group, through its subgroups, and the arguments that are left."""
    while hasattr(group, "get_command"):
        name, *arguments = arguments
        group = group.get_command(click.Context(group), name)
        assert group is not None, f"no command {name}"
    return group, arguments


def targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("words", by_page(commands))
def test_a_command_parses(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    program, *arguments = words
    if program == "make":
        assert {each for each in arguments if "=" not in each} <= targets()
        return
    groups = {"virnuc": lambda: typer.main.get_command(app), "dagster": create_dagster_cli, "dg": create_dg_cli}
    command, left = named(groups[program](), arguments)
    command.make_context(program, left)  # raises what the program would print of an option, a value or a missing one


@pytest.mark.parametrize("words", by_page(inline_commands))
def test_a_command_in_the_text_exists(words: list[str]) -> None:
    program, *arguments = words
    if program == "make":
        assert {each for each in arguments if "=" not in each} <= targets()
        return
    command, left = named(typer.main.get_command(app), arguments)
    options = {option for parameter in command.params for option in parameter.opts}
    assert {each for each in left if each.startswith("--")} <= options


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(PROJECT)) for page in PAGES])
def test_links_and_toml_blocks_are_valid(page: Path, tmp_path: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
    for block in blocks(page, "toml"):
        (tmp_path / "virnuc.toml").write_text(block.replace("<40 hex digits>", "0" * 40), encoding="utf-8")
        Workspace(load_settings(tmp_path / "virnuc.toml"))


def test_the_settings_page_is_what_the_settings_say() -> None:
    again = "python -m virnuc_assets_tests.settings_page"
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.page(), f"docs/settings.md: run `{again}`"


def test_the_readme_is_short_and_every_package_is_described() -> None:
    assert len((PROJECT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
    described = re.findall(
        r"^\| `(\w+)` \|", (PROJECT / "docs/development.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {path.parent.name for path in PROJECT.glob("virnuc_assets/*/__init__.py")} <= set(described)


@pytest.fixture(scope="module")
def folder(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the finished project with the files that the pages name."""
    project = finished.copy(tmp_path_factory.mktemp("docs") / "project")
    root, genomes = project.root, DATA / "genomes/host"
    shutil.copytree(DATA / "samples", root / "data/samples")
    (root / "my_phages").mkdir()
    for path in (root / "my_contigs.fasta", root / "my_phages/phage.fasta"):
        write_sample(path, SAMPLE_RECORDS)
    shutil.copyfile(genomes / "plasmid_pPCP1.fna.gz", root / "strain7.fna.gz")
    shutil.copyfile(genomes / "plasmid_pPCP1.gbk.gz", root / "strain7.gbff.gz")
    assert virnuc("frames", root / "data/samples/demo_sample.fasta", "--out", root / "frames.parquet").exit_code == 0
    ids = read_table(root / "frames.parquet").column("frame_id").to_pylist()
    dna, protein = files.drawn(len(ids), DNA_DIM), files.drawn(len(ids), PROTEIN_DIM, 1)
    for name in ("output_1", "X"):
        files.dnabert_s(root / f"{name}_DNABERT_S.pt", ids, dna)
        files.esm(root / f"{name}_ESM.pt", ids, protein)
    files.merged(root / "X_merged.pt", ids, np.concatenate([dna, protein], axis=1))
    files.write_models(root, {"500_model": files.Model(DNA_DIM + PROTEIN_DIM, 512)})
    yield root
    project.instance.dispose()


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_commands_run_as_they_are_printed(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the page, in the project's folder; a `*` is the shell's."""
    monkeypatch.chdir(folder)
    for program, *words in commands(page):
        if program == "virnuc" and words[0] not in STARTS_MORE:
            arguments = [
                path for word in words for path in (sorted(map(str, Path().glob(word))) if "*" in word else [word])
            ]
            result = virnuc(*arguments)
            assert result.exit_code == 0, f"virnuc {' '.join(words)}: {result.output}"
