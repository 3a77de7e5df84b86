import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from virnuc_assets.encoders.golden import GOLDEN_FILE, TOLERANCE, GoldenError, check_golden, load_for_run
from virnuc_assets.encoders.registry import ALPHABET, ENCODERS, Alphabet, Architecture, check_alphabet
from virnuc_assets.settings import EncodingSettings
from virnuc_assets_tests.encoders.write_golden import write_golden

MODELS: list[Architecture] = ["mosaic_bert", "esm"]
STORED = json.loads(GOLDEN_FILE.read_text(encoding="utf-8"))


def moved(path: Path, by: float) -> Path:
    """A copy of the golden file in which an ESM has another number, by another torch."""
    golden = json.loads(GOLDEN_FILE.read_text(encoding="utf-8"))
    golden["vectors"]["esm2_650_miniature"]["repeat"][7] += by
    golden["versions"]["torch"] = "1.0.0"
    path.write_text(json.dumps(golden), encoding="utf-8")
    return path


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("device", ["auto", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_this_installation_computes_the_golden_vectors(architecture: Architecture, device: str) -> None:
    assert check_golden(architecture, device) <= TOLERANCE


@pytest.mark.parametrize(("alphabet", "longest", "absent"), [("dna", 499, ""), ("protein", 600, "J")])
def test_the_sequences_reach_the_ends_and_each_has_a_vector(alphabet: Alphabet, longest: int, absent: str) -> None:
    sequences = STORED["sequences"][alphabet]
    check_alphabet(list(sequences.values()), alphabet, "golden", list(sequences))
    assert set("".join(sequences.values())) == ALPHABET[alphabet] - set(absent)  # X is its unknown residue
    assert min(map(len, sequences.values())) == 1 and max(map(len, sequences.values())) >= longest
    of = [vectors for name, vectors in STORED["vectors"].items() if ENCODERS[name].alphabet == alphabet]
    assert of and all(vectors.keys() == sequences.keys() for vectors in of)


def test_a_difference_is_refused_with_its_place_the_versions_and_the_remedy(tmp_path: Path) -> None:
    path = moved(tmp_path / "golden.json", 3e-3)
    with pytest.raises(GoldenError) as refused:
        check_golden("esm", "cpu", path)
    message = str(refused.value)
    assert f"esm: the golden vectors in {path} are not those that this installation computes" in message
    place = "difference is 3.0e-03 (sequence 'repeat' of esm2_650_miniature on cpu), accepted is 1e-05"
    assert place in message and re.search(r"Written by \W*torch\W+1\.0\.0\b", message)
    torch_version = version("torch").partition("+")[0]
    assert re.search(rf"are \W*torch\W+{torch_version}\W+transformers\W+{version('transformers')}\W", message)
    assert "Install those versions" in message and "`python -m virnuc_assets_tests.encoders.write_golden`" in message
    assert check_golden("mosaic_bert", "cpu", path) <= TOLERANCE


def test_a_run_loads_no_encoder_where_the_numbers_differ(monkeypatch: pytest.MonkeyPatch, checkpoints: Path) -> None:
    spec = ENCODERS["esm2_650_miniature"]
    assert load_for_run(spec, checkpoints, EncodingSettings(device="cpu")).dim == 40
    check_golden.cache_clear()
    exact = torch.nn.functional.scaled_dot_product_attention

    def rounding(query: torch.Tensor, *others: Any, **options: Any) -> torch.Tensor:
        return exact(query.half().float(), *others, **options)

    with monkeypatch.context() as library:
        library.setattr(torch.nn.functional, "scaled_dot_product_attention", rounding)
        for name, architecture in (("esm2_650_miniature", "esm"), ("dnabert_s_miniature", "mosaic_bert")):
            with pytest.raises(GoldenError, match=f"^{architecture}: "):
                load_for_run(ENCODERS[name], checkpoints, EncodingSettings(device="cpu"))
    assert check_golden("esm", "cpu") <= TOLERANCE


def test_a_golden_file_that_does_not_hold_is_written_again(tmp_path: Path) -> None:
    path = moved(tmp_path / "golden.json", -0.25)
    assert write_golden(path) == pytest.approx(0.25, abs=TOLERANCE)
    assert check_golden("esm", "cpu", path) == check_golden("mosaic_bert", "cpu", path) == 0.0
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["sequences"] == STORED["sequences"]
    assert list(written["versions"]) == ["torch", "transformers", "tokenizers", "numpy"]
