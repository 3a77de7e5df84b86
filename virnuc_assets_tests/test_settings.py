"""`virnuc.toml`: equal to the defaults of the models, and refused, with file, line and key, where it is wrong."""

import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from pydantic import ValidationError

from virnuc_assets.encoders.registry import ENCODERS, FINETUNED, Variant, all_encoders, all_variants
from virnuc_assets.settings import Settings
from virnuc_assets.settings_file import SettingsError, load_settings

PROJECT = Path(__file__).parents[1]
HEX = "0123456789abcdef0123456789abcdef01234567"


def load(folder: Path, text: str) -> Settings:
    (folder / "virnuc.toml").write_text(text, encoding="utf-8")
    return load_settings(folder / "virnuc.toml")


def refusal(folder: Path, text: str) -> list[str]:
    """The lines of the message, each without the path that it must begin with."""
    with pytest.raises(SettingsError) as caught:
        load(folder, text)
    lines = str(caught.value).splitlines()
    prefix = f"{folder / 'virnuc.toml'}:"
    assert all(line.startswith(prefix) for line in lines)
    return [line.removeprefix(prefix) for line in lines]


def test_the_projects_file_holds_the_defaults() -> None:
    assert load_settings(PROJECT / "virnuc.toml") == Settings(root=PROJECT)


def test_the_projects_file_shows_every_section() -> None:
    text = (PROJECT / "virnuc.toml").read_text(encoding="utf-8")
    assert set(re.findall(r"^(?:# )?\[(\w+)\]", text, re.MULTILINE)) == set(Settings.model_fields) - {"root", "profile"}


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Settings(root=tmp_path)


def test_what_is_written_is_taken_and_all_else_stays(tmp_path: Path) -> None:
    settings = load(tmp_path, 'profile = "full"\n[sequences]\nchunk_length = 300\n[decision]\nmin_speedup = 3\n')
    default = Settings(root=tmp_path)
    assert (settings.profile, settings.sequences.chunk_length, settings.decision.min_speedup) == ("full", 300, 3.0)
    assert settings.sequences.shard_chunks == default.sequences.shard_chunks
    assert settings.training == default.training


