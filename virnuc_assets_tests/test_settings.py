"""`virnuc.toml`: equal to the defaults of the models, and refused, with file and key, where it is wrong."""

import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from virnuc_assets.defs.resources import Workspace
from virnuc_assets.encoders.registry import ENCODERS, FINETUNED, Variant, all_encoders, all_variants
from virnuc_assets.settings import Settings, SettingsError, load_settings

PROJECT = Path(__file__).parents[1]
HEX = "0123456789abcdef0123456789abcdef01234567"
VIRNUCPRO = "[virnucpro]\nmerged = 'x'\nmodel = 'y'\ndna_dim = 768\n"


def load(folder: Path, text: str) -> Settings:
    (folder / "virnuc.toml").write_text(text, encoding="utf-8")
    return load_settings(folder)


def refusal(folder: Path, text: str) -> list[str]:
    """The lines of the message, each without the path that it must begin with."""
    with pytest.raises(SettingsError) as caught:
        Workspace(load(folder, text))
    lines = str(caught.value).splitlines()
    prefix = f"{folder / 'virnuc.toml'}: "
    assert all(line.startswith(prefix) for line in lines)
    return [line.removeprefix(prefix) for line in lines]


def test_the_projects_file_holds_the_defaults() -> None:
    assert load_settings(PROJECT) == Settings(root=PROJECT)


def test_the_projects_file_shows_every_section() -> None:
    text = (PROJECT / "virnuc.toml").read_text(encoding="utf-8")
    assert set(re.findall(r"^(?:# )?\[(\w+)\]", text, re.MULTILINE)) == set(Settings.model_fields) - {"root", "profile"}


def test_what_is_written_is_taken_and_all_else_stays(tmp_path: Path) -> None:
    """A byte order mark, as editors on Windows write it, is passed over."""
    assert load(tmp_path, "") == (default := Settings(root=tmp_path))
    text = "[sequences]\nchunk_length = 300\n[encoding]\ntoken_budget = 1\n[decision]\nmin_speedup = 3\n"
    settings = load(tmp_path, f"\ufeffprofile = 'full'\n{text}[split]\nby = 'time'\ntest_from = 2021-03-31\n")
    assert (settings.profile, settings.sequences.chunk_length, settings.encoding.token_budget) == ("full", 300, 1)
    assert (settings.decision.min_speedup, settings.split.test_from) == (3.0, date(2021, 3, 31))
    assert settings.sequences.shard_chunks == default.sequences.shard_chunks
    assert settings.training == default.training


