"""`virnuc init`, from the checkout and from the wheel."""

import os
import shutil
import subprocess
import sys
import zipfile
from contextlib import nullcontext
from pathlib import Path

import pytest

from virnuc_assets.definitions import build_defs
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.sequences.catalogue import CatalogueError
from virnuc_assets.settings import Settings, load_settings
from virnuc_assets.workstation import setup
from virnuc_assets_tests.cli.commands import message, virnuc

CHECKOUT = Path(__file__).parents[2]
FILES = ("virnuc.toml", "workspace.yaml")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
USE = """
import virnuc_assets, virnuc_assets.definitions
from virnuc_assets.cli.main import app
print(virnuc_assets.__file__)
try:
    app(["init", "project", "--genomes"])
except SystemExit:
    import os
    os.chdir("project")
    print(len(virnuc_assets.definitions.defs().resolve_all_asset_specs()))
"""


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file's content by its path; links are followed."""
    found = (Path(top) / name for top, _, names in os.walk(folder, followlinks=True) for name in names)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if path.suffix != ".pyc"}


@pytest.mark.parametrize("bundled", [True, False])
def test_a_project_has_settings_workspace_and_data(tmp_path: Path, bundled: bool) -> None:
    folder = tmp_path / "new/project"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    result = virnuc("init", folder, *["--genomes"][:bundled])
    assert (result.exit_code, str(folder) in result.output) == (0, True)
    made, template = files_in(folder), {name: (CHECKOUT / name).read_bytes() for name in FILES}
    assert made.pop("notes.txt") == b"mine"
    for name in ("genomes", "samples"):
        template |= {f"data/{name}/{path}": text for path, text in files_in(CHECKOUT / "data" / name).items()}
    if not bundled:
        table = made.pop("data/genomes/MANIFEST.tsv")
        assert (table.count(b"\n"), table.startswith(b"name\tlabel\tgroup\tfasta\t")) == (1, True)
        template = {name: template[name] for name in FILES}
    assert made == template
    assert sorted(path.name for path in (folder / "data").iterdir()) == ["genomes", "incoming", "samples"]
    assert load_settings(folder) == Settings(root=folder)
    with nullcontext() if bundled else pytest.raises(CatalogueError, match="MANIFEST.tsv: no genomes .*virnuc init"):
        assert Workspace(load_settings(folder)).catalogue()


@pytest.mark.parametrize("name", [*FILES, "data"])
def test_what_is_there_is_not_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    assert f"{tmp_path}: {name} there already" in message(virnuc("init", tmp_path, "--genomes"))
    assert files_in(tmp_path) == {name: b"mine"}


@pytest.mark.parametrize("absent", ["virnuc.toml", "workspace.yaml", "samples"])
def test_what_fails_midway_leaves_nothing_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: str
) -> None:
    folder, template = tmp_path / "project", tmp_path / "template"
    shutil.copytree(setup._TEMPLATE, template)
    (template / absent).rename(tmp_path / "away")
    with monkeypatch.context() as patched, pytest.raises(OSError, match=absent):
        patched.setattr(setup, "_TEMPLATE", template)
        setup.make_project(folder, bundled=True)
    assert list(folder.iterdir()) == []
    setup.make_project(folder, bundled=True)
    assert sorted(path.name for path in folder.iterdir()) == ["data", *FILES]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "file is no folder" in message(virnuc("init", tmp_path / "file"))


def test_a_command_finds_its_project_from_anywhere_and_its_files_where_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.fasta").write_text(f">x\n{'ACGTCCGA' * 100}\n")
    embed = ("embed", "frames.parquet", "--encoder", "fastesm2_650_miniature", "--out", "vectors.parquet")
    for words in (("frames", "x.fasta", "--out", "frames.parquet"), ("fasta", "frames.parquet", "--column", "protein")):
        assert virnuc(*words).exit_code == 0  # reads no project
    assert message(virnuc(*embed)).startswith(f"{tmp_path}: no project here, virnuc.toml is missing; ")
    assert virnuc("init", "a/project").exit_code == 0
    text = message(virnuc(*embed, "--project", "a/project"))
    assert f"no checkpoint in {tmp_path / 'a/project/var/checkpoints'}" in text and "virnuc setup" in text
    assert virnuc("doctor", "--project", "a/project").stderr.count(str(tmp_path / "a/project/var/")) > 0


def test_the_wheel_holds_every_file_and_makes_a_project_whose_graph_loads(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    for name in ("virnuc_assets", "data/genomes", "data/samples"):
        shutil.copytree(CHECKOUT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (*FILES, "pyproject.toml", "README.md"):
        shutil.copyfile(CHECKOUT / name, source / name)
    subprocess.run([sys.executable, "-c", BUILD, tmp_path], cwd=source, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    assert files_in(site / "virnuc_assets") == files_in(CHECKOUT / "virnuc_assets")
    assert [path.name for path in site.iterdir() if path.suffix != ".dist-info"] == ["virnuc_assets"]
    used = [sys.executable, "-c", USE]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(used, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    first, *_, assets = done.stdout.splitlines()
    ours = build_defs(Settings(root=tmp_path)).resolve_all_asset_specs()
    assert (first, int(assets)) == (str(site / "virnuc_assets/__init__.py"), len(ours))
