"""A small Hugging Face hub for tests: the part of its HTTP API that `huggingface_hub` uses to read models.

In: folders that a test publishes as commits of a repository. Out: a `Hub` on a free loopback port, which clients find
through HF_ENDPOINT: model info, file tree, refs, and files by branch, tag or commit, with ETag, byte ranges, the
redirect that weights take, and gated repositories. The public hub cannot be reached from a test; this one answers with
its status codes and its X-Error-Code headers, which is what clients decide by.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_REPO = r"(?P<repo>[^/]+/[^/]+)"
_ROUTES = (
    ("info", re.compile(rf"/api/models/{_REPO}(/revision/(?P<revision>[^/]+))?")),
    ("tree", re.compile(rf"/api/models/{_REPO}/tree/(?P<revision>[^/]+)(/(?P<path>.+))?")),
    ("refs", re.compile(rf"/api/models/{_REPO}/refs")),
    ("resolve", re.compile(rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")),
    ("stored", re.compile(r"/stored/(?P<sha256>[0-9a-f]{64})")),
)
# These are kept outside git, as the hub's Large File Storage does, and are reached by a redirect.
_LARGE = (".safetensors", ".bin", ".gguf")


@dataclass(frozen=True)
class _File:
    source: Path
    size: int
    oid: str
    sha256: str

    @property
    def large(self) -> bool:
        return self.source.suffix in _LARGE

    def json(self, path: str) -> dict[str, Any]:
        lfs = {"lfs": {"oid": self.sha256, "size": self.size, "pointerSize": 134}} if self.large else {}
        return {"type": "file", "path": path, "size": self.size, "oid": self.oid, **lfs}


@dataclass
class _Repo:
    commits: dict[str, dict[str, _File]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    token: str | None = None

    def commit(self, revision: str) -> str | None:
        return (
            self.branches.get(revision) or self.tags.get(revision) or (revision if revision in self.commits else None)
        )


@dataclass
class Hub:
    """A running hub. `requests` has "METHOD path" of everything that was asked of it."""

    url: str = ""
    storage_url: str = ""
    requests: list[str] = field(default_factory=list)
    _repos: dict[str, _Repo] = field(default_factory=dict)

    def publish(self, repo: str, folder: Path, *, branch: str = "main", tag: str = "", token: str = "") -> str:
        """Commit the files in `folder`, which must stay as it is, and return the commit's sha. With a `token` the
        repository is gated, and open to that token only."""
        files = {
            path.relative_to(folder).as_posix(): _described(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        target = self._repos.setdefault(repo, _Repo())
        content = "\n".join([target.branches.get(branch, ""), *(f"{file.oid} {path}" for path, file in files.items())])
        sha = hashlib.sha1(content.encode()).hexdigest()
        target.commits[sha] = files
        target.branches[branch] = sha
        if tag:
            target.tags[tag] = sha
        target.token = token or target.token
        return sha

    def environment(self) -> dict[str, str]:
        """The variables by which a new process finds this hub (`huggingface_hub` reads them when it is imported)."""
        return {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_TELEMETRY": "1"}

    def find(self, repo: str) -> _Repo | None:
        return self._repos.get(repo)

    def stored(self, sha256: str) -> _File | None:
        commits = (files for repo in self._repos.values() for files in repo.commits.values())
        return next((file for files in commits for file in files.values() if file.sha256 == sha256), None)


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Run an empty hub for the length of the block."""
    hub = Hub()
    # Weights lie on another host than the hub: clients must follow there, and leave their token behind.
    with _serving(hub) as hub.url, _serving(hub) as hub.storage_url:
        yield hub


@contextmanager
def _serving(hub: Hub) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, hub)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _described(path: Path) -> _File:
    data = path.read_bytes()
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return _File(path, len(data), oid, hashlib.sha256(data).hexdigest())


