import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from virnuc_assets.encoders.alphabet import LETTERS, check_alphabet
from virnuc_assets.encoders.golden import GOLDEN_FILE, TOLERANCE, GoldenError, check_golden, golden_digest, write_golden
from virnuc_assets.encoders.registry import Alphabet, Architecture
from virnuc_assets_tests.encoders.drawn import MINIATURES

MODELS: list[Architecture] = ["mosaic_bert", "esm"]


@pytest.fixture
def altered(tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], object]], Path]:
    """A copy of the golden file after a change."""

    def write(change: Callable[[dict[str, Any]], object]) -> Path:
        golden = json.loads(GOLDEN_FILE.read_text(encoding="utf-8"))
        change(golden)
        path = tmp_path / "golden.json"
        path.write_text(json.dumps(golden), encoding="utf-8")
        return path

    return write


def moved(golden: dict[str, Any], by: float) -> None:
    golden["vectors"]["esm2_650_miniature"]["repeat"][7] += by


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_this_installation_computes_the_golden_vectors(architecture: Architecture, device: str) -> None:
    assert check_golden(architecture, device) <= TOLERANCE


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", MODELS)
def test_a_gpu_computes_the_golden_vectors(architecture: Architecture) -> None:
    assert check_golden(architecture, "cuda") <= TOLERANCE


def test_composition_has_no_golden_vectors(tmp_path: Path) -> None:
    assert check_golden("kmer", "cpu", tmp_path / "absent.json") == 0.0


def test_every_miniature_has_a_vector_for_every_sequence_of_its_alphabet() -> None:
    golden = json.loads(GOLDEN_FILE.read_text(encoding="utf-8"))
    assert list(golden["vectors"]) == [spec.name for spec in MINIATURES]
    for spec in MINIATURES:
        assert golden["vectors"][spec.name].keys() == golden["sequences"][spec.alphabet].keys()
        assert len({len(vector) for vector in golden["vectors"][spec.name].values()}) == 1


@pytest.mark.parametrize(("alphabet", "longest"), [("dna", 499), ("protein", 600)])
def test_the_sequences_reach_the_ends(alphabet: Alphabet, longest: int) -> None:
    sequences = list(json.loads(GOLDEN_FILE.read_text(encoding="utf-8"))["sequences"][alphabet].values())
    check_alphabet(sequences, alphabet, "golden", None)
    assert set("".join(sequences)) == LETTERS[alphabet]
    assert min(map(len, sequences)) == 1 and max(map(len, sequences)) >= longest


def test_a_difference_is_refused_with_its_place_the_versions_and_the_remedy(
    altered: Callable[[Callable[[dict[str, Any]], object]], Path],
) -> None:
    def change(golden: dict[str, Any]) -> None:
        moved(golden, 3e-3)
        golden["versions"]["torch"] = "1.0.0"

    path = altered(change)
    with pytest.raises(GoldenError) as refused:
        check_golden("esm", "cpu", path)
    message = str(refused.value)
    assert f"esm: the golden vectors in {path} are not those that this installation computes" in message
    assert "sequence 'repeat' of esm2_650_miniature differs by 3.0e-03 on cpu, tolerated are 1e-05" in message
    assert f"installed: torch {version('torch').partition('+')[0]}, tokenizers {version('tokenizers')}" in message
    assert f"golden:    torch 1.0.0, tokenizers {version('tokenizers')}, numpy {version('numpy')}" in message
    assert "nothing was embedded" in message and "constraints.txt" in message
    assert "`python -m virnuc_assets.encoders.golden`" in message
    assert check_golden("mosaic_bert", "cpu", path) <= TOLERANCE


def test_a_missing_vector_is_refused(altered: Callable[[Callable[[dict[str, Any]], object]], Path]) -> None:
    path = altered(lambda golden: golden["vectors"]["dnabert_s_miniature"].pop("ambiguous"))
    with pytest.raises(GoldenError, match="sequence 'ambiguous' of dnabert_s_miniature differs by inf"):
        check_golden("mosaic_bert", "cpu", path)


@pytest.mark.parametrize("architecture", MODELS)
def test_a_library_that_computes_otherwise_is_caught(
    architecture: Architecture, monkeypatch: pytest.MonkeyPatch, altered: Callable[[Callable[[Any], object]], Path]
) -> None:
    path = altered(lambda golden: None)
    exact = torch.nn.functional.scaled_dot_product_attention

    def rounding(query: torch.Tensor, *others: Any, **options: Any) -> torch.Tensor:
        return exact(query.half().float(), *others, **options)

    with monkeypatch.context() as library:
        library.setattr(torch.nn.functional, "scaled_dot_product_attention", rounding)
        with pytest.raises(GoldenError, match=f"^{architecture}: "):
            check_golden(architecture, "cpu", path)
    assert check_golden(architecture, "cpu", path) <= TOLERANCE


def test_a_process_checks_once(altered: Callable[[Callable[[dict[str, Any]], object]], Path]) -> None:
    path = altered(lambda golden: None)
    first = check_golden("mosaic_bert", "cpu", path)
    path.unlink()
    assert check_golden("mosaic_bert", "cpu", path) == first


def test_a_golden_file_that_holds_is_left_alone(
    altered: Callable[[Callable[[dict[str, Any]], object]], Path],
) -> None:
    path = altered(lambda golden: golden["versions"].update(torch="1.0.0"))
    before = path.read_bytes()
    assert write_golden(path).size <= TOLERANCE
    assert path.read_bytes() == before


def test_a_golden_file_that_does_not_hold_is_written_anew(
    altered: Callable[[Callable[[dict[str, Any]], object]], Path],
) -> None:
    def change(golden: dict[str, Any]) -> None:
        moved(golden, -0.25)
        golden["versions"] = {}

    path = altered(change)
    found = write_golden(path)
    assert found == pytest.approx((0.25, "esm2_650_miniature", "repeat"), abs=TOLERANCE)
    assert check_golden("esm", "cpu", path) == check_golden("mosaic_bert", "cpu", path) == 0.0
    written, original = (json.loads(each.read_text(encoding="utf-8")) for each in (path, GOLDEN_FILE))
    assert written["sequences"] == original["sequences"] and list(written["versions"]) == [
        "torch",
        "tokenizers",
        "numpy",
    ]
    assert max(map(len, path.read_text(encoding="utf-8").splitlines())) < 2000  # one vector a line


def test_the_digest_is_the_files_and_loads_nothing_heavy() -> None:
    assert golden_digest() == hashlib.sha256(GOLDEN_FILE.read_bytes()).hexdigest()
    code = "import sys; from virnuc_assets.encoders.golden import golden_digest as d; print(d(), *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    digest, *modules = done.stdout.split()
    assert digest == golden_digest()
    assert {"torch", "tokenizers", "transformers"}.isdisjoint(modules)
