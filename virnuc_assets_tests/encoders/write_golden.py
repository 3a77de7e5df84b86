"""Write the golden vectors of the miniatures again where this installation's differ; everything is then embedded again.

python -m virnuc_assets_tests.encoders.write_golden
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from virnuc_assets.encoders.checkpoints import GOLDEN_FILE, versions
from virnuc_assets.encoders.golden import LIBRARIES, TOLERANCE, golden_vectors, largest_difference


def write_golden(path: Path = GOLDEN_FILE) -> float:
    """Write vectors and versions where a difference exceeds `TOLERANCE`, so that rounding does not change the digest.

    Returns:
        The largest difference between the file as it was and this installation.
    """
    golden = json.loads(path.read_text(encoding="utf-8"))
    found = {name: golden_vectors(name, golden, "cpu") for name in golden["vectors"]}
    largest, _ = largest_difference(golden, found)
    if not largest <= TOLERANCE:
        content = {**golden, "versions": versions(LIBRARIES), "vectors": found}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return largest


if __name__ == "__main__":
    difference = write_golden()
    state = "is unchanged" if difference <= TOLERANCE else "was written: embed everything again"
    sys.stdout.write(f"{GOLDEN_FILE} differs by at most {difference:.1e} and {state}\n")
