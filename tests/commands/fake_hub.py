"""A Hugging Face hub on this machine: the few answers of its HTTP interface that huggingface_hub needs to download."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from commands.shared.hub import download_model

INFO = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/revision/(?P<revision>[^/?]+)")
TREE = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/?]+)")
FILE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
GATED = (403, "GatedRepo")
UNKNOWN = (401, "RepoNotFound")  # what the hub answers who is not logged in


class FakeHub:
    """Repositories as folders below `root`, each of one revision, `main`, and its commit.

    refused: repository -> status and error code that it answers. paths: of all requests, in order. endpoint: its
    address.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.refused, self.paths, self.endpoint = root, dict[str, tuple[int, str]](), list[str](), ""

    def find_commit(self, repo: str) -> str:
        return hashlib.sha1(repo.encode()).hexdigest()

    def list_files(self, repo: str) -> list[str]:
        folder = self.root / repo
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    @property
    def downloaded(self) -> set[str]:
        """Files that were asked for."""
        return {match["file"] for match in map(FILE.match, self.paths) if match}


class Handler(BaseHTTPRequestHandler):
    def __init__(self, hub: FakeHub, *rest: object) -> None:
        self.hub = hub
        super().__init__(*rest)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.hub
        hub.paths.append(self.path)
        match = INFO.match(self.path) or TREE.match(self.path) or FILE.match(self.path)
        assert match, self.path
        repo, commit = match["repo"], hub.find_commit(match["repo"])
        if repo in hub.refused or not (hub.root / repo).is_dir():
            return self.refuse(*hub.refused.get(repo, UNKNOWN))
        if match["revision"] not in ("main", commit):
            return self.refuse(404, "RevisionNotFound")
        if match.re is INFO:
            siblings = [{"rfilename": path} for path in hub.list_files(repo)]
            return self.answer(json.dumps({"id": repo, "sha": commit, "siblings": siblings}).encode(), {})
        if match.re is TREE:
            files = [{"type": "file", "path": path, **self.describe(repo, path)} for path in hub.list_files(repo)]
            return self.answer(json.dumps(files).encode(), {"Content-Type": "application/json"})
        content = (hub.root / repo / match["file"]).read_bytes()
        return self.answer(content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit})

    def describe(self, repo: str, path: str) -> dict[str, object]:
        content = (self.hub.root / repo / path).read_bytes()
        return {"oid": hashlib.sha1(content).hexdigest(), "size": len(content)}

    def answer(self, content: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def refuse(self, status: int, code: str) -> None:
        self.answer(b"{}", {"X-Error-Code": code} if code else {}, status)

    def log_message(self, *args: object) -> None:
        """Nothing in the output of tests."""


def use_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub keep its files below a folder, know no login, and forget what this process has read."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    download_model.cache_clear()


def set_endpoint(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub speak to this address."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


@contextmanager
def serve_hub(root: Path) -> Iterator[FakeHub]:
    """A hub that answers until the block ends."""
    hub = FakeHub(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, hub))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
