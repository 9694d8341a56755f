"""A server with as much of the hub's API as `datasets` asks for, for one data set."""

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.small import ROOT

NAME, COMMIT = "some/rows", "a" * 40
READ_ALL = """
import json, sys
from g2is_jax.data.files import read_rows
from g2is_jax.runs.errors import InputError
for place in sys.argv[1:]:
    try:
        rows = read_rows(place, "stop")
        found = {"path": str(rows.path), "digest": rows.digest, "content": rows.content}
        found["ids"] = rows.records.ids_N.tolist()
    except InputError as error:
        found = {"error": str(error)}
    print(json.dumps(found))
"""


class Hub(BaseHTTPRequestHandler):
    """Serves the files of one data set at one commit."""

    files: Mapping[str, bytes] = {}

    def do_GET(self):
        path = urlsplit(self.path).path
        of_set = re.fullmatch(rf"/api/datasets/{NAME}(?:/revision/\w+)?", path)
        tree = re.fullmatch(rf"/api/datasets/{NAME}/tree/\w+(?:/(.+))?", path)
        file = re.fullmatch(rf"/datasets/{NAME}/resolve/\w+/(.+)", path)
        if of_set:
            siblings = [{"rfilename": name} for name in self.files]
            self.answer({"id": NAME, "sha": COMMIT, "siblings": siblings, "tags": []})
        elif tree:
            self.answer([self.entry(name) for name in self.files if name.startswith(tree[1] or "")])
        elif file and file[1] in self.files:
            data = self.files[file[1]]
            self.send(200, data, {"X-Repo-Commit": COMMIT, "ETag": f'"{self.oid(data)}"'})
        else:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"} if file else {})

    do_HEAD = do_GET

    def entry(self, name: str) -> dict:
        data = self.files[name]
        return {"type": "file", "path": name, "size": len(data), "oid": self.oid(data)}

    def oid(self, data: bytes) -> str:
        return hashlib.sha1(data).hexdigest()

    def answer(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(files: Mapping[str, bytes]) -> Iterator[str]:
    """Serves a data set while the block runs; yields the server's address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Served", (Hub,), {"files": files}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def read_all(places: list[str], home: Path, endpoint: str, offline: bool = False) -> list[dict]:
    """What is read of some places."""
    found = run_on_hub(["-W", "error", "-c", READ_ALL, *places], home, endpoint, offline)
    return [json.loads(line) for line in found.splitlines()]


def run_on_hub(command: list[str], home: Path, endpoint: str, offline: bool = False) -> str:
    """What Python prints, in a process of its own: the hub's settings are read at import."""
    foreign = re.compile("hf_|huggingface|.*_proxy$", re.IGNORECASE)
    inherited = {name: value for name, value in os.environ.items() if not foreign.match(name)}
    own = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": str(int(offline))}
    done = subprocess.run(
        [sys.executable, *command],
        env=inherited | own, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
