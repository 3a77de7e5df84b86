"""Opens a sequence file, plain or compressed, and digests every byte that is read."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import hashlib
import io
import lzma
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.places import file_state

COMPRESSED_ENDINGS = (".gz", ".bgz", ".bz2", ".xz", ".zst")
_UTF16 = ("text in UTF-16", "Save it as UTF-8")
_OTHER_FORMATS = {b"PK\x03\x04": ("zip data", "Unpack it"), codecs.BOM_UTF16_LE: _UTF16, codecs.BOM_UTF16_BE: _UTF16}
_NO_FILE = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFLNK: "a link to nothing"}
# What our own reader, gzip's and Arrow's of Zstandard say where no stream begins behind another.
_NO_STREAMS = ("other bytes", "Not a gzipped file", "Unknown frame descriptor")
_HEAD_CHARACTERS = 4096
_BLOCK_BYTES = 1 << 20


def is_file(path: Path) -> bool:
    """As `Path.is_file`, but no error for a link into a folder that may not be read, or to a name that is too long."""
    return os.path.isfile(path)  # noqa: PTH113


def unpacked_name(path: Path) -> str:
    """A file's name without the ending of its compression."""
    return path.stem if path.suffix in COMPRESSED_ENDINGS else path.name


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


class _Streams:
    """The content of several streams of bzip2 or xz; `bz2.open` and `lzma.open` ignore other bytes after one."""

    def __init__(self, file: io.BufferedReader[Any], new: Callable[[], Any], magic: bytes) -> None:
        self._file, self._new, self._magic = file, new, magic
        self._stream = new()
        self._error: Exception | None = None

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer, by several streams if they are short; what goes wrong is raised after what precedes it."""
        filled = 0
        try:
            while not self._error and (content := self._content(len(buffer) - filled)):
                buffer[filled : filled + len(content)] = content
                filled += len(content)
        except (EOFError, OSError, lzma.LZMAError) as error:
            self._error = error
        if self._error and not filled:
            raise self._error
        return filled

    def _content(self, wanted: int) -> bytes:
        """So many bytes at most; none at the end, or if none are wanted."""
        while wanted:
            packed = b""
            if self._stream.eof:
                packed = self._stream.unused_data.lstrip(b"\0")  # which may fill up a stream
                while not packed and (block := self._file.read(_BLOCK_BYTES)):
                    packed = block.lstrip(b"\0")
                if not packed:
                    break
                if packed[: len(self._magic)] != self._magic[: len(packed)]:
                    raise OSError(_NO_STREAMS[0])
                self._stream = self._new()
            elif self._stream.needs_input and not (packed := self._file.read(_BLOCK_BYTES)):
                raise EOFError("the file ends inside a stream")
            if content := self._stream.decompress(packed, wanted):
                return bytes(content)
        return b""


# How each compression begins, and what reads it; bgzip is gzip, Zstandard may begin with a frame that is skipped.
_COMPRESSIONS: dict[str, tuple[re.Pattern[bytes], Callable[[io.BufferedReader[Any]], Any]]] = {
    "gzip": (re.compile(rb"\x1f\x8b"), lambda file: gzip.GzipFile(fileobj=file)),
    "bzip2": (re.compile(rb"BZh[1-9]"), lambda file: _Streams(file, bz2.BZ2Decompressor, b"BZh")),
    "xz": (re.compile(rb"\xfd7zXZ\x00"), lambda file: _Streams(file, lzma.LZMADecompressor, b"\xfd7zXZ\x00")),
    "zstd": (
        re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
        lambda file: pa.CompressedInputStream(file, "zstd"),
    ),
}


class SourceFile:
    """The text of one sequence file, with the digest of its bytes; messages call it by its name."""

    def __init__(self, name: str, raw: _DigestingFile, content: io.BufferedReader[Any]) -> None:
        self.name, self._raw, self._content = name, raw, content
        self.state = file_state(os.fstat(raw.fileno()))  # before it was read
        self.position = "before the first record"  # which record is being read; kept by whoever reads
        magic = content.peek(8)
        for compression, (begins, stream) in _COMPRESSIONS.items():
            if begins.match(magic):
                self._content = io.BufferedReader(_Decompressed(stream(content), compression, self), _BLOCK_BYTES)

    def head(self) -> str:
        """The first visible characters, by which the format is recognised; asked for before the text is read."""
        return self._content.peek().decode("utf-8-sig", errors="replace").lstrip()[:_HEAD_CHARACTERS]

    def lines(self, errors: str = "backslashreplace") -> Iterator[str]:
        r"""Decoded lines; bytes that are not UTF-8 become `\xNN` escapes, so that every id can be written as UTF-8."""
        self._text = io.TextIOWrapper(self._content, encoding="utf-8-sig", errors=errors, newline=None)
        return self._text  # which would close the file, were it not kept

    def blocks(self) -> Iterator[bytes]:
        r"""The bytes without a byte order mark, every line end as \n, also at the end; twice as fast as lines."""
        block = self._content.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8)
        block = block or self._content.read1(_BLOCK_BYTES)  # not more than one read at once: what is broken may follow
        while block:
            if block.endswith(b"\r"):
                block += self._content.read(1)  # a line end may be on the border of two blocks
            yield block.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in block else block
            block = self._content.read1(_BLOCK_BYTES)
        yield b"\n"

    def digest(self) -> str:
        """SHA-256 of the whole file as it was read; reads what is left first."""
        while self._content.read(_BLOCK_BYTES):
            pass
        return self._digest_of_bytes()

    def require_digest(self, planned_sha256: str) -> None:
        """Raise SourceChanged unless the bytes of the file are the planned ones; what is left is not unpacked."""
        if (found := self._digest_of_bytes()) != planned_sha256:
            raise SourceChanged(
                f"{self.name}: the file is not the one that was planned: expected sha256 {planned_sha256[:16]}…, "
                f"found {found[:16]}…; it was replaced or is still being written. Materialize shard_plan again."
            )

    def _digest_of_bytes(self) -> str:
        buffer = memoryview(bytearray(_BLOCK_BYTES))
        while self._raw.readinto(buffer):
            pass
        if file_state(os.fstat(self._raw.fileno())) != self.state:
            raise SourceChanged(
                f"{self.name}: the file was written to while it was read. Materialize shard_plan again when it is "
                "complete."
            )
        return self._raw.sha256.hexdigest()


class _Decompressed(io.RawIOBase):
    """The content of a compressed file; what is wrong with its streams is raised with the record that is being read."""

    def __init__(self, stream: Any, compression: str, source: SourceFile) -> None:  # noqa: ANN401  (gzip's, Arrow's, ours)
        self._stream, self._compression, self._source = stream, compression, source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        name, shown = self._compression, self._source.name
        try:
            return int(self._stream.readinto(buffer))
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            if isinstance(error, OSError) and error.errno:  # the file cannot be read
                raise
            if any(words in str(error) for words in _NO_STREAMS):  # the magic number at the beginning is right
                raise SequenceFileError(
                    f"{shown}: other bytes follow the {name} data; expected another {name} stream, or nothing. If all "
                    f"records are there, repack it: {name} -dc FILE | {name} > NEW. Else fetch it again."
                ) from error
            raise SequenceFileError(
                f"{shown}: the {name} stream is cut or corrupt, {self._source.position} ({error}); fetch the file again"
            ) from error


@contextlib.contextmanager
def open_source(path: Path, shown: str = "") -> Iterator[SourceFile]:
    """Open a sequence file, which messages call by its path, or as `shown`.

    Compression is recognised by content, not by name; that a stream is cut or corrupt is raised while it is read.
    """
    shown = shown or str(path)
    if not os.path.lexists(path):
        raise SequenceFileError(f"{shown}: no such sequence file")
    if not is_file(path):
        kind = _NO_FILE.get(stat.S_IFMT(path.lstat().st_mode), "no file")
        raise SequenceFileError(f"{shown}: expected a sequence file, found {kind}")
    try:
        opened = _DigestingFile(path)
    except OSError as error:
        raise SequenceFileError(f"{shown}: cannot be opened: {error.strerror}") from error
    with opened as raw:
        content: io.BufferedReader[Any] = io.BufferedReader(raw, _BLOCK_BYTES)
        magic = content.peek(8)
        if not magic:
            raise SequenceFileError(f"{shown}: the file is empty; expected FASTA, FASTQ or GenBank records")
        for prefix, (found, remedy) in _OTHER_FORMATS.items():
            if magic.startswith(prefix):
                raise SequenceFileError(
                    f"{shown}: found {found}; expected plain text in UTF-8, or {', '.join(_COMPRESSIONS)}. {remedy}."
                )
        yield SourceFile(shown, raw, content)
