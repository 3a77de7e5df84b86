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
from pathlib import Path
from typing import Any

from virnuc_assets.errors import VirnucError

_RECOMPRESS, _SAVE = "Recompress it with gzip", "Save it as UTF-8"
_OTHER_FORMATS = {
    b"BZh": ("bzip2 data", _RECOMPRESS),
    b"\xfd7zXZ\x00": ("xz data", _RECOMPRESS),
    b"PK\x03\x04": ("zip data", _RECOMPRESS),
    b"\x28\xb5\x2f\xfd": ("zstandard data", _RECOMPRESS),
    codecs.BOM_UTF16_LE: ("text in UTF-16", _SAVE),
    codecs.BOM_UTF16_BE: ("text in UTF-16", _SAVE),
}
_NO_FILE = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFLNK: "a link to nothing"}
_HEAD_CHARACTERS = 4096
_GZIP_MAGIC = b"\x1f\x8b"
_BLOCK_BYTES = 1 << 20


def file_state(status: os.stat_result) -> tuple[int, int, int, int]:
    """Device, inode, size and time of change: equal as long as nobody wrote to the file."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def is_file(path: Path) -> bool:
    """As `Path.is_file`, but no error for a link into a folder that may not be read, or to a name that is too long."""
    return os.path.isfile(path)  # noqa: PTH113


class SequenceFileError(VirnucError):
    """A sequence file cannot be read as what it claims to be; the message names file, line and record."""


class SourceChanged(SequenceFileError):
    """A source file is not the file that was planned, or changed while it was read."""


class _DigestingFile(io.FileIO):
    """Raw bytes of a file; whatever is read is added to a SHA-256."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.sha256 = hashlib.sha256()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = super().readinto(buffer) or 0
        self.sha256.update(memoryview(buffer)[:count])
        return count


class SourceFile:
    """The text of one sequence file, with the digest of its bytes.

    Attributes:
        path: the file.
        state: of the file before it was read.
        position: which record is being read, for messages; kept by whoever reads.
    """

    def __init__(self, path: Path, raw: _DigestingFile, content: io.BufferedReader[Any]) -> None:
        self.path, self._raw, self._content = path, raw, content
        self.state = file_state(os.fstat(raw.fileno()))
        self.position = "before the first record"

    def head(self) -> str:
        """The first visible characters, by which the format is recognised; asked for before the text is read."""
        return self._content.peek().decode("utf-8-sig", errors="replace").lstrip()[:_HEAD_CHARACTERS]

    def lines(self) -> Iterator[str]:
        r"""Decoded lines; bytes that are not UTF-8 become `\xNN` escapes, so that every id can be written as UTF-8."""
        self._text = io.TextIOWrapper(self._content, encoding="utf-8-sig", errors="backslashreplace", newline=None)
        return self._text  # which would close the file, were it not kept

    def blocks(self) -> Iterator[bytes]:
        r"""The bytes without a byte order mark, every line end as \n, also at the end; twice as fast as lines."""
        block = self._content.read(_BLOCK_BYTES).removeprefix(codecs.BOM_UTF8)
        while block:
            if block.endswith(b"\r"):
                block += self._content.read(1)  # a line end may be on the border of two blocks
            yield block.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in block else block
            block = self._content.read(_BLOCK_BYTES)
        yield b"\n"

    def digest(self) -> str:
        """SHA-256 of the whole file as it was read; reads what is left first.

        Raises:
            SourceChanged: the file was written to since it was opened.
        """
        while self._content.read(_BLOCK_BYTES):
            pass
        if file_state(os.fstat(self._raw.fileno())) != self.state:
            raise SourceChanged(
                f"{self.path}: the file was written to while it was read. Materialize shard_plan again when it is "
                "complete."
            )
        return self._raw.sha256.hexdigest()

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
        SequenceFileError: it is none, or its gzip stream is cut or corrupt (also while the caller reads it).
    """
    if not is_file(path):
        kind = _NO_FILE.get(stat.S_IFMT(path.lstat().st_mode), "no file") if os.path.lexists(path) else None
        raise SequenceFileError(
            f"{path}: expected a sequence file, found {kind}" if kind else f"{path}: no such sequence file"
        )
    try:
        opened = _DigestingFile(path)
    except OSError as error:
        raise SequenceFileError(f"{path}: cannot be opened: {error.strerror}") from error
    with opened as raw:
        content: io.BufferedReader[Any] = io.BufferedReader(raw, _BLOCK_BYTES)
        magic = content.peek(8)
        if not magic:
            raise SequenceFileError(f"{path}: the file is empty; expected FASTA or GenBank records")
        for prefix, (found, remedy) in _OTHER_FORMATS.items():
            if magic.startswith(prefix):
                raise SequenceFileError(f"{path}: found {found}; expected plain text in UTF-8, or gzip. {remedy}.")
        if magic.startswith(_GZIP_MAGIC):
            content = io.BufferedReader(gzip.GzipFile(fileobj=content), _BLOCK_BYTES)  # type: ignore[type-var]
        source = SourceFile(path, raw, content)
        try:
            yield source
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            if str(error).startswith("Not a gzipped file"):  # the magic number at the beginning is right
                raise SequenceFileError(
                    f"{path}: other bytes follow the gzip data; expected another gzip member, or nothing. If all "
                    "records are there, repack it: gzip -dc FILE | gzip > NEW. Else fetch it again."
                ) from error
            raise SequenceFileError(
                f"{path}: the gzip stream is cut or corrupt, {source.position} ({error}); fetch the file again"
            ) from error
