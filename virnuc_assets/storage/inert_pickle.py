"""Pickles read as data: a global stays a name, a call stays a record; nothing of the file is imported or executed.

A closed reader of the opcodes that torch.save writes (pickle protocol 2). `torch.load(weights_only=True)` does not do:
it reads no module of the legacy format, dies of the hash of a deep tuple, and takes seven times as long as pickle for
lists of floats; pickle itself fills gigabytes for nine bytes that name a high memo index.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from virnuc_assets.errors import VirnucError

_PROTOCOL: Final = 2
_FLOAT, _FLOAT_BYTES = ord("G"), 9
_FLOATS_AT_ONCE = 1000  # a pickler writes lists in pieces of so many
_NAME_BYTES = 256
_OPCODES = {opcode.code: opcode.name for opcode in pickletools.opcodes}
# The least that torch.save spends on a list, dict, tuple or object; so memory is bounded by the file's size.
_BYTES_OF_A_CONTAINER = 8


class TorchFileRefused(VirnucError):
    """A file is not one of torch.save, is damaged, or holds what VirNucPro does not write; nothing of it was run."""


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that a pickle names, as text."""

    text: str


@dataclass(slots=True)
class Made:
    """An object that a pickle would make: the name of its class, arguments and state; it was not made."""

    name: str
    args: tuple[object, ...]
    state: object = None


@dataclass(frozen=True)
class Vocabulary:
    """All that a pickle may say.

    Attributes:
        names: whether a global is known; any other refuses the file.
        calls: what a call of a known name stands for; a call of any other known name stays a record.
        stored: what a persistent id stands for.
    """

    names: Callable[[str], bool]
    calls: Mapping[str, Callable[[tuple[object, ...]], object]]
    stored: Callable[[object], object]


