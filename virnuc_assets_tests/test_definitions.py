"""The graph as it loads: which assets there are, what each shows of itself, and where the language models run."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from virnuc_assets.definitions import build_defs, warn_of_an_empty_instance
from virnuc_assets.settings import Profile, RefseqSettings, ServingSettings, Settings
from virnuc_assets.workstation.setup import dagster_home

PER_SHARD = {
    "shards",
    "chunked_fasta",
    "translated_proteins",
    "dnabert_s_embeddings",
    "fastesm2_650_embeddings",
    "esm2_3b_embeddings",
    "fastesm2_features",
    "esm2_3b_features",
}
WHOLE = {
    "reference_ledger",
    "train_test_split",
    *(f"{variant}_{stage}" for variant in ("fastesm2", "esm2_3b", "kmer") for stage in ("classifier", "evaluation")),
    "ablations",
    "frame_rules",
    "encoder_benchmark",
    "migration_decision",
}
EXPECTED = {
    *(f"{domain}/{asset}" for domain in ("reference", "samples") for asset in ("shard_plan", *PER_SHARD)),
    "reference/kmer_features",
    *WHOLE,
    "samples/predictions",
    "samples/report",
}
LANGUAGE_MODELS = {
    f"{domain}/{name}_embeddings"
    for domain in ("reference", "samples")
    for name in ("dnabert_s", "fastesm2_650", "esm2_3b")
}
ON_DEVICE = LANGUAGE_MODELS | {"encoder_benchmark"}


REFSEQ = dg.AssetKey(["reference", "refseq_release"])


def graph_of(profile: Profile, root: Path = Path("nowhere")) -> dg.Definitions:
    return build_defs(Settings.model_validate({"root": root, "profile": profile, "serving": {"variant": "fastesm2"}}))


@pytest.fixture(scope="module")
def defs() -> dg.Definitions:
    return graph_of("miniature")


def specs(defs: dg.Definitions) -> Iterator[tuple[str, dg.AssetSpec]]:
    for spec in defs.resolve_all_asset_specs():
        yield spec.key.to_user_string(), spec


def shape(defs: dg.Definitions) -> dict[str, tuple[object, ...]]:
    """What a person sees of the graph: edges, partitions, group, pool and checks of every asset."""
    graph = defs.resolve_asset_graph()
    found = {}
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        partitions = (
            node.partitions_def.name if isinstance(node.partitions_def, dg.DynamicPartitionsDefinition) else None
        )
        checks = {check.name for check in node.check_keys}
        found[key.to_user_string()] = (node.parent_keys, partitions, node.group_name, node.pools, checks, node.kinds)
    return found


def test_the_graph_has_exactly_the_assets_of_the_design(defs: dg.Definitions) -> None:
    assert {key for key, _ in specs(defs)} == EXPECTED


def test_every_asset_is_described(defs: dg.Definitions) -> None:
    lacking = {
        key: missing
        for key, spec in specs(defs)
        if (
            missing := [
                name
                for name in ("description", "group_name", "owners", "kinds", "code_version")
                if not getattr(spec, name) or spec.group_name == "default"
            ]
        )
    }
    assert lacking == dict.fromkeys(("reference/shards", "samples/shards"), ["code_version"])  # no code makes them
    # Markdown shows an indented line as code.
    assert [key for key, spec in specs(defs) if "\n    " in str(spec.description)] == []


def test_every_asset_says_what_to_do_when_its_check_fails(defs: dg.Definitions) -> None:
    """In a paragraph of its own, or at the end of one: `If its check fails, materialize ...`."""
    optional = Settings.model_validate(
        {
            "root": Path("nowhere"),
            "profile": "full",
            "refseq": {"release": 230},
            "finetuning": {"encoders": ["fastesm2_650"]},
            "virnucpro": {"merged": "merged", "model": "500_model.pth", "chunk_length": 500, "dna_dim": 48},
        }
    )
    found = {key: str(spec.description) for graph in (defs, build_defs(optional)) for key, spec in specs(graph)}
    assert len(found) == len(EXPECTED) + 5
    remedy = re.compile(r"(?:^|[.:)]\s+)If (?:it|its check|a check|[a-z]+_evaluation) (?:fails|is refused)\b[^.]+\.")
    assert [key for key, text in found.items() if not remedy.search(text)] == []
    short = {key: text for key, text in found.items() if len(re.findall(r"[.:;]\s|\.$", text)) < 2}
    assert short == {}


def test_every_asset_has_a_check_and_every_check_says_what_passes(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    described = {check.name: graph.get_check_spec(check).description for check in graph.asset_check_keys}
    assert described
    assert [name for name, text in described.items() if not text] == []
    assert [key for key, (*_, checks, _) in shape(defs).items() if not checks] == []


def test_the_pool_of_the_gpu_holds_the_language_models_and_nothing_else(defs: dg.Definitions) -> None:
    pooled = {key: pools for key, (_, _, _, pools, *_) in shape(defs).items() if pools}
    assert pooled == {**dict.fromkeys(ON_DEVICE, {"gpu"}), "samples/shard_plan": {"plan_samples"}}


def test_the_graph_is_the_same_in_both_profiles(defs: dg.Definitions) -> None:
    """The full profile is built where none of its checkpoints are."""
    assert shape(graph_of("full")) == shape(defs)


def test_another_encoder_is_another_code_version(defs: dg.Definitions) -> None:
    miniature = {key: spec.code_version for key, spec in specs(defs)}
    full = {key: spec.code_version for key, spec in specs(graph_of("full"))}
    of_vectors = {"fastesm2_classifier", "esm2_3b_classifier", "ablations", "encoder_benchmark"}
    assert {key for key in EXPECTED if miniature[key] != full[key]} == LANGUAGE_MODELS | of_vectors
    assert len({miniature[key] for key in LANGUAGE_MODELS}) == 3


def test_another_shortest_stretch_is_another_version_of_all_that_finds_stretches() -> None:
    versions = [
        {key: spec.code_version for key, spec in specs(build_defs(Settings.model_validate({**root, **more})))}
        for root in [{"root": Path("nowhere")}]
        for more in ({}, {"sequences": {"min_orf_aa": 40}})
    ]
    changed = {key for key in versions[0] if versions[0][key] != versions[1][key]}
    features = {f"{domain}/kmer_features" for domain in ("reference", "samples")}
    assert changed == {*features, "samples/translated_proteins", "kmer_classifier", "frame_rules"}


def test_shards_and_samples_are_separate_partition_sets(defs: dg.Definitions) -> None:
    partitions = {key: name for key, (_, name, *_) in shape(defs).items()}
    sets = {"reference": "reference_shards", "samples": "samples"}
    whole = {"reference/shard_plan", "samples/shard_plan"}
    assert partitions == {key: None if key in whole else sets.get(key.split("/")[0]) for key in EXPECTED}


def selected(defs: dg.Definitions, job: str) -> set[str]:
    return {key.to_user_string() for key in defs.resolve_job_def(job).asset_layer.executable_asset_keys}


def test_definitions_are_valid_and_each_job_does_its_phase(defs: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(defs)
    own = {job.name for job in defs.resolve_all_job_defs() if not job.name.startswith("__")}
    made = EXPECTED - {"reference/shards", "samples/shards"}
    planned, on_demand = {"reference/shard_plan", "samples/shard_plan"}, {"esm2_3b_embeddings", "esm2_3b_features"}
    of_samples = {f"samples/{name}" for name in on_demand}
    assert {job: selected(defs, job) for job in own if not job.startswith("embed_reference_by_")} == {
        "plan_reference": {"reference/shard_plan"},
        "embed_reference": {key for key in made if key.startswith("reference/")} - planned,
        "train_and_decide": WHOLE,
        "decide": {"migration_decision"},
        "plan_samples": {"samples/shard_plan"},
        "predict_samples": {key for key in made if key.startswith("samples/")} - planned - of_samples,
        "embed_samples_for_other_variant": of_samples,
        "check_environment": set(),
    }
    by_encoder = {job.removeprefix("embed_reference_by_"): selected(defs, job) for job in own if "_by_" in job}
    features = {"dnabert_s": ["fastesm2", "esm2_3b"], "fastesm2_650": ["fastesm2"], "esm2_3b": ["esm2_3b"]}
    assert by_encoder == {
        encoder: {f"reference/{encoder}_embeddings", *(f"reference/{variant}_features" for variant in variants)}
        for encoder, variants in features.items()
    }


def test_the_k_mer_baseline_serves_where_the_encoders_are_miniatures() -> None:
    found = selected(build_defs(Settings(root=Path("nowhere"))), "predict_samples")
    stages = ("chunked_fasta", "translated_proteins", "kmer_features", "predictions", "report")
    assert found == {f"samples/{stage}" for stage in stages}


def test_samples_are_embedded_for_the_variant_that_serves() -> None:
    serving = build_defs(Settings.model_validate({"root": Path("nowhere"), "serving": {"variant": "esm2_3b"}}))
    found = selected(serving, "predict_samples")
    assert {"samples/esm2_3b_embeddings", "samples/esm2_3b_features"} <= found
    assert "samples/fastesm2_650_embeddings" not in found


def test_all_that_starts_by_itself_is_on_but_the_training(defs: dg.Definitions) -> None:
    """A new classifier calls all later samples: that is a person's choice."""
    found = {sensor.name: sensor.default_status.value for sensor in defs.get_repository_def().sensor_defs}
    assert found.pop("lost_runs", "RUNNING") == "RUNNING"  # where Slurm's commands are
    on = ("incoming_samples", "sample_stages", "reference_stages", "decision")
    assert found == {**dict.fromkeys(on, "RUNNING"), "retraining": "STOPPED"}
    assert defs.get_repository_def().schedule_defs == []


