"""Files as people drop them into a watched folder: whole and broken ones, under awkward names, in awkward ways."""

from __future__ import annotations

import bz2
import gzip
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

_LINE_NT = 70
# Without stops, so that every chunk has an open frame: of random letters hardly one in a hundred has one.
_SENSE_CODONS = ["".join(codon) for codon in product("ACGT", repeat=3) if "".join(codon) not in ("TAA", "TAG", "TGA")]
_PAUSES_S = (0.5, 2.0, 8.0)  # between the parts of a slow copy; the last is longer than a sensor's patience
_GOOD_NAMES = (
    *("sample_{}.fasta", "with space {}.fna", "semi;colon & {}.fa", "größe_{}.fasta", "quote'\"$(x)_{}.fasta"),
    *("new\nline_{}.fasta", "-rf_{}.fasta", "=cmd_{}.fasta", "zipped_{}.fasta.gz"),
)
Way = Literal["at once", "renamed", "slowly"]


@dataclass(frozen=True)
class Dropped:
    """A file to drop.

    Attributes:
        name: in the folder.
        content: bytes, in the end.
        good: whether it has predictions in the end; else it is refused.
        way: in which it comes.
        before: content that lies there for a while, until this replaces it.
        same_as: name of the file with the same records, which alone has predictions.
    """

    name: str
    content: bytes
    good: bool
    way: Way
    before: bytes | None = None
    same_as: str | None = None


def make_files(good: int, bad: int, seed: int) -> list[Dropped]:
    """Good and bad files, shuffled, to be dropped from the end; every eighth good one replaces another content.

    The first is a duplicate of a good one.
    """
    chance = random.Random(seed)  # noqa: S311
    ways: tuple[Way, ...] = ("at once", "renamed", "slowly")
    files = []
    for number in range(good - 1):
        name = _GOOD_NAMES[number % len(_GOOD_NAMES)].format(number)
        content = _fasta(chance, f"r{number}", chance.randint(1, 6))
        before = content + _fasta(chance, f"s{number}", 1) if number % 8 == 3 else None
        files.append(Dropped(name, _packed(name, content), True, chance.choice(ways), before))
    original = next(file for file in files if file.before is None and not file.name.endswith(".gz"))
    copy = b"\n".join(original.content.split(b"\n"))[:-1]  # without its last line end: other bytes, same records
    files.append(replace(original, name=f"z_copy_of_{good}.fasta", content=copy, same_as=original.name))
    makers = list(_BROKEN.items())
    for number in range(bad):
        kind, broken = makers[number % len(makers)]
        content = _fasta(chance, f"b{number}", 2)
        files.append(Dropped(f"bad_{number}_{kind}", broken(content), False, chance.choice(ways)))
    chance.shuffle(files)
    # Dropped last, i.e. taken from the end: of two files with the same records, the one that is planned first counts.
    return sorted(files, key=lambda file: file.same_as is None)


def _fasta(chance: random.Random, prefix: str, records: int) -> bytes:
    parts = []
    for number in range(records):
        letters = "".join(chance.choices(_SENSE_CODONS, k=chance.randint(100, 2_000)))
        lines = "\n".join(letters[start : start + _LINE_NT] for start in range(0, len(letters), _LINE_NT))
        parts.append(f">{prefix}_{number} of the soak\n{lines}\n")
    return "".join(parts).encode()


def _packed(name: str, content: bytes) -> bytes:
    return gzip.compress(content, mtime=0) if name.endswith(".gz") else content


_BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "cut.fasta.gz": lambda content: gzip.compress(content)[:-20],
    "bzip2.fasta": bz2.compress,
    "empty.fasta": lambda content: b"",
    "protein.faa": lambda content: b">p1\nMKVLEEFIPQLLSTRW\n",
    "no_header.fasta": lambda content: content[content.index(b"\n") + 1 :],
    "no_id.fasta": lambda content: content + b">\nACGT\n",
    "page.fasta": lambda content: b"<!DOCTYPE html><html><body>404</body></html>\n",
    "zip.fasta": lambda content: b"PK\x03\x04" + content,
    "nul.fasta": lambda content: content[:200] + b"\x00\x00\x00" + content[200:],
}


class Dropper:
    """Drops files into a folder, each in its way, several at once."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._chance = folder, random.Random(seed)  # noqa: S311
        self._threads: list[threading.Thread] = []

    def drop(self, file: Dropped) -> None:
        """Begin to drop a file; returns at once."""
        thread = threading.Thread(target=self._drop, args=(file, self._chance.choice(_PAUSES_S)), daemon=True)
        thread.start()
        self._threads.append(thread)

    def finish(self) -> None:
        """Wait until every file lies there."""
        for thread in self._threads:
            thread.join()

    def _drop(self, file: Dropped, pause_s: float) -> None:
        if file.before is not None:
            self._put(file.name, file.before, file.way, pause_s)
            time.sleep(4 * pause_s + 10)
        self._put(file.name, file.content, file.way, pause_s)

    def _put(self, name: str, content: bytes, way: Way, pause_s: float) -> None:
        path = self._folder / name
        if way == "renamed":
            aside = self._folder / f".{name}.part"
            aside.write_bytes(content)
            aside.replace(path)
        elif way == "at once":
            path.write_bytes(content)
        else:
            third = len(content) // 3 + 1
            with path.open("wb", buffering=0) as handle:
                for start in range(0, len(content), third):
                    handle.write(content[start : start + third])
                    time.sleep(pause_s)
