import subprocess
import sys

import pytest

from virnuc_assets.encoders.registry import VARIANTS, ENCODERS, PROFILES, encoder_for, encoder_named
from virnuc_assets.errors import VirnucError


def test_both_profiles_fill_the_same_slots_and_every_variant() -> None:
    assert set(PROFILES["miniature"]) == set(PROFILES["full"])
    for variant in VARIANTS.values():
        for profile in PROFILES:
            assert encoder_for(profile, variant.dna).alphabet == "dna"
            assert encoder_for(profile, variant.protein).alphabet == "protein"


def test_a_miniature_differs_from_its_original_only_in_its_weights() -> None:
    for name in ("dnabert_s", "fastesm2_650", "esm2_650", "esm2_3b"):
        full, miniature = ENCODERS[name], ENCODERS[f"{name}_miniature"]
        same = ("alphabet", "architecture", "pooling", "max_length")
        assert [getattr(full, field) for field in same] == [getattr(miniature, field) for field in same]


def test_every_pin_is_a_full_commit() -> None:
    pins = {spec.name: spec.revision for spec in ENCODERS.values() if "/" in spec.checkpoint}
    assert set(pins) == {"dnabert_s", "fastesm2_650", "esm2_650", "esm2_3b"}
    for revision in pins.values():
        assert revision == "" or (len(revision) == 40 and set(revision) <= set("0123456789abcdef"))


def test_unknown_names_list_what_exists() -> None:
    with pytest.raises(VirnucError, match="no profile is called 'tiny'; there are: full, miniature"):
        encoder_for("tiny", "dnabert_s")
    with pytest.raises(VirnucError, match="no encoder slot is called 'esm3'.*dnabert_s, esm2_3b, esm2_650, fastesm2"):
        encoder_for("full", "esm3")
    with pytest.raises(VirnucError, match="no encoder is called 'esm3'.*fastesm2_650_miniature"):
        encoder_named("esm3")


def test_registry_fingerprint_checkpoints_and_benchmark_are_light() -> None:
    modules = ("registry", "fingerprint", "checkpoints", "benchmark", "alphabet")
    code = "import sys\n" + "".join(f"import virnuc_assets.encoders.{module}\n" for module in modules)
    code += "heavy = {'torch', 'transformers', 'tokenizers', 'huggingface_hub', 'safetensors'} & set(sys.modules)\n"
    code += "sys.exit(', '.join(sorted(heavy)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stderr.strip(), done.returncode) == ("", 0)