class _Refusal(Exception):
    """An answer that ends a request: status, X-Error-Code and a message."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        try:
            for name, route in _ROUTES:
                if found := route.fullmatch(path):
                    getattr(self, f"_{name}")(**found.groupdict())
                    return
            raise _Refusal(HTTPStatus.NOT_FOUND, "", f"this hub has no {path}")
        except _Refusal as refusal:
            headers = {"X-Error-Code": refusal.code} if refusal.code else {}
            self._answer_json({"error": str(refusal)}, refusal.status, {**headers, "X-Error-Message": str(refusal)})

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 (the name in the base class)
        """Silence: `requests` has it."""

    def _info(self, repo: str, revision: str | None) -> None:
        found, sha, files = self._files(repo, revision or "main")
        siblings = [{"rfilename": path} for path in files]
        gated = "manual" if found.token else False
        self._answer_json({"id": repo, "sha": sha, "private": False, "gated": gated, "tags": [], "siblings": siblings})

    def _tree(self, repo: str, revision: str, path: str | None) -> None:
        _, _, files = self._files(repo, revision)
        below = {name: file for name, file in files.items() if not path or name.startswith(f"{path}/")}
        if path and not below:
            raise _Refusal(HTTPStatus.NOT_FOUND, "EntryNotFound", f"{path} does not exist")
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", [""])[0].lower() in ("true", "1")
        depth = path.count("/") + 1 if path else 0
        folders = {"/".join(name.split("/")[:cut]) for name in below for cut in range(depth + 1, name.count("/") + 1)}
        listed = [{"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in sorted(folders)]
        listed += [file.json(name) for name, file in below.items()]
        self._answer_json([each for each in listed if recursive or str(each["path"]).count("/") == depth])

    def _refs(self, repo: str) -> None:
        found = self._repo(repo)
        self._answer_json(
            {
                kind: [
                    {"name": name, "ref": f"refs/{prefix}/{name}", "targetCommit": sha} for name, sha in refs.items()
                ]
                for kind, prefix, refs in (("branches", "heads", found.branches), ("tags", "tags", found.tags))
            }
            | {"converts": []}
        )

    def _resolve(self, repo: str, revision: str, path: str) -> None:
        found, sha, files = self._files(repo, revision)
        self._check_gate(found, repo)
        if path not in files:
            raise _Refusal(HTTPStatus.NOT_FOUND, "EntryNotFound", "Entry not found")
        file, commit = files[path], {"X-Repo-Commit": sha}
        if not file.large:
            self._answer_file(file, {**commit, "ETag": f'"{file.oid}"'})
            return
        linked = {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        location = {"Location": f"{self.hub.storage_url}/stored/{file.sha256}"}
        self._answer(HTTPStatus.FOUND, b"", {**commit, **linked, **location})

    def _stored(self, sha256: str) -> None:
        if self.headers.get("Authorization"):
            raise _Refusal(HTTPStatus.BAD_REQUEST, "", "a token was sent to the storage host")
        file = self.hub.stored(sha256)
        if file is None:
            raise _Refusal(HTTPStatus.NOT_FOUND, "", "no such object")
        self._answer_file(file, {"ETag": f'"{sha256}"'})

    def _repo(self, repo: str) -> _Repo:
        found = self.hub.find(repo)
        if found is None:
            # The public hub does not tell strangers whether a repository is private or not there.
            signed_in = self.headers.get("Authorization") is not None
            status = HTTPStatus.NOT_FOUND if signed_in else HTTPStatus.UNAUTHORIZED
            raise _Refusal(status, "RepoNotFound", "Repository not found")
        return found

    def _files(self, repo: str, revision: str) -> tuple[_Repo, str, dict[str, _File]]:
        found = self._repo(repo)
        sha = found.commit(revision)
        if sha is None:
            raise _Refusal(HTTPStatus.NOT_FOUND, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found, sha, found.commits[sha]

    def _check_gate(self, found: _Repo, repo: str) -> None:
        given = self.headers.get("Authorization")
        if found.token is None or given == f"Bearer {found.token}":
            return
        status = HTTPStatus.FORBIDDEN if given else HTTPStatus.UNAUTHORIZED
        raise _Refusal(status, "GatedRepo", f"Access to model {repo} is restricted.")

    def _answer_json(
        self, value: Any, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
    ) -> None:
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _answer_file(self, file: _File, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        data = file.source.read_bytes()
        headers = {**headers, "Accept-Ranges": "bytes"}
        if wanted is None:
            self._answer(HTTPStatus.OK, data, headers)
            return
        first, last = int(wanted[1]), min(int(wanted[2] or file.size - 1), file.size - 1)
        if first > last:
            self._answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", {"Content-Range": f"bytes */{file.size}"})
            return
        headers["Content-Range"] = f"bytes {first}-{last}/{file.size}"
        self._answer(HTTPStatus.PARTIAL_CONTENT, data[first : last + 1], headers)

    def _answer(self, status: HTTPStatus, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
