"""Where the tests of this folder write."""

from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "reference" / "fastesm2_650_embeddings" / "lambda-000001.parquet"
