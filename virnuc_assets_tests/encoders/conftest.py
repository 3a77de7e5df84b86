"""Miniature checkpoints, written once a session, and sequences drawn by rule."""

from pathlib import Path

import numpy as np
import pytest

from virnuc_assets.encoders.alphabet import AMINO_ACIDS, NUCLEOTIDES
from virnuc_assets.encoders.checkpoints import fetch_checkpoint
from virnuc_assets.encoders.registry import ENCODERS, MINIATURE

MINIATURES = [spec for spec in ENCODERS.values() if spec.checkpoint == MINIATURE]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with every miniature."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for spec in MINIATURES:
        fetch_checkpoint(spec, folder)
    return folder


def drawn(alphabet: str, lengths: list[int], seed: int = 0) -> list[str]:
    """A random sequence of each length."""
    generator = np.random.default_rng(seed)
    letters = list(NUCLEOTIDES if alphabet == "dna" else AMINO_ACIDS)
    return ["".join(generator.choice(letters, size=length)) for length in lengths]
