"""A stand-in of the Hugging Face hub on this machine: enough for its own client to write and read.

It speaks the hub's HTTP interface as huggingface_hub 2 uses it without Xet: repositories,
pre-upload, LFS, commits, snapshots; data sets (`datasets/OWNER/NAME`) can only be read.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_stand_in"


@dataclass
class Repository:
    """A model on the stand-in. files: by name, of its only branch. commits: their summaries."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)

    @property
    def sha(self) -> str:
        return hashlib.sha1(f"{len(self.commits)} {sorted(self.files)}".encode()).hexdigest()


@dataclass
class Hub:
    """url: its endpoint (HF_ENDPOINT). repositories: by OWNER/NAME. objects: LFS, by sha256."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)

    def environment(self, token: str | None = TOKEN) -> dict[str, str]:
        """What a client needs to talk to it, and to nobody else."""
        said = {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        return said | ({} if token is None else {"HF_TOKEN": token})


@contextlib.contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub with no models yet."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._validate(json.loads(body)["content"])
        elif "/preupload/" in path:
            self._answer(200, {"files": [_mode(one) for one in json.loads(body)["files"]]})
        elif "/paths-info/" in path:
            name = "/".join(path.split("/")[2:5])
            wanted = dict(urllib.parse.parse_qsl(body.decode()))
            self._paths(self.hub.repositories[name], wanted["paths"])
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._lfs(json.loads(body))
        elif "/commit/" in path:
            name = path.removeprefix("/api/models/").partition("/commit/")[0]
            self._commit(name, [json.loads(line) for line in body.splitlines()])
        else:
            self._answer(404, {"error": f"no {path} here"})

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.objects[oid] = body
        self._answer(200, {})

    def do_GET(self) -> None:
        path = urllib.parse.unquote(self.path.partition("?")[0])
        if path.startswith(("/api/models/", "/api/datasets/")):
            kind, *owner_and_name = path.split("/")[2:5]
            name = "/".join(owner_and_name if kind == "models" else [kind, *owner_and_name])
            repository = self._readable(name)
            if repository is not None and "/tree/" in path:
                below = "/".join(path.partition("/tree/")[2].split("/")[1:])
                self._tree(repository, below, "recursive=true" in self.path.lower())
            elif repository is not None:
                files = [{"rfilename": file} for file in sorted(repository.files)]
                about = {"id": name, "modelId": name, "sha": repository.sha, "siblings": files}
                self._answer(200, about | {"private": repository.private})
        elif "/resolve/" in path:
            self._resolve(path)
        else:
            self._answer(404, {"error": f"no {path} here"})

    do_HEAD = do_GET

    def _tree(self, repository: Repository, below: str, recursive: bool) -> None:
        prefix = f"{below}/" if below else ""
        files = {n: c for n, c in sorted(repository.files.items()) if n.startswith(prefix)}
        entries = {}
        for name, content in files.items():
            folders = name.removeprefix(prefix).split("/")[:-1]
            for depth in range(1, len(folders) + 1 if recursive else min(len(folders), 1) + 1):
                path = prefix + "/".join(folders[:depth])
                entries[path] = {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
            if recursive or not folders:
                entries[name] = _entry(name, content)
        if not entries:
            code = {"X-Error-Code": "EntryNotFound"}
            self._answer(404, {"error": f"{below} is not there"}, code)
            return
        content = json.dumps([*entries.values()]).encode()
        self._send(200, content, {"Content-Type": "application/json"})

    def _paths(self, repository: Repository, path: str) -> None:
        found = [_entry(*file) for file in repository.files.items() if file[0] == path]
        if any(name.startswith(f"{path}/") for name in repository.files):
            found = [{"type": "directory", "path": path, "oid": repository.sha, "size": 0}]
        self._send(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        status = 409 if name in self.hub.repositories else 200
        self.hub.repositories.setdefault(name, Repository(private))
        about = {"url": f"{self.hub.url}/{name}", "name": name, "id": name}
        self._answer(status, about | ({"error": "You already created it"} if status == 409 else {}))

    def _validate(self, content: str) -> None:
        """What the hub checks of a card: metadata that are YAML, a model-index with its parts."""
        errors = []
        data = yaml.safe_load(content.split("---")[1])
        for model in data.get("model-index", []):
            for result in model["results"]:
                if not {"task", "dataset", "metrics"} <= set(result):
                    errors.append({"message": '"model-index" lacks a part'})
        if "license" in data and not isinstance(data["license"], str):
            errors.append({"message": '"license" must be a string'})
        self._answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def _lfs(self, asked: dict[str, Any]) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}}
            for one in asked["objects"]
        ]
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        repository = self.hub.repositories[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                repository.commits.append(value["summary"])
            elif line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.hub.objects[value["oid"]]
        url = f"{self.hub.url}/{name}/commit/{repository.sha}"
        self._answer(200, {"success": True, "commitOid": repository.sha, "commitUrl": url})

    def _resolve(self, path: str) -> None:
        name, _, rest = path[1:].partition("/resolve/")
        repository = self._readable(name)
        if repository is None:
            return
        content = repository.files.get(rest.partition("/")[2])
        if content is None:
            self._answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        tag = hashlib.sha256(content).hexdigest()
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            content = content[int(first) : int(last) + 1 if last else None]
        self._send(
            206 if asked else 200, content, {"X-Repo-Commit": repository.sha, "ETag": f'"{tag}"'}
        )

    def _readable(self, name: str) -> Repository | None:
        repository = self.hub.repositories.get(name)
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not known):
            code = {"X-Error-Code": "RepoNotFound"}
            self._answer(404 if known else 401, {"error": "Repository not found"}, code)
            return None
        return repository

    def _answer(
        self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
        content = {"Content-Type": "application/json", **(headers or {})}
        self._send(status, json.dumps(body).encode(), content)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entry(path: str, content: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(content).hexdigest()
    return {"type": "file", "path": path, "oid": oid, "size": len(content)}


def _mode(file: dict[str, Any]) -> dict[str, Any]:
    large = file["path"].endswith(".safetensors")
    return {
        "path": file["path"],
        "uploadMode": "lfs" if large else "regular",
        "shouldIgnore": False,
    }
