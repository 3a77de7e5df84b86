"""A model hub on loopback: as much of the hub's HTTP interface as `snapshot_download` asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

LISTING = "(listing)"


class Hub(ThreadingHTTPServer):
    """Serves one folder as one repository at one revision.

    Attributes:
        gets: Count of GET requests by file name; `LISTING` for those that ask which files there are.
        delay_s: Pause before a file is sent, so that two clients overlap.
        cut: Names of files that are sent by half, then the connection is closed.
        hidden: Names of files that the repository does not list.
    """

    daemon_threads = True

    def __init__(self, folder: Path, repository: str, revision: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.repository, self.revision = folder, repository, revision
        self.gets: Counter[str] = Counter()
        self.delay_s = 0.0
        self.cut: set[str] = set()
        self.hidden: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:  # noqa: N802 - the name that http.server calls
        self._answer(with_body=False)

    def do_GET(self) -> None:  # noqa: N802
        self._answer(with_body=True)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, with_body: bool) -> None:
        hub, path = self.server, unquote(self.path.partition("?")[0])
        if path == f"/api/models/{hub.repository}/revision/{hub.revision}":
            names = sorted(path.name for path in hub.folder.iterdir() if path.name not in hub.hidden)
            listing = {"id": hub.repository, "sha": hub.revision, "siblings": [{"rfilename": name} for name in names]}
            hub.gets[LISTING] += 1
            self._send(json.dumps(listing).encode(), {"Content-Type": "application/json"}, with_body)
            return
        name = path.removeprefix(f"/{hub.repository}/resolve/{hub.revision}/")
        if not (hub.folder / name).is_file() or name in hub.hidden:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = (hub.folder / name).read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        headers = {"X-Repo-Commit": hub.revision, "ETag": f'"{git}"', "Accept-Ranges": "bytes"}
        if name.endswith((".safetensors", ".bin")):  # kept by LFS, as the hub does from 10 MB on
            headers["X-Linked-Etag"] = f'"{hashlib.sha256(content).hexdigest()}"'
            headers["X-Linked-Size"] = str(len(content))
        if with_body:
            hub.gets[name] += 1
            threading.Event().wait(hub.delay_s)
        self._send(content, headers, with_body, cut=name in hub.cut)

    def _send(self, content: bytes, headers: dict[str, str], with_body: bool, cut: bool = False) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0]) if with_body else 0
        self.send_response(206 if start else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if with_body:
            self.wfile.write(content[start : start + (len(content) - start) // 2] if cut else content[start:])
        self.close_connection = cut


@contextmanager
def served(folder: Path, repository: str, revision: str) -> Iterator[Hub]:
    """The hub, answering until the block ends."""
    hub = Hub(folder, repository, revision)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
