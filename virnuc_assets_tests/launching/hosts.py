"""A second host of the tests' own network: a network namespace with another name, on a switch that can be cut off."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

FIRST, SECOND = "192.0.2.1", "192.0.2.2"  # of a block that no real network has
_SWITCH, _PORT = "virnuc-switch", "virnuc-port"


class Host(NamedTuple):
    """A host next to this one; files and processes are common to both.

    Attributes:
        name: what it calls itself.
        inside: what a command begins with to run on it.
    """

    name: str
    inside: tuple[str, ...]

    def cut_off(self) -> None:
        """Pull its cable: from now on no packet arrives, in either direction, and neither host notices."""
        _ip("link", "set", _PORT, "down")

    def come_back(self) -> None:
        """Plug it in again."""
        _ip("link", "set", _PORT, "up")


@contextlib.contextmanager
def second_host(name: str) -> Iterator[Host]:
    """A host at `SECOND`, next to this one at `FIRST`; both addresses are gone at the end.

    Needs root, and a network of the tests' own: servers that listen on all addresses shall be nobody else's.
    """
    others = subprocess.run(["ip", "route", "show", "default"], check=True, capture_output=True, text=True).stdout
    assert not others, f"this network has a way out, {others.strip()}; expected none. Run `make test-slurm`"
    # It lasts as long as this process is in it, or another one.
    first = ["unshare", "--net", "--uts", "sh", "-c", f"hostname {name} && echo up && exec sleep infinity"]
    with subprocess.Popen(first, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            host = Host(name, ("nsenter", f"--target={process.pid}", "--net", "--uts"))
            _ip("link", "add", _SWITCH, "type", "bridge")
            try:
                _connect(host, process.pid)
                yield host
            finally:
                _ip("link", "delete", _SWITCH)
                subprocess.run(["ip", "link", "delete", _PORT], check=False, capture_output=True)
        finally:
            process.kill()


def _connect(host: Host, process: int) -> None:
    _ip("address", "add", f"{FIRST}/24", "dev", _SWITCH)
    _ip("link", "set", _SWITCH, "up")
    _ip("link", "add", _PORT, "type", "veth", "peer", "name", "eth0", "netns", str(process))
    _ip("link", "set", _PORT, "master", _SWITCH, "up")
    for words in (("address", "add", f"{SECOND}/24", "dev", "eth0"), ("link", "set", "lo", "up")):
        _ip(*words, inside=host.inside)
    _ip("link", "set", "eth0", "up", inside=host.inside)


def _ip(*words: str, inside: tuple[str, ...] = ()) -> None:
    subprocess.run([*inside, "ip", *words], check=True)
