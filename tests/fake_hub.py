"""A hub on this machine: the few answers that huggingface-hub needs to make a repository, commit to it and read it."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args):
        pass

    def answer(self, value=None, *, status=200, body=None, **headers):
        content = json.dumps(value).encode() if body is None else body
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def missing(self):
        self.answer({"error": "no such repository"}, status=404, X_Error_Code="RepoNotFound")

    def do_POST(self):
        body, hub = self.rfile.read(int(self.headers.get("Content-Length", 0))), self.server
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != "Bearer right":
            return self.answer({"error": "no"}, status=401)
        if self.path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given['organization']}/{given['name']}" if given.get("organization") else given["name"]
            hub.repositories.setdefault(name, {})
            return self.answer({"url": f"{hub.address}/{name}", "name": name})
        name, verb = re.match(r"/api/models/([^/]+/[^/]+)/(\w+)/main", self.path).groups()
        if verb == "preupload":
            paths = [file["path"] for file in json.loads(body)["files"]]
            regular = {"uploadMode": "regular", "shouldIgnore": False}
            return self.answer({"files": [{"path": path, **regular} for path in paths]})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                hub.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        address = f"{hub.address}/{name}/commit/{hub.commit}"
        return self.answer({"commitUrl": address, "commitOid": hub.commit, "success": True})

    def do_GET(self):
        hub = self.server
        if match := re.match(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/?]+)?(?:\?.*)?$", self.path):
            if match[1] not in hub.repositories:
                return self.missing()
            files = [{"rfilename": path} for path in hub.repositories[match[1]]]
            return self.answer({"id": match[1], "sha": hub.commit, "siblings": files})
        if match := re.match(r"/api/models/([^/]+/[^/]+)/tree/", self.path):
            files = hub.repositories[match[1]].items()
            return self.answer([{"type": "file", "path": p, "size": len(b), "oid": _digest(b)} for p, b in files])
        match = re.match(r"/([^/]+/[^/]+)/resolve/[^/]+/([^?]+)", self.path)
        content = hub.repositories.get(match[1], {}).get(match[2]) if match else None
        if content is None:
            return self.missing()
        hub.served.append(match[2])
        return self.answer(body=content, ETag=f'"{_digest(content)}"', X_Repo_Commit=hub.commit)

    do_HEAD = do_GET


def _digest(content):
    return hashlib.sha1(content).hexdigest()


@contextmanager
def fake_hub():
    """A server; its `repositories` are {name: {path: bytes}}, `served` the paths that were asked for."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.repositories, server.served, server.commit = {}, [], "c" * 40
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
