from dataclasses import replace
from pathlib import Path

import pytest

from virnuc_assets.encoders.checkpoints import CheckpointMissingError, checkpoint_folder, fetch_checkpoint
from virnuc_assets.encoders.registry import ENCODERS


def test_a_miniature_that_is_not_written_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointMissingError, match="esm2_3b_miniature: no checkpoint in .*run `virnuc setup --encoder "
    ):
        checkpoint_folder(ENCODERS["esm2_3b_miniature"], tmp_path)


def test_a_written_miniature_is_found(checkpoints: Path) -> None:
    spec = ENCODERS["esm2_3b_miniature"]
    assert (
        checkpoint_folder(spec, checkpoints) == checkpoints / "esm2_3b_miniature" == fetch_checkpoint(spec, checkpoints)
    )


def test_kmers_need_none(tmp_path: Path) -> None:
    assert checkpoint_folder(ENCODERS["kmer_dna"], tmp_path) is None
    assert fetch_checkpoint(ENCODERS["kmer_dna"], tmp_path) is None


def test_a_hub_checkpoint_without_a_pin_is_refused_before_the_network_is_touched(tmp_path: Path) -> None:
    spec = replace(ENCODERS["fastesm2_650"], revision="")
    for get in (checkpoint_folder, fetch_checkpoint):
        with pytest.raises(CheckpointMissingError, match="no pinned revision of Synthyra/FastESM2_650.*registry.py"):
            get(spec, tmp_path)


def test_a_pinned_checkpoint_that_is_not_cached_names_the_remedy(tmp_path: Path) -> None:
    spec = replace(ENCODERS["esm2_650"], checkpoint="nobody/has-this", revision="0" * 40)
    with pytest.raises(CheckpointMissingError, match="nobody/has-this at revision 0{40}.*run `virnuc setup --encoder "):
        checkpoint_folder(spec, tmp_path)
