"""Tables that the tests of this folder write, and what is next to them."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from virnuc_assets.storage.schemas import embeddings_schema

PROVENANCE = {
    "table": "embeddings",
    "inputs": {"frames": "f00d"},
    "fingerprint": {"encoder": "fastesm2", "dim": 4, "versions": {"torch": "2.13.0"}},
    "lengths": [300, 500],
    "note": None,
}


def embeddings(rows: int, dim: int = 4, start: int = 0) -> pa.Table:
    numbers = range(start, start + rows)
    columns = {
        "frame_id": [f"r_chunk_{n}F1" for n in numbers],
        "digest": [None if n % 5 == 3 else f"{n:016x}" for n in numbers],
        "vector": [[n + column / 8 for column in range(dim)] for n in numbers],
    }
    return pa.table(columns, schema=embeddings_schema(dim))


def rot(path: Path, vector: np.ndarray) -> None:
    """Flip a bit of a vector in its table, as a bad disk does; of random numbers, which LZ4 leaves as they are."""
    content = bytearray(path.read_bytes())
    content[content.index(vector.tobytes())] ^= 1
    path.write_bytes(content)


def files(path: Path) -> list[str]:
    """All that is next to the table, hidden files too."""
    return sorted(entry.name for entry in path.parent.iterdir()) if path.parent.exists() else []
