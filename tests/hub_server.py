"""A small local server with the part of the Hugging Face Hub's protocol that publishing and loading need.

    with HubServer({"hf_of_ada": "ada"}) as hub:
        ...                                   # HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET=1
        hub.repos["model", "ada/bird"].files()  # path -> bytes at the head of main

Repositories are in memory: commits with whole trees, branches, and large files by SHA-256 as in Git LFS. There is no
Xet storage, so the client has to disable it. `hub.requests` lists all requests, and `hub.go_wrong` makes some fail.
"""

import base64
import hashlib
import io
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".parquet", ".npz", ".png")  # kept as LFS files, as .gitattributes on the Hub says
REPO = r"(?P<type>model|dataset)s/(?P<repo_id>[^/]+/[^/]+)"


class File(NamedTuple):
    """Content of a file, and whether it is stored as an LFS file."""

    data: bytes
    large: bool

    @property
    def oid(self) -> str:
        """Git's hash of the file, or SHA-256 for an LFS file. The client compares its own files with it."""
        if self.large:
            return hashlib.sha256(self.data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()


class Commit(NamedTuple):
    sha: str
    title: str
    tree: dict[str, File]


@dataclass
class Repo:
    """A repository. It begins with one commit, as on the Hub."""

    private: bool
    commits: list[Commit] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit("main", "initial commit", {".gitattributes": File(b"*.safetensors filter=lfs\n", False)})

    def commit(self, branch: str, title: str, tree: dict[str, File]) -> str:
        sha = hashlib.sha1(f"{title}{sorted(tree)}{len(self.commits)}".encode()).hexdigest()
        self.commits.append(Commit(sha, title, tree))
        self.branches[branch] = sha
        return sha

    def at(self, revision: str) -> Commit | None:
        """The commit of a branch or a SHA; None if there is none."""
        sha = self.branches.get(revision, revision)
        return next((commit for commit in self.commits if commit.sha == sha), None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Path -> content of all published files."""
        tree = self.at(revision).tree
        return {path: file.data for path, file in sorted(tree.items()) if path != ".gitattributes"}


class Refusal(Exception):
    """An error answer, in the form that the client expects."""

    def __init__(self, status: int, message: str, code: str = "", **body: str) -> None:
        self.status, self.message, self.code, self.body = status, message, code, body


class HubServer:
    """The server, as a context manager.

    Args:
        users: token -> user name.
    """

    def __init__(self, users: dict[str, str]) -> None:
        self.users = users
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: list[tuple[str, str]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.hub = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def go_wrong(self, pattern: str, times: int = 1, how: str = "hang up") -> None:
        """Make the next `times` requests that match a pattern fail, such as 'PUT /lfs/' or 'POST .*/commit/'.

        Args:
            how: 'hang up' in the middle of the request, 'lose the answer' after doing it, or answer with status '503'.
        """
        self.faults += [(pattern, how)] * times

    def fault(self, request: str) -> str | None:
        """How this request has to fail, or None."""
        for fault in self.faults:
            if re.match(fault[0], request):
                self.faults.remove(fault)
                return fault[1]
        return None

    def sent(self, pattern: str) -> list[str]:
        """All requests so far that match the pattern."""
        return [request for request in self.requests if re.match(pattern, request)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        self.hub, address = self.server.hub, urlsplit(self.path)
        path, self.query = unquote(address.path), parse_qs(address.query)
        request = f"{self.command} {path}"
        self.hub.requests.append(request)
        length = int(self.headers.get("Content-Length", 0))
        fault = self.hub.fault(request)
        self.body = self.rfile.read(length // 2 if fault == "hang up" else length)
        if fault == "hang up" or len(self.body) < length:  # or the client has hung up
            self.close_connection = True
            return
        if fault == "lose the answer":
            self.wfile, self.close_connection = io.BytesIO(), True
        try:
            if fault == "503":
                raise Refusal(503, "Service unavailable")
            for pattern, answer in ROUTES:
                if found := re.fullmatch(pattern, request):
                    answer(self, **found.groupdict())
                    break
            else:
                raise Refusal(404, f"no such route: {request}", "EntryNotFound")
        except Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            self.answer({"error": refusal.message, **refusal.body}, refusal.status, **headers)

    do_HEAD = do_POST = do_PUT = do_GET

    def answer(self, content: bytes | dict | list, status: int = 200, **headers: str) -> None:
        """Send bytes, or anything else as JSON. A '_' in the name of a header is sent as '-'."""
        if not isinstance(content, bytes):
            content, headers["Content-Type"] = json.dumps(content).encode(), "application/json"
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # Who may do what --------------------------------------------------------------------------------------------

    def user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.users.get(token)

    def readable(self, type: str, repo_id: str) -> Repo:
        user, repo = self.user(), self.hub.repos.get((type, repo_id))
        if repo is None or (repo.private and user != repo_id.split("/")[0]):
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        return repo

    def writable(self, type: str, repo_id: str) -> Repo:
        repo, user = self.readable(type, repo_id), self.user()
        self.require_owner(user, repo_id)
        return repo

    def require_owner(self, user: str | None, repo_id: str) -> None:
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if user != repo_id.split("/")[0]:
            raise Refusal(403, f"You don't have the rights to write to {repo_id}")

    def revision(self, repo: Repo, revision: str | None) -> Commit:
        commit = repo.at(revision or "main")
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # Repositories -----------------------------------------------------------------------------------------------

    def whoami(self) -> None:
        self.require_owner(self.user(), f"{self.user()}/")
        self.answer({"type": "user", "name": self.user()})

    def create(self) -> None:
        wanted = json.loads(self.body)
        user, type = self.user(), wanted.get("type", "model")
        repo_id = f"{wanted.get('organization') or user}/{wanted['name']}"
        self.require_owner(user, repo_id)
        url = f"{self.hub.url}/{'datasets/' * (type == 'dataset')}{repo_id}"
        if (type, repo_id) in self.hub.repos:
            raise Refusal(409, f"You already created this {type} repo", url=url)
        private = wanted.get("private", wanted.get("visibility") == "private")  # as older and newer clients say it
        self.hub.repos[type, repo_id] = Repo(private=private)
        self.answer({"url": url})

    def info(self, type: str, repo_id: str, revision: str | None = None) -> None:
        repo = self.readable(type, repo_id)
        commit = self.revision(repo, revision)
        siblings = [{"rfilename": path} for path in commit.tree]
        self.answer({"id": repo_id, "sha": commit.sha, "private": repo.private, "siblings": siblings, "tags": []})

    def branch(self, type: str, repo_id: str, name: str) -> None:
        repo = self.writable(type, repo_id)
        if name in repo.branches:
            raise Refusal(409, f"Reference already exists: {name}")
        repo.branches[name] = self.revision(repo, json.loads(self.body or b"{}").get("startingPoint")).sha
        self.answer({})

    def tree(self, type: str, repo_id: str, revision: str, path: str | None) -> None:
        """The files and folders in a folder; with ?recursive=true, also those in its subfolders."""
        tree, prefix = self.revision(self.readable(type, repo_id), revision).tree, f"{path}/" if path else ""
        inside = {name.removeprefix(prefix): file for name, file in tree.items() if name.startswith(prefix)}
        if path and not inside:
            raise Refusal(404, f"{path} does not exist", "EntryNotFound")
        deep = self.query.get("recursive") == ["true"]
        folders = {name.rpartition("/")[0] for name in inside if "/" in name} if deep else set()
        folders |= {name.split("/")[0] for name in inside if "/" in name}
        files = [entry(prefix + name, file) for name, file in inside.items() if deep or "/" not in name]
        self.answer([{"type": "directory", "path": prefix + name, "oid": "0" * 40} for name in folders] + files)

    # Uploads ----------------------------------------------------------------------------------------------------

    def validate_card(self) -> None:
        self.answer({"errors": [], "warnings": []})

    def preupload(self, type: str, repo_id: str, revision: str) -> None:
        tree = self.revision(self.writable(type, repo_id), revision).tree
        self.answer({"files": [
            {
                "path": path,
                "uploadMode": "lfs" if path.endswith(LARGE) else "regular",
                "shouldIgnore": False,
                "oid": tree[path].oid if path in tree else None,
            }
            for path in (file["path"] for file in json.loads(self.body)["files"])
        ]})  # fmt: skip

    def batch(self, kind: str | None, repo_id: str) -> None:
        """Where to send each LFS file; no action for files that are already stored."""
        self.writable("dataset" if kind else "model", repo_id)
        objects = json.loads(self.body)["objects"]
        for wanted in objects:
            if wanted["oid"] not in self.hub.blobs:
                upload = {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}
                wanted["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.url}/verify"}}
        self.answer({"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "The content does not have the SHA-256 that was announced")
        self.hub.blobs[oid] = self.body
        self.answer({})

    def verify(self) -> None:
        wanted = json.loads(self.body)
        if len(self.hub.blobs.get(wanted["oid"], b"")) != wanted["size"]:
            raise Refusal(404, "No such LFS file")
        self.answer({})

    def commit(self, type: str, repo_id: str, revision: str) -> None:
        """One JSON object per line: a header, then files, LFS files that were sent before, and deletions."""
        repo = self.writable(type, repo_id)
        tree, title = dict(self.revision(repo, revision).tree), ""
        for line in self.body.splitlines():
            key, value = (operation := json.loads(line))["key"], operation["value"]
            if key == "header":
                title = value["summary"]
            elif key == "file":
                tree[value["path"]] = File(base64.b64decode(value["content"]), large=False)
            elif key == "lfsFile" and value["oid"] in self.hub.blobs:
                tree[value["path"]] = File(self.hub.blobs[value["oid"]], large=True)
            elif key == "deletedFile" and value["path"] in tree:
                del tree[value["path"]]
            else:
                raise Refusal(400, f"Cannot do {key} {value.get('path')}")
        sha = repo.commit(revision, title, tree)
        self.answer({"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{sha}"})

    # Downloads --------------------------------------------------------------------------------------------------

    def resolve(self, kind: str | None, repo_id: str, revision: str, path: str) -> None:
        """A file, or the address of an LFS file. It is on another host, which gets no token, as on the Hub."""
        commit = self.revision(self.readable("dataset" if kind else "model", repo_id), revision)
        if path not in commit.tree:
            raise Refusal(404, f"No file {path}", "EntryNotFound")
        file, headers = commit.tree[path], {"X_Repo_Commit": commit.sha}
        if file.large:
            elsewhere = f"{self.hub.url.replace('127.0.0.1', 'localhost')}/lfs/{file.oid}"
            linked = {"X_Linked_Etag": f'"{file.oid}"', "X_Linked_Size": str(len(file.data))}
            self.answer(b"", 302, Location=elsewhere, **linked, **headers)
        else:
            self.content(file.data, ETag=f'"{file.oid}"', **headers)

    def blob(self, oid: str) -> None:
        if self.headers.get("Authorization"):
            raise Refusal(400, "A token was sent to the host of the LFS files")
        self.content(self.hub.blobs[oid], ETag=f'"{oid}"')

    def content(self, data: bytes, **headers: str) -> None:
        """The whole file, or the requested range."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            start, end = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
            self.answer(data[start : end + 1], 206, Content_Range=f"bytes {start}-{end}/{len(data)}", **headers)
        else:
            self.answer(data, Accept_Ranges="bytes", **headers)


def entry(path: str, file: File) -> dict:
    """A file, as it stands in a listing."""
    shown = {"type": "file", "path": path, "size": len(file.data), "oid": file.oid}
    return {**shown, "lfs": {"oid": file.oid, "size": len(file.data), "pointerSize": 130}} if file.large else shown


ROUTES = [
    (r"GET /api/whoami-v2", Handler.whoami),
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.validate_card),
    (rf"GET /api/{REPO}(/revision/(?P<revision>.+))?", Handler.info),
    (rf"GET /api/{REPO}/tree/(?P<revision>[^/]+)(/(?P<path>.+))?", Handler.tree),
    (rf"POST /api/{REPO}/branch/(?P<name>.+)", Handler.branch),
    (rf"POST /api/{REPO}/preupload/(?P<revision>.+)", Handler.preupload),
    (rf"POST /api/{REPO}/commit/(?P<revision>.+)", Handler.commit),
    (r"POST /(?P<kind>datasets/)?(?P<repo_id>[^/]+/[^/]+)\.git/info/lfs/objects/batch", Handler.batch),
    (r"PUT /lfs/(?P<oid>\w+)", Handler.put),
    (r"POST /verify", Handler.verify),
    (r"(?:GET|HEAD) /lfs/(?P<oid>\w+)", Handler.blob),
    (
        r"(?:GET|HEAD) /(?P<kind>datasets/)?(?P<repo_id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)",
        Handler.resolve,
    ),
]
