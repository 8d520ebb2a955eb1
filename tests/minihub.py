"""A Hub on loopback for the tests: real HTTP, real commits in memory, faults on demand. Standard library only.

It answers what the unmodified huggingface_hub client asks of models, as the Hub does: status codes, headers and error codes
are the Hub's. Xet is not part of it: HF_HUB_DISABLE_XET=1. A repository "datasets/user/name" is a data set, to be read.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".png", ".bin")
TOKENS = {"hf_alice": ("alice", "write"), "hf_reader": ("bob", "read"), "hf_bob": ("bob", "write")}


@dataclass
class Repo:
    private: bool = False
    gated: bool = False
    commits: dict[str, tuple[str, dict[str, bytes]]] = field(default_factory=dict)
    """Commit to (message, files)."""
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: Mapping[str, bytes], message: str) -> str:
        oid = hashlib.sha1(f"{len(self.commits)}{branch}{message}".encode()).hexdigest()
        self.commits[oid] = (message, dict(files))
        self.branches[branch] = oid
        return oid

    def resolve(self, revision: str) -> str | None:
        found = self.branches.get(revision) or self.tags.get(revision)
        return found or (revision if revision in self.commits else None)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.branches["main"]][1]


@dataclass
class Fault:
    """What goes wrong with the next `times` requests that match."""

    method: str
    path: str
    """A pattern that is searched in the path."""
    kind: str
    """status, reset, cut, cutreset, stall, corrupt, header, drop_header, after_reset (done, then no answer)"""
    value: Any = None
    times: int = 1


class MiniHub:
    """The server; `repos` is its content, `faults` what goes wrong, `requests` what was asked."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.uploads: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._start(0)

    def _start(self, port: int) -> None:
        hub = self

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:  # a client that went away is part of the game
                pass

        class Bound(Handler):
            pass

        Bound.hub = hub
        self.server = Server(("127.0.0.1", port), Bound)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def gone(self) -> Iterator[None]:
        """Nobody listens, and open connections end."""
        self.server.shutdown()
        self.server.server_close()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._connections.clear()
        try:
            yield
        finally:
            self._start(self.port)

    def add(self, repo_id: str, files: Mapping[str, bytes], **options: bool) -> str:
        repo = self.repos[repo_id] = Repo(**options)
        return repo.commit("main", files, "initial commit")

    def fail(self, method: str, path: str, kind: str, value: Any = None, times: int = 1) -> None:
        self.faults.append(Fault(method, path, kind, value, times))

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            self.requests.append((method, path))
            for fault in self.faults:
                if fault.times and fault.method in (method, "*") and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def asked(self, method: str, path: str) -> int:
        return sum(method == m and bool(re.search(path, p)) for m, p in self.requests)


