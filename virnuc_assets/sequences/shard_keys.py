"""Names of sources and keys of their shards."""

from __future__ import annotations

from pathlib import Path

from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.catalogue import KEY_LETTERS

# Tables are files named after their shard, with more before and behind it; file systems take 255 bytes in all.
MAX_NAME_LETTERS = 180
MAX_PACKS = 9999


def source_name(path: Path) -> str:
    """A file's name as it opens shard keys: without its endings, foreign letters as `_`.

    Raises:
        VirnucError: nothing is left of the name, or it is too long.
    """
    stem = path.name.removesuffix(".gz")
    stem = stem.rsplit(".", 1)[0] if "." in stem.lstrip(".") else stem
    name = "".join(letter if letter in KEY_LETTERS else "_" for letter in stem).strip("._-")
    if not name:
        raise VirnucError(f"{path}: no letters are left of this file's name to name its shards by; rename the file")
    if len(name) > MAX_NAME_LETTERS:
        raise VirnucError(
            f"{path}: a name of {len(name)} letters; expected at most {MAX_NAME_LETTERS}, because its tables are "
            "named by it; rename the file"
        )
    return name


def shard_key(source: str, index: int) -> str:
    """Key of a sample's shard, 1-based and zero-padded so that keys sort as they follow each other."""
    return f"{source}-{index + 1:06d}"


def sample_of(shard: str) -> str:
    """The sample that a shard key was made from."""
    return shard.rpartition("-")[0]


def pack_key(label: str, index: int) -> str:
    """Key of a pack of reference records of one label, e.g. `viral-0001`.

    Raises:
        VirnucError: there are more packs than such keys sort.
    """
    if index >= MAX_PACKS:
        raise VirnucError(f"{label}: more than {MAX_PACKS} shards were made so far; set sequences.shard_chunks higher")
    return f"{label}-{index + 1:04d}"
