"""A file server on loopback over TLS that misbehaves as it is asked to, and counts its requests and what it sent."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import trustme

_BLOCK = 4096


@dataclass(frozen=True)
class Answer:
    """How one request is answered; by default as it should be."""

    status: int | None = None  # this one with `headers` and without a body
    headers: dict[str, str | None] = field(default_factory=dict)  # more than, or None for one less than, belong there
    cut: int | None = None  # bytes of the body after which the connection is closed
    reset: bool = False  # close it with a reset, so that what is on its way is lost
    blind_to_range: bool = False  # send the whole file whatever was asked
    stall_s: float = 0.0  # silence after `cut` bytes
    becomes: bytes | None = None  # the file is this from now on


class FileServer(ThreadingHTTPServer):
    """Serves files from memory; all that is kept is by path."""

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.scheme = "https" if tls else "http"
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, deque[Answer]] = defaultdict(deque)  # to the next requests, one each
        self.always: dict[str, Answer] = {}  # to all others; without one as it should be
        self.gets: Counter[str] = Counter()
        self.asked: dict[str, list[dict[str, str]]] = defaultdict(list)  # headers of requests, in order
        self.sent: Counter[str] = Counter()  # bytes of bodies
        self.stop_after: int | None = None  # bytes of all bodies after which nothing is sent, and `stopped` is set,
        self.at_an_end = False  # but not before the file is sent to its end
        self.stopped = threading.Event()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    def left(self) -> int | None:
        """Bytes that may be sent before everything stops; None for all."""
        return None if self.stop_after is None else max(0, self.stop_after - self.sent.total())

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients of these tests go away without a word."""


class _Handler(BaseHTTPRequestHandler):
    server: FileServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:  # noqa: N802
        server, path = self.server, self.path
        if server.left() == 0 and server.stopped.is_set():  # a client that has its file whole asks for the next one
            self._hold(60.0)
            self.close_connection = True
            return
        server.gets[path] += 1
        server.asked[path].append(dict(self.headers.items()))
        waiting = server.answers[path]
        answer = waiting.popleft() if waiting else server.always.get(path, Answer())
        if answer.becomes is not None:
            server.files[path] = answer.becomes
        content = server.files.get(path)
        if answer.status or content is None:
            self._head(answer.status or 404, {"Content-Length": "0"}, answer)
            return
        headers = {"Accept-Ranges": "bytes"}
        asked = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-")
        start = 0 if answer.blind_to_range else int(asked)
        if start >= len(content) > 0:
            self._head(416, {"Content-Length": "0", "Content-Range": f"bytes */{len(content)}"}, answer)
            return
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        headers["Content-Length"] = str(len(content) - start)
        self._head(206 if start else 200, headers, answer)
        self._body(content[start:], answer)

    def _head(self, status: int, headers: dict[str, str], answer: Answer) -> None:
        self.send_response(status)
        for name, value in {**headers, **answer.headers}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()

    def _body(self, body: bytes, answer: Answer) -> None:
        server = self.server
        body = body[: answer.cut]
        for begin in range(0, len(body), _BLOCK):
            block = body[begin : begin + _BLOCK]
            if not server.at_an_end:
                block = block[: server.left()]
            self.wfile.write(block)
            server.sent[self.path] += len(block)
            if server.left() == 0 and (not server.at_an_end or begin + _BLOCK >= len(body)):
                server.stopped.set()
                self._hold(60.0)  # until the client is gone
                self.close_connection = True
                return
        if answer.stall_s:
            self._hold(answer.stall_s)
        self.close_connection = answer.cut is not None or "Content-Length" in answer.headers
        if answer.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _hold(self, seconds: float) -> None:
        self.connection.settimeout(seconds)
        self.rfile.read(1)


@dataclass(frozen=True)
class Authority:
    """A certificate authority of its own: what servers show, and the file that clients must trust."""

    tls: ssl.SSLContext
    bundle: Path

    @classmethod
    def made(cls, folder: Path) -> Authority:
        authority = trustme.CA()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        authority.cert_pem.write_to_path(str(folder / "authority.pem"))
        return cls(tls, folder / "authority.pem")
