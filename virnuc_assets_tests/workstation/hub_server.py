"""A model hub on loopback, as far as huggingface_hub asks for it, and a project in the full profile that uses it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from huggingface_hub import constants

from virnuc_assets.defs.resources import Workspace
from virnuc_assets.encoders.checkpoints import find_checkpoint
from virnuc_assets.settings import SETTINGS_FILE, load_settings
from virnuc_assets.storage.layout import Layout
from virnuc_assets.workstation.lock import LOCK_FILE, Locked, read_lock
from virnuc_assets.workstation.setup import set_up_encoders
from virnuc_assets_tests.cli.commands import virnuc

LISTING = "(listing)"
_LISTING_PATH = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?")
_FILE_PATH = re.compile(r"(?:/cdn)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_LFS = (".safetensors", ".bin")


class Hub(ThreadingHTTPServer):
    """Repositories, each with commits (a commit is a folder) and refs that can be moved.

    Attributes:
        requests: Count of all requests.
        gets: Count of GET requests by repository and file; `LISTING` for those that ask what a revision holds.
        cut: Repository and name of files that are sent by half, then the connection is closed.
        hidden: Repository and name of files that are not there.
        altered: By repository and name, what is sent instead of a file, under its true ETag and size.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests = 0
        self.gets: Counter[tuple[str, str]] = Counter()
        self.cut: set[tuple[str, str]] = set()
        self.hidden: set[tuple[str, str]] = set()
        self.altered: dict[tuple[str, str], bytes] = {}
        self._commits: defaultdict[str, dict[str, Path]] = defaultdict(dict)
        self._refs: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self._counting = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, repository: str, commit: str, folder: Path) -> None:
        """Serve a folder as a commit of a repository; no ref points to it before `move`."""
        self._commits[repository][commit] = folder

    def move(self, repository: str, ref: str, commit: str) -> None:
        """Let a ref, as a rule `main`, point to a commit."""
        self._refs[repository][ref] = commit

    def resolve(self, repository: str, revision: str) -> tuple[str, Path] | None:
        """Commit and folder of a commit or ref, None where there is no such revision."""
        commit = self._refs[repository].get(revision, revision)
        folder = self._commits[repository].get(commit)
        return None if folder is None else (commit, folder)

    def has(self, repository: str) -> bool:
        return repository in self._commits

    def count(self, key: tuple[str, str]) -> None:
        with self._counting:
            self.gets[key] += 1


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
        self.server.requests += 1
        url = urlsplit(self.path)
        path = unquote(url.path)
        listing, file = _LISTING_PATH.fullmatch(path), _FILE_PATH.fullmatch(path)
        match = listing or file
        if match is None or not self.server.has(match[1]):
            self._refuse("RepoNotFound", "Repository not found")
            return
        repository, revision = match[1], match[2] or "main"
        found = self.server.resolve(repository, revision)
        if found is None:
            self._refuse("RevisionNotFound", f"Invalid rev id: {revision}")
        elif listing:
            self._list(repository, *found, with_blobs="blobs" in parse_qs(url.query))
        else:
            self._send_file(repository, *found, match[3])

    do_HEAD = do_GET  # noqa: N815

    def _refuse(self, code: str, message: str, **headers: str) -> None:
        body = json.dumps({"error": message}).encode()
        self._send(404, body, {"X-Error-Code": code, "X-Error-Message": message, **headers})

    def _list(self, repository: str, commit: str, folder: Path, with_blobs: bool) -> None:
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        names = [name for name in names if (repository, name) not in self.server.hidden]
        siblings = [{"rfilename": name, **(_blob(folder / name) if with_blobs else {})} for name in names]
        content = {"id": repository, "modelId": repository, "sha": commit, "private": False, "siblings": siblings}
        self.server.count((repository, LISTING))
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json; charset=utf-8"})

    def _send_file(self, repository: str, commit: str, folder: Path, name: str) -> None:
        hub, key = self.server, (repository, name)
        if not (folder / name).is_file() or key in hub.hidden:
            self._refuse("EntryNotFound", "Entry not found", **{"X-Repo-Commit": commit})
            return
        blob = _blob(folder / name)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{blob["blobId"]}"'}
        if "lfs" in blob:
            headers["ETag"] = headers["X-Linked-Etag"] = f'"{blob["lfs"]["sha256"]}"'
            headers["X-Linked-Size"] = str(blob["size"])
            if not self.path.startswith("/cdn/"):  # the hub itself has no large files
                self._send(302, b"", {**headers, "Location": f"{hub.url}/cdn{self.path}"})
                return
        content = (folder / name).read_bytes()
        if self.command == "HEAD":  # the true size, which clients compare with what comes
            self._send(200, content, headers)
            return
        content = hub.altered.get(key, content)
        hub.count(key)
        self._send(200, content, headers, len(content) // 2 if key in hub.cut else None)

    def _send(self, status: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
        """Announce a body and send its first `length` bytes; close the connection where they are not all."""
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:length])
        self.close_connection = length is not None and length < len(body)


def _blob(path: Path) -> dict[str, Any]:
    """A file as the hub lists it: of a large one with its sha256."""
    content = path.read_bytes()
    listed: dict[str, Any] = {"blobId": hashlib.sha1(content).hexdigest(), "size": len(content)}
    if path.name.endswith(_LFS):
        listed["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 0}
    return listed


class Project:
    """A project on a machine.

    Attributes:
        root: Its folder, `project` in the machine's.
        cache: The machine's cache of the hub.
    """

    def __init__(self, machine: Path, settings: str = "", lock: Path | None = None) -> None:
        self.root, self.cache = machine / "project", machine / "home" / "hub"
        self.root.mkdir(parents=True)
        self.config, self.lock = self.root / SETTINGS_FILE, self.root / LOCK_FILE
        self.config.write_text(f'profile = "full"\n{settings}')
        if lock:
            shutil.copy(lock, self.lock)

    @property
    def workspace(self) -> Workspace:
        return Workspace(load_settings(self.root))

    @property
    def layout(self) -> Layout:
        return self.workspace.layout

    def locked(self, name: str) -> Locked:
        return read_lock(self.root).entries[name]

    def set_up(self, *names: str, update: Sequence[str] = ()) -> list[str]:
        """The lines that set-up of these encoders prints."""
        constants.HF_HUB_CACHE = str(self.cache)
        lines: list[str] = []
        set_up_encoders(self.workspace.settings, lines.append, names, update)
        return lines

    def refusal(self, *arguments: str) -> str:
        """The one message of `virnuc`, which fails."""
        constants.HF_HUB_CACHE = str(self.cache)
        result = virnuc(*arguments, "--project", self.root)
        assert (result.exit_code, result.stderr.count("error: ")) == (1, 1), result.output
        return result.stderr.partition("error: ")[2]

    def find(self, name: str) -> Path | None:
        """What a run would load."""
        return find_checkpoint(self.workspace.encoder_named(name), self.layout.checkpoints)
