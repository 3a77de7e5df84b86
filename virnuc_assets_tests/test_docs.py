"""README and docs: every command parses, those that need no server run, links lead somewhere, toml blocks load."""

from __future__ import annotations

import itertools
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
DIMS = 768, 8  # columns of VirNucPro's files, DNA and protein; the pages name the first


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of a language, or of none ("")."""
    found = re.findall(r"^ *```(\w*)\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(text) for tag, text in found if tag == language]


def commands(page: Path) -> list[list[str]]:
    """The words of every command line that begins with one of the programs."""
    lines = re.findall(r"^(?:virnuc|make|dagster|dg) .+$", "\n".join(blocks(page, "")), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def inline_commands(page: Path) -> list[list[str]]:
    """`virnuc NAME ...` and `make TARGET` in the text."""
    found = re.findall(r"`((?:virnuc|make) [^`]+)`", page.read_text(encoding="utf-8"))
    return [shlex.split(text) for text in found]


def offline(page: Path) -> list[list[str]]:
    """Arguments of the `virnuc` commands that need neither a network nor servers."""
    return [words[1:] for words in commands(page) if words[0] == "virnuc" and words[1] not in ("setup", "demo", "up")]


def by_page(found: Any, whole: bool) -> list[Any]:
    """A parameter for each of what is found in each page."""
    return [pytest.param(each, whole, id=f"{page.name}:{' '.join(each)}") for page in PAGES for each in found(page)]


def named(group: Any, arguments: list[str]) -> tuple[Any, list[str]]:
    """The command of a group, through its subgroups, and the arguments that are left."""
    while hasattr(group, "get_command"):
        name, *arguments = arguments
        group = group.get_command(click.Context(group), name)
        assert group is not None, f"no command {name}"
    return group, arguments


@pytest.mark.parametrize(("words", "whole"), [*by_page(commands, True), *by_page(inline_commands, False)])
def test_a_command_parses(words: list[str], whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole line as its program parses it; of what the text mentions, the command and its options exist."""
    monkeypatch.chdir(PROJECT)
    program, *arguments = words
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert {each for each in arguments if "=" not in each} <= set(targets)
        return
    groups = {"virnuc": lambda: typer.main.get_command(app), "dagster": create_dagster_cli, "dg": create_dg_cli}
    command, left = named(groups[program](), arguments)
    if whole:
        command.make_context(program, left)  # raises what the program would print
    options = {option for parameter in command.params for option in parameter.opts}
    assert {each for each in left if each.startswith("--")} <= options


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8").lower(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(PROJECT)) for page in PAGES])
def test_links_and_toml_blocks_are_valid(page: Path, tmp_path: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
    for block in blocks(page, "toml"):
        (tmp_path / "virnuc.toml").write_text(block.replace("<40 hex digits>", "0" * 40), encoding="utf-8")
        Workspace(load_settings(tmp_path))


def test_the_settings_page_is_what_the_settings_say() -> None:
    """If not: `python -m virnuc_assets_tests.settings_page`."""
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.page()


def test_the_readme_is_short_and_every_package_is_described() -> None:
    assert len((PROJECT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
    table = (PROJECT / "docs/development.md").read_text(encoding="utf-8")
    assert [
        path for path in PROJECT.glob("virnuc_assets/*/__init__.py") if f"\n| `{path.parent.name}` |" not in table
    ] == []


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
    dna, protein = (files.drawn(len(ids), dim) for dim in DIMS)
    for name in ("output_1", "X"):
        files.dnabert_s(root / f"{name}_DNABERT_S.pt", ids, dna)
        files.esm(root / f"{name}_ESM.pt", ids, protein)
    files.merged(root / "X_merged.pt", ids, np.concatenate([dna, protein], axis=1))
    files.write_models(root, {"500_model": files.Model(sum(DIMS), 512)})
    yield root
    project.instance.dispose()


@pytest.mark.parametrize("page", [page for page in PAGES if offline(page)], ids=lambda page: page.name)
def test_commands_run_as_they_are_printed(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the page, in the project's folder, without results of another page; a `*` is the shell's."""
    monkeypatch.chdir(folder)
    shutil.rmtree("results", ignore_errors=True)
    for words in offline(page):
        paths = [sorted(map(str, Path().glob(word))) if "*" in word else [word] for word in words]
        assert (result := virnuc(*itertools.chain(*paths))).exit_code == 0, (words, result.output)
