"""Opens a sequence file, plain or gzip (bgzip is gzip with several members), and digests every byte that is read."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import hashlib
import io
import os
import stat
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from virnuc_assets.errors import VirnucError

_FOREIGN_MAGIC = {b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstandard"}
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_NO_FILE = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFLNK: "a link to nothing"}
_HEAD_LETTERS = 4096
_GZIP_MAGIC = b"\x1f\x8b"
_BLOCK_BYTES = 1 << 20


# Device, inode, size and time of change: equal as long as nobody wrote to the file.
FileState = tuple[int, int, int, int]


def file_state(status: os.stat_result) -> FileState:
    """State of a file from its status."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def is_file(path: Path) -> bool:
    """As `Path.is_file`, but no error for a link into a folder that may not be read, or to a name that is too long."""
    return os.path.isfile(path)  # noqa: PTH113


class SequenceFileError(VirnucError):
    """A sequence file cannot be read as what it claims to be; the message names file, line and record."""


class SourceChanged(SequenceFileError):
    """A source file is not the file that was planned, or changed while it was read."""


class _DigestingReader(io.RawIOBase):
    """Raw bytes of a file; whatever passes through is added to a SHA-256."""

    def __init__(self, raw: io.FileIO) -> None:
        self._raw = raw
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self._raw.readinto(buffer) or 0
        self.sha256.update(memoryview(buffer)[:count])
        return count

    def fileno(self) -> int:
        return self._raw.fileno()


class SourceFile:
    r"""The text of one sequence file, with the digest of its bytes once it is exhausted.

    Attributes:
        path: the file.
        state: of the file before it was read.
        head: the first written characters, by which the format is recognised.
        position: which record is being read, for messages; kept by whoever reads.
    """

    def __init__(self, path: Path, reader: _DigestingReader, content: io.BufferedReader[Any]) -> None:
        self.path = path
        self.state = file_state(os.fstat(reader.fileno()))
        self.head = content.peek().decode("utf-8-sig", errors="replace").lstrip()[:_HEAD_LETTERS]
        self.position = "before the first record"
        self._reader = reader
        self._content = content

    @cached_property
    def text(self) -> io.TextIOWrapper:
        r"""Decoded lines with universal newlines; bytes that are not UTF-8 become `\xNN` escapes.

        So every id can be written as valid UTF-8. Either the text is read, or the blocks.
        """
        return io.TextIOWrapper(self._content, encoding="utf-8-sig", errors="backslashreplace", newline=None)

    def blocks(self) -> Iterator[bytes]:
        r"""The unpacked bytes in pieces, without a byte order mark, every line end as \n."""
        block = self._content.read(_BLOCK_BYTES).removeprefix(codecs.BOM_UTF8)
        while block:
            if block.endswith(b"\r"):
                block += self._content.read(1)  # a line end may be on the border of two blocks
            yield block.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in block else block
            block = self._content.read(_BLOCK_BYTES)

    def digest(self) -> str:
        """SHA-256 of the whole file as it was read; reads what is left first.

        Raises:
            SourceChanged: the file was written to since it was opened.
        """
        while self._content.read(_BLOCK_BYTES):
            pass
        if file_state(os.fstat(self._reader.fileno())) != self.state:
            raise SourceChanged(
                f"{self.path}: the file was written to while it was read. Materialize shard_plan again when it is "
                "complete."
            )
        return self._reader.sha256.hexdigest()

    def require_digest(self, planned_sha256: str) -> None:
        """Raise SourceChanged unless the bytes just read are the planned ones."""
        if (found := self.digest()) != planned_sha256:
            raise SourceChanged(
                f"{self.path}: the file is not the one that was planned: expected sha256 {planned_sha256[:16]}…, "
                f"found {found[:16]}…; it was replaced or is still being written. Materialize shard_plan again."
            )


@contextlib.contextmanager
def open_source(path: Path) -> Iterator[SourceFile]:
    """Open a sequence file; gzip is recognised by content, not by name.

    Raises:
        SequenceFileError: the file is missing, not to be opened, empty, in a format that is not read here, or its gzip
            stream is cut or corrupt (also while the caller reads it).
    """
    with _open_raw(path) as raw:
        magic = raw.read(8)
        raw.seek(0)
        if not magic:
            raise SequenceFileError(f"{path}: the file is empty; expected FASTA or GenBank records")
        for prefix, name in _FOREIGN_MAGIC.items():
            if magic.startswith(prefix):
                raise SequenceFileError(
                    f"{path}: found {name} data; expected plain text or gzip. Recompress it with gzip."
                )
        if magic.startswith(_UTF_16):
            raise SequenceFileError(f"{path}: found text in UTF-16; expected ASCII or UTF-8. Save it as UTF-8.")
        reader, source = _DigestingReader(raw), None
        buffered: io.BufferedReader[Any] = io.BufferedReader(reader, buffer_size=1 << 20)
        try:
            if magic.startswith(_GZIP_MAGIC):
                unpacked = gzip.GzipFile(fileobj=buffered)
                buffered = io.BufferedReader(unpacked, buffer_size=1 << 20)  # type: ignore[type-var]
            source = SourceFile(path, reader, buffered)
            yield source
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            where = source.position if source else "at its beginning"
            if str(error).startswith("Not a gzipped file"):  # the magic number at the beginning is right
                raise SequenceFileError(
                    f"{path}: other bytes follow the gzip data; expected another gzip member, or nothing. If all "
                    "records are there, repack it: gzip -dc FILE | gzip > NEW. Else fetch it again."
                ) from error
            raise SequenceFileError(
                f"{path}: the gzip stream is cut or corrupt, {where} ({error}); fetch the file again"
            ) from error


def _open_raw(path: Path) -> io.FileIO:
    if not is_file(path):
        kind = _NO_FILE.get(stat.S_IFMT(path.lstat().st_mode), "no file") if os.path.lexists(path) else None
        raise SequenceFileError(
            f"{path}: expected a sequence file, found {kind}" if kind else f"{path}: no such sequence file"
        )
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise SequenceFileError(f"{path}: cannot be opened: {error.strerror}") from error
