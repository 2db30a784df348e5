"""A Hugging Face Hub on loopback: the endpoints that the client uses for models, and its faults."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_a_secret_of_this_test"


@dataclass
class Repository:
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])
    private: bool = False
    gated: bool = False
    wrong: bytes = b""  # prefix of what is sent instead of a large file's first bytes

    @property
    def head(self):
        return commit_hash(len(self.commits))

    def commit(self, files):
        self.commits.append(self.commits[-1] | files)


def commit_hash(number):
    return hashlib.sha1(str(number).encode()).hexdigest()


def is_large(path):
    return path.endswith((".safetensors", ".pth", ".pkl"))


class LocalHub(ThreadingHTTPServer):
    """Small files are stored as git does, large ones by another host, as the real Hub's."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.objects, self.requests = {}, {}, []
        self.names = {}  # of large files, by their checksums
        self.cuts = []  # numbers of bytes after which the next downloads of large files break off
        self.faults = {}  # statuses with which requests of these paths' ends are answered
        self.endpoint = f"http://127.0.0.1:{self.server_port}"

    def downloads(self):
        """Return the files whose content was asked for."""
        asked = {path for method, path, _ in self.requests if method == "GET"}
        small = {match[1] for path in asked if (match := re.search(r"/resolve/[^/]+/(.*)", path))}
        return small | {
            name for digest, name in self.names.items() if f"/objects/{digest}" in asked
        }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, content=b"", **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_request(self):
        path = unquote(urlsplit(self.path).path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.command, path, headers))
        self.body = self.read_body()
        for end, status in self.server.faults.items():
            if path.endswith(end):
                return self.answer(status)
        for pattern, method in ROUTES.items():
            if match := re.fullmatch(pattern, path):
                return method(self, *match.groups())
        return self.answer(404)

    def read_body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def find(self, name, revision):
        """Return a repository and the number of a commit, or answer with an error."""
        repository = self.server.repositories.get(name)
        logged_in = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not logged_in):
            return self.answer(401, X_Error_Code="RepoNotFound")
        if repository.gated:
            return self.answer(403, X_Error_Code="GatedRepo")
        count = len(repository.commits)
        names = {commit_hash(n + 1): n for n in range(count)} | {"main": count - 1, None: count - 1}
        if revision not in names:
            return self.answer(404, X_Error_Code="RevisionNotFound")
        return repository, names[revision]

    def info(self, name, revision=None):
        if place := self.find(name, revision):
            repository, number = place
            siblings = [
                {"rfilename": path, "size": len(content), "blobId": git_hash(content)}
                | ({"lfs": describe(content)} if is_large(path) else {})
                for path, content in repository.commits[number].items()
            ]
            sha, private = commit_hash(number + 1), repository.private
            self.answer(200, {"id": name, "sha": sha, "private": private, "siblings": siblings})

    def resolve(self, name, revision, path):
        if place := self.find(name, revision):
            repository, number = place
            commit = {"X_Repo_Commit": commit_hash(number + 1)}
            content = repository.commits[number].get(path)
            if content is None:
                self.answer(404, X_Error_Code="EntryNotFound", **commit)
            elif is_large(path):
                digest = hashlib.sha256(content).hexdigest()
                sent = repository.wrong + content[len(repository.wrong) :]
                self.server.objects[digest], self.server.names[digest] = sent, path
                host = f"http://localhost:{self.server.server_port}"
                linked = {"X_Linked_Etag": f'"{digest}"', "X_Linked_Size": len(content)}
                self.answer(302, Location=f"{host}/objects/{digest}", **linked, **commit)
            else:
                self.answer(200, content, ETag=f'"{git_hash(content)}"', **commit)

    def send_object(self, digest):
        content = self.server.objects[digest]
        start = int((re.search(r"bytes=(\d+)", self.headers.get("Range", "")) or [0, 0])[1])
        if not self.server.cuts:
            return self.answer(206 if start else 200, content[start:])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : start + self.server.cuts.pop(0)])
        self.wfile.flush()
        self.close_connection = True
        return self.connection.shutdown(2)

    def create(self):
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401)
        wanted = json.loads(self.body)
        name = f"{wanted['organization']}/{wanted['name']}"
        status = 409 if name in self.server.repositories else 200
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.server.repositories.setdefault(name, Repository(private=private))
        return self.answer(status, {"url": f"{self.server.endpoint}/{name}"})

    def validate(self):
        self.answer(200, {"errors": [], "warnings": []})

    def preupload(self, name):
        files = [
            {"path": f["path"], "uploadMode": "lfs" if is_large(f["path"]) else "regular"}
            | {"shouldIgnore": False}
            for f in json.loads(self.body)["files"]
        ]
        self.answer(200, {"files": files})

    def batch(self, name):
        objects = [
            o | {"actions": {"upload": {"href": f"{self.server.endpoint}/upload/{o['oid']}"}}}
            for o in json.loads(self.body)["objects"]
        ]
        content = {"transfer": "basic", "objects": objects}
        self.answer(200, content, Content_Type="application/vnd.git-lfs+json")

    def upload(self, digest):
        assert hashlib.sha256(self.body).hexdigest() == digest
        self.server.objects[digest] = self.body
        self.answer(200)

    def commit(self, name):
        files = {}
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        repository = self.server.repositories[name]
        repository.commit(files)
        url = f"{self.server.endpoint}/{name}/commit/{repository.head}"
        self.answer(200, {"commitUrl": url, "commitOid": repository.head, "pullRequestUrl": ""})


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = {
    rf"/api/models/{NAME}": Handler.info,
    rf"/api/models/{NAME}/revision/(.+)": Handler.info,
    rf"/{NAME}/resolve/([^/]+)/(.+)": Handler.resolve,
    r"/objects/(\w+)": Handler.send_object,
    r"/api/repos/create": Handler.create,
    r"/api/validate-yaml": Handler.validate,
    rf"/api/models/{NAME}/preupload/main": Handler.preupload,
    rf"/{NAME}\.git/info/lfs/objects/batch": Handler.batch,
    r"/upload/(\w+)": Handler.upload,
    rf"/api/models/{NAME}/commit/main": Handler.commit,
}


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def describe(content):
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 1}


@contextmanager
def serve():
    """Yield a Hub that answers until the block ends."""
    with LocalHub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