def test_paths_start_at_the_files_folder_unless_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "virnuc.toml").write_text('[paths]\ngenomes = "g"\nincoming = "/elsewhere"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    settings = load_settings(Path())
    assert (settings.genomes, settings.incoming, settings.var) == (tmp_path / "g", Path("/elsewhere"), tmp_path / "var")


def test_catalogues_are_the_genomes_and_all_that_are_named(tmp_path: Path) -> None:
    assert load(tmp_path, "").catalogues == [tmp_path / "data/genomes"]
    named = load(tmp_path, "[paths]\ngenomes = 'g'\ncatalogues = ['mine', '/theirs', 'g']\n[refseq]\nrelease = 230\n")
    assert named.catalogues == [tmp_path / "g", tmp_path / "mine", Path("/theirs"), tmp_path / "data/refseq"]


def test_the_profile_chooses_what_is_compared_unless_it_is_named(tmp_path: Path) -> None:
    def chosen(text: str) -> tuple[str, str, str]:
        found = load(tmp_path, text)
        return found.decision.candidate, found.decision.baseline, found.serving.variant

    assert chosen("profile = 'miniature'\n") == ("fastesm2", "esm2_3b", "kmer")
    assert chosen("profile = 'full'\n") == ("fastesm2", "esm2_3b", "fastesm2")
    assert chosen("profile = 'laptop'\n") == ("esm2_8m", "esm2_35m", "esm2_8m")
    named = "profile = 'laptop'\n[decision]\ncandidate = 'esm2_150m'\n"
    assert chosen(named) == ("esm2_150m", "esm2_35m", "esm2_150m")
    assert chosen(f"{named}[serving]\nvariant = 'esm2_35m'\n") == ("esm2_150m", "esm2_35m", "esm2_35m")


def test_named_encoders_and_variants_stand_for_rows(tmp_path: Path) -> None:
    """Of the lines that docs/encoders.md shows, and of a variant on what is fine-tuned from an encoder of one's own."""
    settings = load(
        tmp_path,
        "[checkpoints]\nesm2_650 = { folder = '~/esm2' }\n"
        "[encoders]\nmine = { folder = 'models/mine', architecture = 'esm' }\n"
        "plain = { like = 'mine', token_dropout = false }\nesm2_3b = { max_length = 100 }\n"
        f"hub = {{ hub = 'a/b', revision = '{HEX}', architecture = 'mosaic_bert', pooling = 'residues' }}\n"
        "[finetuning]\nencoders = ['plain']\n"
        "[variants]\ntuned = { dna = 'hub', protein = 'finetuned_plain' }\n[decision]\nalso_compared = ['tuned']\n",
    )
    rows, esm2 = all_encoders(settings), ENCODERS["esm2_650"]
    folder = str(tmp_path / "models/mine")
    assert rows["mine"] == replace(esm2, name="mine", checkpoint="", revision="", folder=folder)
    assert rows["plain"] == replace(rows["mine"], name="plain", base="mine", token_dropout=False)
    own = replace(ENCODERS["dnabert_s"], name="hub", checkpoint="a/b", revision=HEX, pooling="residues")
    assert rows["hub"] == own
    assert rows["esm2_3b"] == replace(ENCODERS["esm2_3b"], max_length=100)
    assert rows["esm2_650"] == replace(esm2, checkpoint="", revision="", folder=str(Path("~/esm2").expanduser()))
    tuned = replace(rows["plain"], name="finetuned_plain", checkpoint=FINETUNED, base="plain", folder="")
    assert rows["finetuned_plain"] == tuned
    assert all_variants(settings)["tuned"] == Variant("tuned", "hub", "finetuned_plain")
    changed = {"mine", "plain", "hub", "finetuned_plain", "esm2_650", "esm2_3b", "esm2_3b_miniature"}
    assert {name for name, row in rows.items() if ENCODERS.get(name) != row} == changed


REFUSALS = [
    # unknown keys, sections, and wrong types: nothing is turned into a number
    ("profil = 'full'\n", "profil: … 'full'"),
    ("[trainings]\nseed = 1\n", "trainings: … {'seed': 1}"),
    ("[split]\nseed = 1\n[training]\nseed = 'one'\n", "training.seed: … 'one'"),
    ("[sequences]\nshard_chunks = 10.0\n", "sequences.shard_chunks: … 10.0"),
    ("[training]\nseed = true\n", "training.seed: … True"),
    ("sequences = 500\n", "sequences: … 500"),
    # impossible values
    ("[sequences]\nchunk_length = 400\n", "sequences.chunk_length: Input should be 300 or 500 … 400"),
    ("[sequences]\nshard_chunks = 500001\n", "sequences.shard_chunks: … 500001"),
    ("[encoding]\nprecision = 'fp8'\n", "encoding.precision: Input should be 'fp32', 'bf16' or 'fp16' … 'fp8'"),
    ("[training]\nlearning_rate = nan\n", "training.learning_rate: … nan"),
    ("[decision]\nconfidence = 95.0\n", "decision.confidence: … 95.0"),
    ("[paths]\ncatalogues = ['']\n", "paths.catalogues … ''"),
    # two that do not go together are named at their section
    ("[split]\nvalidation_fraction = 0.5\ntest_fraction = 0.5\n", "split: … below 1"),
    ("[decision]\ncandidate = 'kmer'\n", "decision: … different"),
    ("[servers]\ndagster_port = 4000\nmlflow_port = 4000\n", "servers: … must differ"),
    ("[evaluation]\nlength_bins_nt = [3000, 1000]\n", "evaluation: … must ascend"),
    ("[launch]\nsteps_at_once = 2\n", 'launch: … steps_at_once above 1 needs steps = "kubernetes"'),
    ("[launch]\nstep_memory = '16GiB'\n", "launch.step_memory: … '16GiB'"),
    ("[split]\nby = 'time'\ntest_from = '2021-01-01'\n", "split.test_from: … '2021-01-01'"),
    ("[split]\nby = 'time'\n", "split: … test_from (a date, YYYY-MM-DD without quotes) goes with"),
    ("[split]\ntest_groups = ['dengue']\n", "split: … goes with by = 'groups', and only with it"),
    # checkpoints: encoders of the hub, each from one place
    (f"[checkpoints]\nkmer_dna = {{ revision = '{HEX}' }}\n", "checkpoints.kmer_dna: … dnabert_s, "),
    ("[checkpoints.esm2_3b]\nrevision = 'main'\n", "checkpoints.esm2_3b.revision: … 'main'"),
    ("[checkpoints.esm2_3b]\n", "checkpoints.esm2_3b: … one of folder, file, or a revision"),
    ("[checkpoints.esm2_3b]\nfile = 'x.bin'\n", "checkpoints.esm2_3b.file: … 'x.bin'"),
    # encoders of one's own: from one place, under a name that is free
    ("[encoders]\nMine = { like = 'esm2_8m' }\n", "encoders.Mine: … 'Mine'"),
    ("[encoders.mine]\nfolder = 'x'\n", "encoders.mine: … expected architecture"),
    ("[encoders.mine]\narchitecture = 'esm'\n", "encoders.mine: … either hub (owner/name) or folder"),
    ("[encoders.mine]\npooling = 'tokens'\n", "encoders.mine: … expected architecture, and either hub or folder"),
    (
        f"[encoders.mine]\narchitecture = 'esm'\nfolder = 'x'\nrevision = '{HEX}'\n",
        "encoders.mine: … belongs to a repository",
    ),
    (
        "[encoders.mine]\narchitecture = 'mosaic_bert'\nfolder = 'x'\ntoken_dropout = true\n",
        "encoders.mine: … a setting of ESM",
    ),
    (
        "[encoders.esm2_8m]\narchitecture = 'esm'\nfolder = 'x'\n",
        "encoders.esm2_8m: … architecture, folder cannot be set",
    ),
    ("[encoders]\nkmer_dna = { like = 'esm2_8m' }\n", "encoders.kmer_dna: … taken"),
    ("[encoders]\nfinetuned_x = { like = 'esm2_8m' }\n", "encoders.finetuned_x: … taken"),
    ("[encoders]\na = { like = 'b' }\nb = { like = 'esm2_8m' }\n", "no encoder is called 'b'; there are: … esm2_8m"),
    ("[encoders]\na = { like = 'esm2_8m', folder = 'x' }\n", "encoders.a: … says already what folder is"),
    # variants: an encoder for each side, under a name that is free
    ("[variants.x]\ndna = 'esm2_8m'\nprotein = 'esm2_8m'\n", "variants.x.dna: … 'esm2_8m' is no dna encoder"),
    ("[variants]\nx = { protein = 'finetuned_esm2_8m' }\n", "variants.x.protein: … no protein encoder"),
    ("[variants]\nx = { dna = 'dnabert_s' }\n", "variants.x.protein: … required"),
    ("[variants]\nkmer = { protein = 'esm2_8m' }\n", "variants.kmer: … taken"),
    ("[variants]\nkmer_baseline = { protein = 'esm2_8m' }\n", "variants.kmer_baseline: … taken"),
    ("[encoders]\na = { like = 'kmer_dna' }\n", "encoders.a.like: … 'kmer_dna' is the composition of chunks"),
    ("[decision]\nkmer_baseline = 'fastesm2'\n", "decision.kmer_baseline: … 'kmer'"),
    ("[decision]\nbaseline = 'esm3_1b'\n", "no variant is called 'esm3_1b'; there are: … fastesm2"),
    ("[serving]\nvariant = 'esm3'\n", "serving.variant: … 'esm3' is none of the decision's variants"),
    # fine-tuning: of an ESM of proteins
    ("[finetuning]\nencoders = ['dnabert_s']\n", "finetuning.encoders: … , found dnabert_s"),
    (
        "[encoders]\nx = { hub = 'a/b', architecture = 'esm', alphabet = 'dna' }\n[finetuning]\nencoders = ['x']\n",
        "finetuning.encoders: … expected ESMs of proteins (fastesm2_650, ",
    ),
    (
        "[finetuning]\nencoders = ['esm2_8m', 'esm2_8m']\n",
        "finetuning.encoders: … expected each once, found esm2_8m, esm2_8m",
    ),
    # an existing VirNucPro, and a release of RefSeq, are named whole
    ("[virnucpro]\nmerged = 'x'\nmodel = 'y'\nchunk_length = 500\n", "virnucpro.dna_dim: … required"),
    (f"{VIRNUCPRO}chunk_length = 500\nprotein_encoder = 'dnabert_s'\n", "virnucpro.protein_encoder: … esm2_3b, "),
    ("[refseq]\nrelease = 230\nbase_url = 'ftp://x'\n", "refseq.base_url: … 'ftp://x'"),
    ("[refseq]\nrelease = 230\nfiles_per_directory = { plants = 3 }\n", "refseq.files_per_directory. … plants"),
    # where MLflow keeps its runs
    ("[tracking]\nuri = 'postgresql://me:secret@db/x'\n", "tracking: … uri holds a password"),
    ("[tracking]\nuri = 'http://m:1'\nartifacts = 'a'\n", "tracking: … remove artifacts"),
    # where the settings are stored is no setting
    ("root = '/tmp'\n", "root: … cannot be set"),
]


@pytest.mark.parametrize(("text", "words"), REFUSALS)
def test_a_refusal_names_file_key_and_value(tmp_path: Path, text: str, words: str) -> None:
    (line,), (where, found) = refusal(tmp_path, text), words.split("… ")
    assert line.startswith(where.rstrip()) and found in line


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    lines = refusal(tmp_path, "profil = 1\n[sequences]\nchunk_length = 1\nshard_chunks = 0\n[training]\nseed = 0.5\n")
    keys = sorted(line.partition(": ")[0] for line in lines)
    assert keys == ["profil", "sequences.chunk_length", "sequences.shard_chunks", "training.seed"]


@pytest.mark.parametrize("text", [b"profile = 'full\n", b"x = 1\nx = 2\n", "# für alle\n".encode("latin-1")])
def test_what_is_no_toml_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "virnuc.toml").write_bytes(text)
    with pytest.raises(SettingsError, match=re.escape(f"{tmp_path / 'virnuc.toml'}: not valid TOML: ")):
        load_settings(tmp_path)


def test_a_folder_that_is_no_project_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=re.escape(f"{tmp_path}: no project here") + ".*--project.*virnuc init"):
        load_settings(tmp_path)
    (path := tmp_path / "virnuc.toml").write_text("")
    with pytest.raises(SettingsError, match=re.escape(f"{path}: expected the folder of a project, found a file")):
        load_settings(path)