def test_a_refseq_section_adds_the_release_before_the_plan(defs: dg.Definitions) -> None:
    serving, refseq = ServingSettings(variant="fastesm2"), RefseqSettings(release=230)
    more = build_defs(Settings(root=Path("nowhere"), serving=serving, refseq=refseq))
    before, after = shape(defs), shape(more)
    parents, _, group, pools, checks, kinds = after.pop("reference/refseq_release")
    assert (parents, group, pools, kinds) == (set(), "sources", set(), {"fasta", "genbank"})
    assert checks == {"downloaded_files_match_checksums"}
    plan = after.pop("reference/shard_plan")
    assert plan == ({REFSEQ}, *before.pop("reference/shard_plan")[1:])
    assert after == before
    jobs = {job.name for job in more.resolve_all_job_defs() if REFSEQ in job.asset_layer.selected_asset_keys}
    assert {name for name in jobs if not name.startswith("__")} == {"fetch_refseq"}
    (spec,) = (spec for key, spec in specs(more) if key == "reference/refseq_release")
    assert all((spec.description, spec.owners, spec.kinds, spec.code_version))


def test_building_writes_nothing(tmp_path: Path) -> None:
    graph_of("miniature", tmp_path).resolve_asset_graph()
    assert list(tmp_path.iterdir()) == []


