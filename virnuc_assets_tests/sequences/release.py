"""A RefSeq release as NCBI's server has it: number, list of files, and a directory for each kind of organism."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from virnuc_assets_tests.storage.file_server import FileServer

NUMBER = 230


def publish(server: FileServer, files: Mapping[str, bytes], number: int = NUMBER) -> None:
    """Put a release of these files, by name, on a server."""
    server.files = {f"/{name.partition('.')[0]}/{name}": content for name, content in files.items()}
    lines = [f"{hashlib.md5(content).hexdigest()}\t{name}\n" for name, content in files.items()]
    server.files[f"/release-catalog/release{number}.files.installed"] = "".join(["MD5\tfile\n", *lines]).encode()
    server.files["/RELEASE_NUMBER"] = f"{number}\n".encode()