class InertPickle:
    """One pickle inside of `data`, from `start` on."""

    def __init__(self, data: bytes, start: int, vocabulary: Vocabulary) -> None:
        self._data, self._at, self._vocabulary = data, start, vocabulary
        self._codes = np.frombuffer(data, np.uint8)
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}
        self._containers_left = 1000 + len(data) // _BYTES_OF_A_CONTAINER

    def load(self) -> tuple[object, int]:
        """What was pickled, and where the pickle ends.

        Raises:
            TorchFileRefused: it is cut off, holds an opcode that torch.save does not write, or says what is unknown.
        """
        try:
            while (opcode := self._take(1)) != b".":
                if opcode not in _STEPS:
                    name = _OPCODES.get(opcode.decode("latin-1"), opcode.hex())
                    raise TorchFileRefused(f"holds the pickle opcode {name}, which torch.save never writes")
                _STEPS[opcode](self)
            return self._stack.pop(), self._at
        except (IndexError, KeyError, UnicodeDecodeError) as error:  # an empty stack, no such memo, no text
            raise TorchFileRefused(f"holds a damaged pickle ({type(error).__name__} at byte {self._at})") from error

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise TorchFileRefused(f"is cut off: {count} bytes expected at byte {self._at} of {len(self._data)}")
        piece, self._at = self._data[self._at : end], end
        return piece

    def _number(self, layout: str) -> int:
        return int(struct.unpack(layout, self._take(struct.calcsize(layout)))[0])

    def _grow(self, container: object) -> None:
        self._containers_left -= 1
        if self._containers_left < 0:
            raise TorchFileRefused(f"holds more lists, dicts and tuples than {len(self._data)} bytes of torch.save can")
        self._stack.append(container)

    def _above_mark(self) -> list[object]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _protocol(self) -> None:
        if (found := self._number("<B")) != _PROTOCOL:
            raise TorchFileRefused(f"holds pickle protocol {found}, torch.save writes {_PROTOCOL}")

    def _floats(self) -> None:
        """One float and all that follow it at once: a file holds millions."""
        self._at -= 1
        window = self._codes[self._at : self._at + _FLOAT_BYTES * _FLOATS_AT_ONCE : _FLOAT_BYTES]
        others = np.flatnonzero(window != _FLOAT)
        count = int(others[0]) if len(others) else len(window)
        run = np.frombuffer(self._take(count * _FLOAT_BYTES), np.dtype([("opcode", "u1"), ("value", ">f8")]))
        self._stack.extend(run["value"].tolist())

    def _text(self) -> None:
        self._stack.append(self._take(self._number("<I")).decode("utf-8"))

    def _long(self) -> None:
        self._stack.append(int.from_bytes(self._take(self._number("<B")), "little", signed=True))

    def _global(self) -> None:
        name = f"{self._line()}.{self._line()}"
        if not self._vocabulary.names(name):
            raise TorchFileRefused(f"names {name!r}, which no file of VirNucPro does; nothing of the file was executed")
        self._stack.append(Name(name))

    def _line(self) -> str:
        end = self._data.find(b"\n", self._at, self._at + _NAME_BYTES)
        if end < 0:
            raise TorchFileRefused(f"holds a name of more than {_NAME_BYTES} bytes")
        return self._take(end + 1 - self._at)[:-1].decode("utf-8")

    def _tuple(self, count: int) -> None:
        items = [self._stack.pop() for _ in range(count)]
        self._grow(tuple(reversed(items)))

    def _call(self, keep: bool) -> None:
        args, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Name) or not isinstance(args, tuple):
            raise TorchFileRefused("calls what is no name; nothing of the file was executed")
        meaning = None if keep else self._vocabulary.calls.get(function.text)
        self._grow(meaning(args) if meaning else Made(function.text, args))

    def _build(self) -> None:
        state, made = self._stack.pop(), self._stack[-1]
        if isinstance(made, dict):  # attributes of an ordered dict; a state_dict has some
            return
        if not isinstance(made, Made) or made.state is not None:
            raise TorchFileRefused("gives a state to what is no object, or twice")
        made.state = state

    def _extend(self, items: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise TorchFileRefused("appends to what is no list")
        target.extend(items)

    def _set(self, items: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TorchFileRefused("sets items of what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):  # the hash of a tuple is as deep as the tuple
                raise TorchFileRefused(f"has a {type(key).__name__} for a key")
            target[key] = value


_STEPS: Mapping[bytes, Callable[[InertPickle], None]] = {
    b"\x80": InertPickle._protocol,
    b"(": lambda pickle: pickle._marks.append(len(pickle._stack)),
    b"N": lambda pickle: pickle._stack.append(None),
    b"\x88": lambda pickle: pickle._stack.append(True),
    b"\x89": lambda pickle: pickle._stack.append(False),
    b"K": lambda pickle: pickle._stack.append(pickle._number("<B")),
    b"M": lambda pickle: pickle._stack.append(pickle._number("<H")),
    b"J": lambda pickle: pickle._stack.append(pickle._number("<i")),
    b"\x8a": InertPickle._long,
    b"G": InertPickle._floats,
    b"X": InertPickle._text,
    b"]": lambda pickle: pickle._grow([]),
    b"}": lambda pickle: pickle._grow({}),
    b")": lambda pickle: pickle._grow(()),
    b"\x85": lambda pickle: pickle._tuple(1),
    b"\x86": lambda pickle: pickle._tuple(2),
    b"\x87": lambda pickle: pickle._tuple(3),
    b"t": lambda pickle: pickle._grow(tuple(pickle._above_mark())),
    b"a": lambda pickle: pickle._extend([pickle._stack.pop()]),
    b"e": lambda pickle: pickle._extend(pickle._above_mark()),
    b"s": lambda pickle: pickle._set([*reversed((pickle._stack.pop(), pickle._stack.pop()))]),
    b"u": lambda pickle: pickle._set(pickle._above_mark()),
    b"q": lambda pickle: pickle._memo.__setitem__(pickle._number("<B"), pickle._stack[-1]),
    b"r": lambda pickle: pickle._memo.__setitem__(pickle._number("<I"), pickle._stack[-1]),
    b"h": lambda pickle: pickle._stack.append(pickle._memo[pickle._number("<B")]),
    b"j": lambda pickle: pickle._stack.append(pickle._memo[pickle._number("<I")]),
    b"c": InertPickle._global,
    b"R": lambda pickle: pickle._call(keep=False),
    b"\x81": lambda pickle: pickle._call(keep=True),
    b"b": InertPickle._build,
    b"Q": lambda pickle: pickle._stack.append(pickle._vocabulary.stored(pickle._stack.pop())),
}