def test_dagster_without_its_home_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in a fresh clone, where nothing was made yet."""
    settings = Settings(root=tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    warn_of_an_empty_instance(settings)
    home = dagster_home(settings)
    home.mkdir(parents=True)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    warn_of_an_empty_instance(settings)
    assert caplog.messages == []
    monkeypatch.delenv("DAGSTER_HOME")
    warn_of_an_empty_instance(settings)
    (text,) = caplog.messages
    assert text.startswith("DAGSTER_HOME is not set: Dagster shows an empty, temporary instance")
    assert text.endswith(f"Use `virnuc up`, or set DAGSTER_HOME={home}")


HEAVY = ["torch", "transformers", "mlflow", "sklearn", "sourmash", "matplotlib", "tokenizers", "peft", "pandas"]
MAX_RATIO = 3.5  # it is 2.1; torch adds 2.2
LOAD = f"""
import json, sys, time
import dagster
alone = time.process_time()
from pathlib import Path
from virnuc_assets import definitions
from virnuc_assets.settings import load_settings
definitions.build_defs(load_settings(Path())).get_repository_def()
print(json.dumps([time.process_time() / alone, [name for name in {HEAVY} if name in sys.modules]]))
"""


def test_a_fresh_process_loads_the_graph_light_and_fast(project_root: Path) -> None:
    """Compared with the import of dagster alone, by processor time: a busy machine changes neither."""
    ratios = []
    while not ratios or (min(ratios) >= MAX_RATIO and len(ratios) < 3):
        done = subprocess.run(
            [sys.executable, "-c", LOAD], cwd=project_root, capture_output=True, text=True, check=True
        )
        ratio, heavy = json.loads(done.stdout.splitlines()[-1])
        assert heavy == []
        ratios.append(ratio)
    assert min(ratios) < MAX_RATIO
