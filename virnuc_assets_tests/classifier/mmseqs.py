"""Whether MMseqs2 is there to be tested with."""

from __future__ import annotations

import pytest

from virnuc_assets.classifier.similarity import SimilarityError, mmseqs_path


def installed() -> bool:
    try:
        return bool(mmseqs_path())
    except SimilarityError:
        return False


needs_mmseqs = pytest.mark.skipif(not installed(), reason="MMseqs2 is missing: pip install -e '.[similarity]'")