def test_paths_start_at_the_files_folder_unless_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "virnuc.toml").write_text('[paths]\ngenomes = "g"\nincoming = "/elsewhere"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    settings = load_settings(Path("virnuc.toml"))
    assert (settings.genomes, settings.incoming, settings.var) == (tmp_path / "g", Path("/elsewhere"), tmp_path / "var")


def test_settings_cannot_be_changed() -> None:
    settings = Settings(root=PROJECT)
    with pytest.raises(ValidationError):
        settings.profile = "full"
    with pytest.raises(ValidationError):
        settings.training.seed = 1


def test_catalogues_are_the_genomes_and_all_that_are_named(tmp_path: Path) -> None:
    assert load(tmp_path, "").catalogues == [tmp_path / "data/genomes"]
    named = load(tmp_path, "[paths]\ngenomes = 'g'\ncatalogues = ['mine', '/theirs', 'g']\n[refseq]\nrelease = 230\n")
    assert named.catalogues == [tmp_path / "g", tmp_path / "mine", Path("/theirs"), tmp_path / "data/refseq"]


def test_a_release_is_named_only_by_a_section(tmp_path: Path) -> None:
    assert load(tmp_path, "").refseq is None
    found = load(tmp_path, "[refseq]\nrelease = 230\n[refseq.files_per_directory]\nplant = 3\n").refseq
    assert found is not None
    assert (found.release, found.seed, found.files_per_directory) == (230, 42, {"plant": 3})


def test_the_profile_chooses_what_is_compared_unless_it_is_named(tmp_path: Path) -> None:
    def chosen(text: str) -> tuple[str, str, str]:
        found = load(tmp_path, text)
        return found.decision.candidate, found.decision.baseline, found.serving.variant

    assert chosen("profile = 'miniature'\n") == chosen("profile = 'full'\n") == ("fastesm2", "esm2_3b", "fastesm2")
    assert chosen("profile = 'laptop'\n") == ("esm2_8m", "esm2_35m", "esm2_8m")
    named = "profile = 'laptop'\n[decision]\ncandidate = 'kmer_esm2_8m'\n"
    assert chosen(named) == ("kmer_esm2_8m", "esm2_35m", "kmer_esm2_8m")
    assert chosen(f"{named}[serving]\nvariant = 'esm2_35m'\n") == ("kmer_esm2_8m", "esm2_35m", "esm2_35m")


def test_named_encoders_and_variants_stand_for_rows(tmp_path: Path) -> None:
    """Of the lines that docs/encoders.md shows, and of a variant on what is fine-tuned from an encoder of one's own."""
    settings = load(
        tmp_path,
        "[checkpoints]\nesm2_650 = { folder = '~/esm2' }\n"
        "[encoders]\nmine = { folder = 'models/mine', architecture = 'esm' }\n"
        "plain = { like = 'mine', token_dropout = false }\nesm2_3b = { max_length = 100 }\n"
        f"hub = {{ hub = 'a/b', revision = '{HEX}', architecture = 'mosaic_bert', pooling = 'residues' }}\n"
        "[finetuning]\nencoders = ['plain']\n"
        "[variants]\ntuned = { dna = 'hub', protein = 'finetuned_plain' }\n[decision]\nbeside = ['tuned']\n",
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


VIRNUCPRO = "[virnucpro]\nmerged = 'x'\nmodel = 'y'\ndna_dim = 768\n"


def test_an_existing_virnucpro_is_named_only_by_a_section(tmp_path: Path) -> None:
    assert load(tmp_path, "").virnucpro is None
    found = load(tmp_path, f"{VIRNUCPRO}chunk_length = 300\n").virnucpro
    assert found is not None
    assert (found.chunk_length, found.dna_dim, found.protein_encoder) == (300, 768, "esm2_3b")


@pytest.mark.parametrize(
    ("text", "where", "found"),
    [
        # unknown keys and sections
        ("# comment\n\nprofil = 'full'\n", "3: profil: ", "'full'"),
        ("[training]\nseed = 1\n\nlearning_rat = 0.1\n", "4: training.learning_rat: ", "0.1"),
        ("profile = 'full'\n\n[trainings]\nseed = 1\n", "3: trainings: ", "{'seed': 1}"),
        ("[paths]\nvar = 'x'\n[paths.more]\nseed = 1\n", "3: paths.more: ", "{'seed': 1}"),
        # the same key in two sections: the line is that of the wrong one
        ("[split]\nseed = 1\n[training]\nseed = 'one'\n", "4: training.seed: ", "'one'"),
        ("[training]\nseed = 1\n[split]\n# seed = 2\n  seed   =   'two'\n", "5: split.seed: ", "'two'"),
        # values that are impossible
        ("[sequences]\n\nchunk_length = 400\n", "3: sequences.chunk_length: ", "400"),
        ("[sequences]\nshard_chunks = 0\n", "2: sequences.shard_chunks: ", "0"),
        ("[sequences]\nshard_chunks = 500001\n", "2: sequences.shard_chunks: ", "500001"),
        ("profile = 'large'\n", "1: profile: ", "'large'"),
        ("[encoding]\nprecision = 'fp8'\n", "2: encoding.precision: ", "'fp8'"),
        ("[encoding]\ndevice = 'tpu'\n", "2: encoding.device: ", "'tpu'"),
        ("[split]\ntest_fraction = 0.0\n", "2: split.test_fraction: ", "0.0"),
        ("[split]\nvalidation_fraction = 1.0\n", "2: split.validation_fraction: ", "1.0"),
        ("[split]\ncontainment_threshold = 1.5\n", "2: split.containment_threshold: ", "1.5"),
        ("[training]\ndropout = 1.0\n", "2: training.dropout: ", "1.0"),
        ("[training]\nmomentum = 1.0\n", "2: training.momentum: ", "1.0"),
        ("[training]\nlearning_rate = 0.0\n", "2: training.learning_rate: ", "0.0"),
        ("[training]\nlearning_rate = nan\n", "2: training.learning_rate: ", "nan"),
        ("[training]\nbatch_rows = 1\n", "2: training.batch_rows: ", "1"),
        ("[training]\npatience = 0\n", "2: training.patience: ", "0"),
        ("[decision]\nmax_f1_drop = 1.1\n", "2: decision.max_f1_drop: ", "1.1"),
        ("[decision]\nmax_accuracy_drop = nan\n", "2: decision.max_accuracy_drop: ", "nan"),
        ("[decision]\nconfidence = 95.0\n", "2: decision.confidence: ", "95.0"),
        ("[decision]\nbootstrap_rounds = 10\n", "2: decision.bootstrap_rounds: ", "10"),
        ("[decision]\nbaseline = 'esm3_1b'\n", "2: decision.baseline: ", "'esm3_1b'"),
        ("[serving]\nvariant = 'esm3'\n", "2: serving.variant: ", "'esm3'"),
        ("[servers]\nmlflow_port = 70000\n", "2: servers.mlflow_port: ", "70000"),
        # checkpoints: encoders of the hub, each from one place
        (f"[checkpoints.esm3]\nrevision = '{HEX}'\n", "1: checkpoints.esm3: ", "fastesm2_650, "),
        (f"[checkpoints]\nkmer_dna = {{ revision = '{HEX}' }}\n", "2: checkpoints.kmer_dna: ", "dnabert_s, "),
        ("[checkpoints.esm2_3b]\nrevision = 'main'\n", "2: checkpoints.esm2_3b.revision: ", "'main'"),
        ("[checkpoints.esm2_3b]\nfolder = 'x'\n\ndigest = 'x'\n", "4: checkpoints.esm2_3b.digest: ", "'x'"),
        ("[checkpoints.esm2_3b]\nfolder = ''\n", "2: checkpoints.esm2_3b.folder: ", "''"),
        ("\n[checkpoints.esm2_3b]\n", "2: checkpoints.esm2_3b: ", "one of folder, file, or a revision"),
        (
            f"[checkpoints.esm2_3b]\nfolder = 'x'\nrevision = '{HEX}'\n",
            "1: checkpoints.esm2_3b: ",
            "one of folder, file",
        ),
        ("[checkpoints.esm2_3b]\nfile = 'x.bin'\n", "2: checkpoints.esm2_3b.file: ", "'x.bin'"),
        ("[checkpoints.esm2_3b]\nfolders = 'x'\n", "2: checkpoints.esm2_3b.folders: ", "'x'"),
        # encoders of one's own: from one place, under a name that is free
        ("[encoders]\nMine = { like = 'esm2_8m' }\n", "2: encoders.Mine: ", "'Mine'"),
        ("[encoders.mine]\nfolder = 'x'\n", "1: encoders.mine: ", "expected architecture"),
        ("[encoders.mine]\narchitecture = 'esm'\n", "1: encoders.mine: ", "either hub (owner/name) or folder"),
        ("[encoders.mine]\narchitecture = 't5'\n", "2: encoders.mine.architecture: ", "'t5'"),
        ("[encoders.mine]\narchitecture = 'esm'\nhub = 'a'\n", "3: encoders.mine.hub: ", "'a'"),
        (
            f"\n[encoders.mine]\narchitecture = 'esm'\nfolder = 'x'\nrevision = '{HEX}'\n",
            "2: encoders.mine: ",
            "belongs to a repository",
        ),
        (
            "[encoders.mine]\narchitecture = 'mosaic_bert'\nfolder = 'x'\ntoken_dropout = true\n",
            "1: encoders.mine: ",
            "a setting of ESM",
        ),
        ("[encoders.esm2_8m]\npooling = 'tokens'\nfolder = 'x'\n", "1: encoders.esm2_8m: ", "folder cannot be set"),
        ("[encoders]\nkmer_dna = { like = 'esm2_8m' }\n", "2: encoders.kmer_dna: ", "taken"),
        ("[encoders]\nfinetuned_x = { like = 'esm2_8m' }\n", "2: encoders.finetuned_x: ", "taken"),
        ("[encoders]\na = { like = 'b' }\nb = { like = 'esm2_8m' }\n", "2: encoders.a: ", "'b' is no encoder above"),
        ("[encoders]\na = { like = 'esm2_8m', folder = 'x' }\n", "2: encoders.a: ", "says already what folder is"),
        # variants: an encoder for each side, under a name that is free
        ("[variants]\nx = { protein = 'esm3' }\n", "2: variants.x.protein: ", "'esm3' is no protein encoder"),
        ("[variants.x]\ndna = 'esm2_8m'\nprotein = 'esm2_8m'\n", "2: variants.x.dna: ", "'esm2_8m' is no dna encoder"),
        ("[variants]\nx = { protein = 'finetuned_esm2_8m' }\n", "2: variants.x.protein: ", "no protein encoder"),
        ("[variants]\nx = { dna = 'dnabert_s' }\n", "2: variants.x.protein: ", "required"),
        ("[variants]\nkmer = { protein = 'esm2_8m' }\n", "2: variants.kmer: ", "taken"),
        ("[variants]\nfloor = { protein = 'esm2_8m' }\n", "2: variants.floor: ", "taken"),
        ("[decision]\nbeside = ['mine']\n", "2: decision.beside: ", "'mine' is no variant"),
        # fine-tuning: of an ESM of proteins
        ("[finetuning]\nencoders = ['dnabert_s']\n", "2: finetuning.encoders: ", "'dnabert_s' is no ESM of proteins"),
        (
            "[encoders]\nx = { hub = 'a/b', architecture = 'esm', alphabet = 'dna' }\n[finetuning]\nencoders = ['x']\n",
            "4: finetuning.encoders: ",
            "'x' is no ESM of proteins",
        ),
        ("[finetuning]\nencoders = ['finetuned_esm2_8m']\n", "2: finetuning.encoders: ", "no ESM of proteins"),
        ("[finetuning]\nencoders = ['esm2_8m', 'esm2_8m']\n", "2: finetuning.encoders: ", "each encoder once"),
        ("[finetuning]\ntarget_modules = ['query', 'lm_head']\n", "2: finetuning.target_modules", "'lm_head'"),
        ("[finetuning]\nobjective = 'contrastive'\n", "2: finetuning.objective: ", "'contrastive'"),
        # an existing VirNucPro is named whole
        ("\n[virnucpro]\nmerged = 'x'\nmodel = 'y'\nchunk_length = 500\n", "2: virnucpro.dna_dim: ", "required"),
        (f"{VIRNUCPRO}chunk_length = 400\n", "5: virnucpro.chunk_length: ", "400"),
        (
            f"{VIRNUCPRO}chunk_length = 500\nprotein_encoder = 'dnabert_s'\n",
            "6: virnucpro.protein_encoder: ",
            "esm2_3b, ",
        ),
        # a release of RefSeq is named by its number
        ("\n[refseq]\nseed = 1\n", "2: refseq.release: ", "required"),
        ("[refseq]\nrelease = '230'\n", "2: refseq.release: ", "'230'"),
        ("[refseq]\nrelease = 230\nbase_url = 'ftp://x'\n", "3: refseq.base_url: ", "'ftp://x'"),
        (
            "[refseq]\nrelease = 230\n[refseq.files_per_directory]\nplants = 3\n",
            "4: refseq.files_per_directory.",
            "plants",
        ),
        ("[refseq]\nrelease = 230\n[refseq.files_per_directory]\nplant = -1\n", "4: refseq.files_per_directory.", "-1"),
        ("[paths]\ncatalogues = ['']\n", "2: paths.catalogues", "''"),
        # wrong types: nothing is turned into a number
        ("[sequences]\nchunk_length = '500'\n", "2: sequences.chunk_length: ", "'500'"),
        ("[sequences]\nshard_chunks = 10.0\n", "2: sequences.shard_chunks: ", "10.0"),
        ("[training]\nseed = true\n", "2: training.seed: ", "True"),
        ("[training]\ndropout = '0.5'\n", "2: training.dropout: ", "'0.5'"),
        ("[paths]\nvar = ['a']\n", "2: paths.var: ", "['a']"),
        ("profile = 1\n", "1: profile: ", "1"),
        ("# a section must be a table\nsequences = 500\n", "2: sequences: ", "500"),
        # two that do not go together are named at their section
        ("\n[split]\nvalidation_fraction = 0.5\ntest_fraction = 0.5\n", "2: split: ", "below 1"),
        ("\n\n[decision]\ncandidate = 'kmer'\n", "3: decision: ", "different"),
        # what is held out of a split
        ("[split]\nby = 'date'\n", "2: split.by: ", "'date'"),
        ("[split]\nby = 'time'\ntest_from = '2021-01-01'\n", "3: split.test_from: ", "'2021-01-01'"),
        ("[split]\nby = 'time'\n", "1: split: ", "test_from (a date, YYYY-MM-DD without quotes) goes with"),
        ("[split]\ntest_from = 2021-01-01\n", "1: split: ", "goes with by = 'time', and only with it"),
        ("[split]\nby = 'groups'\n", "1: split: ", "test_groups (names of the catalogue) goes with"),
        ("[split]\ntest_groups = ['dengue']\n", "1: split: ", "goes with by = 'groups', and only with it"),
        ("[split]\nprotein_similarity = 'blast'\n", "2: split.protein_similarity: ", "'blast'"),
        ("[split]\nprotein_min_coverage = 0.0\n", "2: split.protein_min_coverage: ", "0.0"),
        # where the settings lie is no setting
        ("\nroot = '/tmp'\n", "2: root: ", "cannot be set"),
        ("\n\n[root]\nx = 1\n", "3: root: ", "cannot be set"),
    ],
)
def test_a_refusal_names_file_line_key_and_value(tmp_path: Path, text: str, where: str, found: str) -> None:
    (line,) = refusal(tmp_path, text)
    assert line.startswith(where)
    assert found in line


def test_what_is_held_out_is_a_date_or_names(tmp_path: Path) -> None:
    split = load(tmp_path, "[split]\nby = 'time'\ntest_from = 2021-03-31\n").split
    assert (split.by, split.test_from) == ("time", date(2021, 3, 31))
    split = load(tmp_path, "[split]\nby = 'groups'\ntest_groups = ['-ssRNA', 'dengue']\n").split
    assert (split.by, split.test_groups) == ("groups", ["-ssRNA", "dengue"])


@pytest.mark.parametrize(("value", "found"), [("-1", "-1"), ("0", "0"), ("'fitted'", "'fitted'"), ("1.5", "1.5")])
def test_a_token_budget_is_a_count_or_auto(tmp_path: Path, value: str, found: str) -> None:
    lines = refusal(tmp_path, f"[encoding]\ntoken_budget = {value}\n")
    assert all(line.startswith("2: encoding.token_budget") and found in line for line in lines)
    for accepted in (1, "auto"):
        text = f"[encoding]\ntoken_budget = {accepted!r}\nprecision = 'bf16'\n"
        encoding = load(tmp_path, text).encoding
        assert (encoding.token_budget, encoding.precision) == (accepted, "bf16")


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    lines = refusal(tmp_path, "profil = 1\n[sequences]\nchunk_length = 1\nshard_chunks = 0\n[training]\nseed = 0.5\n")
    assert sorted(line.split(" ")[0] + line.split(" ")[1] for line in lines) == [
        "1:profil:",
        "3:sequences.chunk_length:",
        "4:sequences.shard_chunks:",
        "6:training.seed:",
    ]


@pytest.mark.parametrize("text", ["profile = 'full\n", "[sequences\n", "x = 1\nx = 2\n", "\ufeffprofile = 'full'\n"])
def test_what_is_no_toml_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    (line,) = refusal(tmp_path, text)
    assert line.startswith(" not valid TOML: ")
    assert re.search(r"at line \d|at end of document", line)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "virnuc.toml", tmp_path):
        with pytest.raises(SettingsError, match="not found") as caught:
            load_settings(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[training]\nlearning_rate = inf\n", "2: training.learning_rate: "),
        ("[decision]\nmin_speedup = inf\n", "2: decision.min_speedup: "),
        ("[decision]\nmax_memory_ratio = inf\n", "2: decision.max_memory_ratio: "),
        ("[split]\nseed = -1\n", "2: split.seed: "),
        ("[decision]\nseed = -1\n", "2: decision.seed: "),
        ("[servers]\ndagster_port = 4000\nmlflow_port = 4000\n", "1: servers: "),
        ("[paths]\nvar = ''\n", "2: paths.var: "),
    ],
)
def test_impossible_values_that_are_accepted(tmp_path: Path, text: str, where: str) -> None:
    (line,) = refusal(tmp_path, text)
    assert line.startswith(where)


@pytest.mark.parametrize(
    "text",
    [
        "\n\nsequences.chunk_length = 400\n",
        "\n\nsequences = { chunk_length = 400 }\n",
        "\n\n[sequences] # how records become chunks\nshard_chunks = 1\n\n[training]\n[[sequences.chunk_length]]\n",
    ],
    ids=["dotted key", "inline table", "array of tables"],
)
def test_the_line_of_other_spellings(tmp_path: Path, text: str) -> None:
    number = 1 + next(n for n, line in enumerate(text.splitlines()) if "chunk_length" in line)
    (line,) = refusal(tmp_path, text)
    assert line.startswith(f"{number}: sequences.chunk_length: ")


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "virnuc.toml").write_bytes("# für alle\n".encode("latin-1"))
    with pytest.raises(SettingsError, match=str(tmp_path)):
        load_settings(tmp_path / "virnuc.toml")