def _reset(connection: socket.socket) -> None:
    """Make its end, which comes with the request's, a reset in place of a goodbye."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _oid(name: str, content: bytes) -> str:
    if name.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Answer(Exception):
    """What a request is answered: raised, so that any depth can say it."""

    def __init__(self, status: int, body: Any = None, **headers: str) -> None:
        self.status, self.headers = status, {key.replace("_", "-"): value for key, value in headers.items()}
        self.body = body if isinstance(body, bytes) else json.dumps(body if body is not None else {}).encode()


class Handler(BaseHTTPRequestHandler):
    hub: MiniHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.hub._connections.add(self.connection)
        self.parts = urlsplit(self.path)
        path, fault = unquote(self.parts.path), self.hub.fault(self.command, unquote(self.path))
        body = self._body()
        if fault and fault.kind == "status":
            status, headers = fault.value if isinstance(fault.value, tuple) else (fault.value, {})
            return self._send(Answer(status, {"error": "fault"}, **headers), None)
        if fault and fault.kind == "reset":
            return self._drop()
        try:
            with self.hub.lock:
                self._route(path, body)
            answer = Answer(404)
        except Answer as raised:
            answer = raised
        if fault and fault.kind == "after_reset":
            return self._drop()
        self._send(answer, fault)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _drop(self) -> None:
        self.close_connection = True
        _reset(self.connection)

    def _send(self, answer: Answer, fault: Fault | None) -> None:
        body, headers = (
            answer.body,
            {"Content-Length": str(len(answer.body)), "Content-Type": "application/json", **answer.headers},
        )
        kind = fault.kind if fault else ""
        if kind == "corrupt" and body:
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        if fault and kind == "header":
            headers |= fault.value
        if fault and kind == "drop_header":
            headers = {key: value for key, value in headers.items() if key not in fault.value}
        self.send_response(answer.status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault and kind in ("cut", "cutreset", "stall"):
            sent, seconds = fault.value if isinstance(fault.value, tuple) else (fault.value, 0)
            self.wfile.write(body[:sent])
            self.wfile.flush()
            if kind == "stall":
                time.sleep(seconds)
                body = body[sent:]
            else:
                time.sleep(0.05)
                self.close_connection = True
                return _reset(self.connection) if kind == "cutreset" else None
        self.wfile.write(body)

    # What the Hub answers

    def _route(self, path: str, body: bytes) -> None:
        user = self._user()
        if path == "/api/whoami-v2" and user:
            token = {"displayName": "t", "role": user[1]}
            raise Answer(
                200, {"type": "user", "name": user[0], "orgs": [], "auth": {"type": "access_token", "accessToken": token}}
            )
        if path == "/api/repos/create":
            self._create(json.loads(body), user)
        if path == "/api/validate-yaml":
            raise Answer(200, {"errors": [], "warnings": []})
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            self._writable(found[1], user)
            objects = [self._large(entry) for entry in json.loads(body)["objects"]]
            raise Answer(200, {"transfer": "basic", "objects": objects})
        if found := re.fullmatch(r"/upload/(\w{64})(/verify)?", path):
            if self.command == "PUT":
                if hashlib.sha256(body).hexdigest() != found[1]:
                    raise Answer(400, {"error": "the content has another hash"})
                self.hub.uploads[found[1]] = body
            raise Answer(200)
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            self._file(self._visible(found[1], user, content=True), found[2], found[3])
        if found := re.fullmatch(r"/(datasets/[\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            self._file(self._visible(found[1], user, content=True), found[2], found[3])
        if found := re.fullmatch(r"/api/(datasets/[\w.-]+/[\w.-]+)(?:/([\w-]+)(?:/([^/]+)(?:/(.*))?)?)?", path):
            self._data_set(found[1], found[2] or "revision", found[3] or "main", found[4] or "", body, user)
        if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/(\w+)(?:/(.+))?)?", path):
            self._api(found[1], found[2] or "revision", found[3] or "main", body, user)

    def _api(self, repo_id: str, verb: str, rest: str, body: bytes, user: tuple[str, str] | None) -> None:
        repo = self._visible(repo_id, user)
        if verb == "refs":
            refs = {kind: [{"name": name, "ref": f"refs/{at}/{name}", "targetCommit": oid} for name, oid in found.items()]
                    for kind, at, found in (("branches", "heads", repo.branches), ("tags", "tags", repo.tags))}  # fmt: skip
            raise Answer(200, refs | {"converts": []})
        if verb in ("branch", "tag", "preupload", "commit"):
            self._writable(repo_id, user)
        if verb == "branch":
            start = json.loads(body or b"{}").get("startingPoint", "main")
            if rest in repo.branches:
                raise Answer(409, {"error": "exists"})
            repo.branches[rest] = repo.resolve(start) or ""
            raise Answer(200)
        commit = self._commit_of(repo, rest)
        if verb == "tag":
            tag = json.loads(body)["tag"]
            if tag in repo.tags:
                raise Answer(409, {"error": "exists"})
            repo.tags[tag] = commit
            raise Answer(200)
        if verb == "preupload":
            asked, files = json.loads(body)["files"], repo.commits[commit][1]
            raise Answer(200, {"files": [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular", "shouldIgnore": False,
                 **({"oid": _oid(f["path"], files[f["path"]])} if f["path"] in files else {})} for f in asked]})  # fmt: skip
        if verb == "commit":
            self._commit(repo_id, rest, commit, [json.loads(line) for line in body.splitlines()])
        if verb == "revision":
            raise Answer(200, self._info(repo_id, repo, commit))

    def _data_set(
        self, repo_id: str, verb: str, revision: str, folder: str, body: bytes, user: tuple[str, str] | None
    ) -> None:
        repo = self._visible(repo_id, user)
        commit = self._commit_of(repo, revision)
        files = [{"type": "file", "path": name, "size": len(content), "oid": _oid(name, content)}
                 for name, content in repo.commits[commit][1].items()]  # fmt: skip
        if verb == "revision":
            raise Answer(200, self._info(repo_id.removeprefix("datasets/"), repo, commit))
        if verb == "tree":
            below = [file for file in files if str(file["path"]).startswith(f"{folder}/" if folder else "")]
            depth = len(folder.split("/")) if folder else 0
            parts = [str(file["path"]).split("/") for file in below]
            folders = dict.fromkeys("/".join(names[: depth + 1]) for names in parts if len(names) > depth + 1)
            if "recursive=true" not in self.path.lower():
                below = [file for file, names in zip(below, parts, strict=True) if len(names) == depth + 1]
            raise Answer(200, [*below, *({"type": "directory", "path": name, "oid": "0" * 40} for name in folders)])
        if verb == "paths-info":
            asked = parse_qs(body.decode()).get("paths", []) or json.loads(body or b"{}").get("paths", [])
            raise Answer(200, [file for file in files if file["path"] in asked])

    def _info(self, repo_id: str, repo: Repo, commit: str) -> dict[str, Any]:
        siblings: list[dict[str, Any]] = []
        for name, content in sorted(repo.commits[commit][1].items()):
            entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": _oid(name, content)}
            if name.endswith(LARGE):
                entry |= {
                    "blobId": "0" * 40,
                    "lfs": {"sha256": _oid(name, content), "size": len(content), "pointerSize": 130},
                }
            siblings.append(entry)
        return {"_id": "1", "id": repo_id, "modelId": repo_id, "author": repo_id.split("/")[0], "sha": commit,
                "private": repo.private, "tags": [], "downloads": 0, "likes": 0, "lastModified": "2026-01-01T00:00:00.000Z",
                "createdAt": "2026-01-01T00:00:00.000Z", "siblings": siblings}  # fmt: skip

    def _commit(self, repo_id: str, branch: str, head: str, lines: list[dict[str, Any]]) -> None:
        repo = self.hub.repos[repo_id]
        header, files = lines[0]["value"], dict(repo.commits[head][1])
        if header.get("parentCommit") not in (None, head):
            raise Answer(412, {"error": "A commit has happened since."})
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        oid = repo.commit(branch, files, header["summary"])
        raise Answer(
            200, {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{oid}", "hookOutput": ""}
        )

    def _file(self, repo: Repo, revision: str, name: str) -> None:
        commit = self._commit_of(repo, revision)
        files = repo.commits[commit][1]
        if name not in files:
            raise Answer(404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found", X_Repo_Commit=commit)
        content, oid = files[name], _oid(name, files[name])
        headers = {"X-Repo-Commit": commit, "ETag": f'"{oid}"', "Accept-Ranges": "bytes"}
        if name.endswith(LARGE):
            headers |= {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{oid}"'}
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(found[1]), min(int(found[2] or len(content)) + 1, len(content))
            if start >= len(content):
                raise Answer(416, **headers)
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
            raise Answer(206, content[start:end], **headers)
        raise Answer(200, content, **headers)

    def _large(self, entry: dict[str, Any]) -> dict[str, Any]:
        if entry["oid"] in self.hub.uploads:
            return entry
        href = f"{self.hub.url}/upload/{entry['oid']}"
        return entry | {"actions": {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}}

    def _create(self, wanted: dict[str, Any], user: tuple[str, str] | None) -> None:
        owner = wanted.get("organization") or (user[0] if user else "")
        repo_id = f"{owner}/{wanted['name']}"
        self._writable(repo_id, user)
        url = {"url": f"{self.hub.url}/{repo_id}", "name": repo_id, "id": "1"}
        if repo_id in self.hub.repos:
            raise Answer(409, url | {"error": "You already created this model repo"})
        self.hub.add(
            repo_id, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=wanted.get("visibility") == "private"
        )
        raise Answer(200, url)

    # Who may do what

    def _user(self) -> tuple[str, str] | None:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if given and given not in TOKENS:
            raise Answer(401, X_Error_Message="Invalid credentials in Authorization header")
        return TOKENS.get(given)

    def _visible(self, repo_id: str, user: tuple[str, str] | None, content: bool = False) -> Repo:
        repo = self.hub.repos.get(repo_id)
        owner = user is not None and repo_id.startswith(f"{user[0]}/")
        if repo is None or (repo.private and not owner):
            raise Answer(404 if user else 401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        if repo.gated and not owner and content:
            raise Answer(403, X_Error_Code="GatedRepo", X_Error_Message="Access to this model is restricted.")
        return repo

    def _writable(self, repo_id: str, user: tuple[str, str] | None) -> None:
        if user is None:
            raise Answer(401, X_Error_Message="Unauthorized")
        if user[1] != "write" or not repo_id.startswith(f"{user[0]}/"):
            token = self.headers["Authorization"]
            raise Answer(403, X_Error_Message=f"You don't have the rights to create a model for {repo_id} with {token}")

    def _commit_of(self, repo: Repo, revision: str) -> str:
        commit = repo.resolve(unquote(revision))
        if commit is None:
            raise Answer(404, X_Error_Code="RevisionNotFound", X_Error_Message=f"Invalid rev id: {revision}")
        return commit
