"""A Hub on this machine that answers the real clients: repositories, commits, tags, large files; goes wrong on order.

Holds everything in memory. Files of some names, or larger than a commit takes, go by Git LFS; Xet is not spoken.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".parquet", ".safetensors")
TOKEN = "hf_fakeTokenOfNobody123"
WHEN = "2026-01-01T00:00:00.000Z"
_REPO = r"(?P<kind>datasets|models)/(?P<repo>[^/]+/[^/]+)"
_FILE = re.compile(r"/(?:(?P<kind>datasets)/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<path>.+)")
_BATCH = re.compile(r"/(?:(?P<kind>datasets)/)?(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch")


class Seen(NamedTuple):
    """A request, as it came. status: of the answer; None: the way was cut. size: bytes of its body."""

    method: str
    path: str
    status: int | None
    size: int


class Fault(NamedTuple):
    """How a request goes wrong.

    status:      of the answer; None: the connection is closed without one.
    acted:       whether the server does what was asked nevertheless.
    retry_after: seconds, in a header.
    text:        of the answer.
    """

    status: int | None = None
    acted: bool = False
    retry_after: int | None = None
    text: str = "busy"


class Answer(NamedTuple):
    status: int
    body: bytes = b"{}"
    headers: dict[str, str] = {}  # noqa: RUF012


@dataclass
class Repo:
    """commits: paths and contents, by id; the last is main's."""

    name: str
    kind: str
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    gated: str | bool = False

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    def commit(self, files: dict[str, bytes]) -> str:
        oid = hashlib.sha1(f"{self.name} {len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[oid] = dict(files)
        return oid

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, tag or id."""
        found = self.head if revision == "main" else self.tags.get(revision, revision)
        return found if found in self.commits else None


def is_large(path: str, size: int) -> bool:
    """Whether a file goes by LFS."""
    return path.endswith(LARGE) or size > 10 * 2**20


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class FakeHub:
    """Use as a context manager.

    fault: the fault, if any, of a request; `number` counts them from 0.
    """

    fault: Callable[[int, str, str], Fault | None] = lambda number, method, path: None
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    asked: int = 0

    def __enter__(self) -> FakeHub:
        hub = self

        class Handler(_Handler):
            server_of = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(self, name: str, files: dict[str, bytes], *, kind: str = "datasets", private: bool = True) -> Repo:
        """A repository of somebody."""
        repo = self.repos[kind, name] = Repo(name, kind, private)
        repo.commit({".gitattributes": b"", **files})
        return repo

    def forget(self) -> None:
        """Begin the log and the count of requests anew."""
        self.seen, self.asked = [], 0

    def sent(self) -> int:
        """Bytes of large files that came."""
        return sum(one.size for one in self.seen if one.method == "PUT" and one.path.startswith("/lfs/"))

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: bytes, token: str) -> Answer:
        """What the Hub answers to a request that does not go wrong."""
        for pattern, methods, act in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found and method in methods:
                named = found.groupdict()
                repo = None
                if "repo" in named:
                    repo = self.repos.get((named.pop("kind") or "models", named.pop("repo")))
                    if repo is None or (repo.private and token != TOKEN):
                        return _error(404, "RepoNotFound", "Repository Not Found")
                if method not in ("GET", "HEAD") and "paths-info" not in path and token != TOKEN and repo is not None:
                    return _error(403, "", f"Forbidden for {token}")
                return act(self, repo, {**named, "query": query, "body": body, "token": token})
        return _error(404, "EntryNotFound", f"nothing at {path}")


def _json(value: object, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def _error(status: int, code: str, text: str) -> Answer:
    return Answer(status, json.dumps({"error": text}).encode(), {"X-Error-Code": code, "X-Error-Message": text})


def _create(hub: FakeHub, repo: None, of: dict[str, Any]) -> Answer:
    if of["token"] != TOKEN:
        return _error(401, "", f"Invalid credentials {of['token']}")
    asked = json.loads(of["body"])
    name, kind = f"{asked.get('organization') or 'me'}/{asked['name']}", f"{asked.get('type', 'model')}s"
    if (kind, name) in hub.repos:
        return _error(409, "", "You already created this dataset repo")
    private = asked.get("visibility", "private" if asked.get("private") else "public") == "private"
    hub.add(name, {}, kind=kind, private=private)
    return _json({"url": f"{hub.endpoint}/{'datasets/' if kind == 'datasets' else ''}{name}"})


def _info(hub: FakeHub, repo: Repo, of: dict[str, Any]) -> Answer:
    commit = repo.resolve(of.get("rev") or "main")
    if commit is None:
        return _error(404, "RevisionNotFound", "Invalid rev id")
    files = [{"rfilename": path} for path in sorted(repo.commits[commit])]
    rest = {"gated": repo.gated, "disabled": False, "downloads": 0, "likes": 0, "tags": [], "siblings": files}
    named = {"_id": "0", "id": repo.name, "sha": commit, "private": repo.private}
    return _json(named | rest | {"lastModified": WHEN, "createdAt": WHEN})


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": len(data), "oid": blob_id(data)}
    if is_large(path, len(data)):
        entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
    return entry


def _tree(hub: FakeHub, repo: Repo, of: dict[str, Any]) -> Answer:
    commit, below = repo.resolve(unquote(of["rev"])), unquote(of["path"] or "").strip("/")
    if commit is None:
        return _error(404, "RevisionNotFound", "Invalid rev id")
    files = repo.commits[commit]
    found, folders = [], set()
    recursive = of["query"].get("recursive", ["false"])[0].lower() == "true"
    for path, data in sorted(files.items()):
        rest = path if not below else path.removeprefix(f"{below}/") if path.startswith(f"{below}/") else None
        if rest is None:
            continue
        parts = rest.split("/")
        above = [f"{below}/{'/'.join(parts[:n])}".lstrip("/") for n in range(1, len(parts))]
        folders.update(above if recursive else above[:1])
        if recursive or len(parts) == 1:
            found.append(_entry(path, data))
    if below and not found and not folders:
        return _error(404, "EntryNotFound", f"{below} does not exist")
    return _json(
        [*({"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)), *found]
    )


def _paths(hub: FakeHub, repo: Repo, of: dict[str, Any]) -> Answer:
    body = of["body"].decode()
    paths = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
    files = repo.commits[repo.resolve(unquote(of["rev"]))]
    found = [_entry(path, files[path]) for path in paths if path in files]
    found += [
        {"type": "directory", "path": path, "size": 0, "oid": "0" * 40}
        for path in paths
        if any(name.startswith(f"{path}/") for name in files)
    ]
    return _json(found)


def _refs(hub: FakeHub, repo: Repo, of: dict[str, Any]) -> Answer:
    tags = [{"name": name, "ref": f"refs/tags/{name}", "targetCommit": oid} for name, oid in repo.tags.items()]
    branches = [{"name": "main", "ref": "refs/heads/main", "targetCommit": repo.head}]
    return _json({"branches": branches, "converts": [], "tags": tags})


def _preupload(hub: FakeHub, repo: Repo, of: dict[str, Any]) -> Answer:
    there, found = repo.commits[repo.head], []
    for file in json.loads(of["body"])["files"]:
        path, large = file["path"], is_large(file["path"], file["size"])
        data = there.get(path)
        oid = None if data is None else sha256(data) if large else blob_id(data)
        found.append({"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid})
    return _json({"files": found})


def _batch(hub: FakeHub, repo: Repo, of: dict[str, Any]) -> Answer:
    objects = []
    for one in json.loads(of["body"])["objects"]:
        found = {"oid": one["oid"], "size": one["size"]}
        if one["oid"] not in hub.objects:
            found["actions"] = {
                "upload": {"href": f"{hub.endpoint}/lfs/{one['oid']}", "header": {}},
                "verify": {"href": f"{hub.endpoint}/lfs-verify/{one['oid']}", "header": {}},
            }
        objects.append(found)
    return _json({"transfer": "basic", "objects": objects})


def _put(hub: FakeHub, repo: None, of: dict[str, Any]) -> Answer:
    if sha256(of["body"]) != of["oid"]:
        return _error(400, "", "other bytes than were announced")
    hub.objects[of["oid"]] = of["body"]
    return Answer(200)


def _verify(hub: FakeHub, repo: None, of: dict[str, Any]) -> Answer:
    asked = json.loads(of["body"])
    held = len(hub.objects.get(asked["oid"], b"")) == asked["size"]
    return Answer(200) if held else _error(404, "", "no such object")


def _commit(hub: FakeHub, repo: Repo, of: dict[str, Any]) -> Answer:
    lines = [json.loads(line) for line in of["body"].splitlines()]
    parent = lines[0]["value"].get("parentCommit")
    if parent is not None and parent != repo.head:
        return _error(412, "", "A commit has happened since. Please refresh and try again.")
    files = dict(repo.commits[repo.head])
    for line in lines[1:]:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            if value["oid"] not in hub.objects:
                return _error(400, "", f"{value['path']} was not uploaded")
            files[value["path"]] = hub.objects[value["oid"]]
        elif line["key"] == "deletedFile":
            del files[value["path"]]
    oid = repo.commit(files)
    return _json({"success": True, "commitOid": oid, "commitUrl": f"{hub.endpoint}/{repo.name}/commit/{oid}"})


def _add_tag(hub: FakeHub, repo: Repo, of: dict[str, Any]) -> Answer:
    tag, commit = json.loads(of["body"])["tag"], repo.resolve(unquote(of["rev"]))
    if tag in repo.tags:
        return _error(409, "", f"Tag reference exists already: {tag}")
    repo.tags[tag] = commit
    return _json({})


def _settings(hub: FakeHub, repo: Repo, of: dict[str, Any]) -> Answer:
    repo.gated = json.loads(of["body"])["gated"]
    return _json({"gated": repo.gated})


def _file(hub: FakeHub, repo: Repo, of: dict[str, Any]) -> Answer:
    commit, path = repo.resolve(unquote(of["rev"])), unquote(of["path"])
    if commit is None:
        return _error(404, "RevisionNotFound", "Invalid rev id")
    if path not in repo.commits[commit]:
        return _error(404, "EntryNotFound", f"{path} does not exist")
    data = repo.commits[commit][path]
    headers = {"X-Repo-Commit": commit, "ETag": f'"{blob_id(data)}"', "Accept-Ranges": "bytes"}
    if is_large(path, len(data)):
        headers |= {"ETag": f'"{sha256(data)}"', "X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
    return Answer(200, data, headers)


_ROUTES: list[tuple[str, tuple[str, ...], Callable[[FakeHub, Any, dict[str, Any]], Answer]]] = [
    ("/api/repos/create", ("POST",), _create),
    ("/api/whoami-v2", ("GET",), lambda hub, repo, of: _json({"name": "me", "type": "user", "orgs": []})),
    ("/api/validate-yaml", ("POST",), lambda hub, repo, of: _json({"errors": [], "warnings": []})),
    (f"/api/{_REPO}(?:/revision/(?P<rev>[^/]+))?", ("GET",), _info),
    (f"/api/{_REPO}/tree/(?P<rev>[^/]+)(?P<path>/.*)?", ("GET",), _tree),
    (f"/api/{_REPO}/paths-info/(?P<rev>[^/]+)", ("POST",), _paths),
    (f"/api/{_REPO}/refs", ("GET",), _refs),
    (f"/api/{_REPO}/preupload/(?P<rev>[^/]+)", ("POST",), _preupload),
    (f"/api/{_REPO}/commit/(?P<rev>[^/]+)", ("POST",), _commit),
    (f"/api/{_REPO}/tag/(?P<rev>[^/]+)", ("POST",), _add_tag),
    (f"/api/{_REPO}/settings", ("PUT",), _settings),
    (_BATCH.pattern, ("POST",), _batch),
    ("/lfs/(?P<oid>[0-9a-f]{64})", ("PUT",), _put),
    ("/lfs-verify/(?P<oid>[0-9a-f]{64})", ("POST",), _verify),
    (_FILE.pattern, ("GET", "HEAD"), _file),
]


class _Handler(BaseHTTPRequestHandler):
    server_of: FakeHub
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        hub, parts = self.server_of, urlsplit(self.path)
        body = self._body()
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        with hub.lock:
            number, hub.asked = hub.asked, hub.asked + 1
            fault = hub.fault(number, self.command, parts.path)
            if fault is None or fault.acted:
                answer = hub.answer(self.command, unquote(parts.path), parse_qs(parts.query), body, token)
            if fault is not None:
                headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
                answer = None if fault.status is None else Answer(fault.status, fault.text.encode(), headers)
            hub.seen.append(Seen(self.command, parts.path, answer and answer.status, len(body)))
        if answer is None:
            self.close_connection = True
            self.connection.close()
            return
        self._send(answer)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return b"".join(self._chunks())

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _send(self, answer: Answer) -> None:
        status, data, headers = answer.status, answer.body, dict(answer.headers)
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if status == 200 and wanted and "Accept-Ranges" in headers:
            start, end = wanted[1], wanted[2]
            first = int(start) if start else max(0, len(data) - int(end))
            last = min(int(end), len(data) - 1) if start and end else len(data) - 1
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            status, data = 206, data[first : last + 1]
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _serve  # noqa: N815

    def log_message(self, *_: object) -> None:
        """To nobody."""
