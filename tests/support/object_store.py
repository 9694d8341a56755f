"""A fake Google Cloud Storage on this machine, which fails when it is asked to."""

import asyncio
import contextlib
import io
import os
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import HTTPServer
from types import SimpleNamespace

import pytest
from gcp_storage_emulator.server import RequestHandler, create_server

os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # would ask gRPC; read once, at import
BUCKET = "bucket"
CUT, MUTE = 0, 1  # break the connection off before the request is served; serve, but do not answer
NAME = re.compile(r'"name": "([^"]*)"|/o/([^?]*)')
Rule = Callable[[str, str], int | None]
TIMES = re.compile(r"manifest\.json$|/checkpoints/|attempt\.json$|^(report|config|\.lock)")


class ObjectStore:
    """The server's state.

    rule: (method, name of the file) of a request -> None to serve it, CUT, MUTE, or an HTTP status
    to answer. requests: all (method, name) so far; the name is empty where files are listed.
    """

    def __init__(self):
        self.storage = create_server("", 0, in_memory=True, default_bucket=BUCKET)._storage
        self.storage._write_config_to_file = lambda: None  # all of it, at each request
        self.rule: Rule = lambda method, name: None
        self.requests: list[tuple[str, str]] = []

    def read(self, name: str) -> bytes:
        return self.storage.get_file(BUCKET, name)

    def files(self, prefix: str) -> dict[str, bytes]:
        """Every file whose name begins so, by the rest of its name."""
        found, _ = self.storage.get_file_list(BUCKET, prefix, None, None)
        return {file["name"].removeprefix(prefix): self.read(file["name"]) for file in found}


class _Handler(RequestHandler):
    def __init__(self, store: ObjectStore, *arguments):
        self.store = store
        super().__init__(store.storage, *arguments)

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        self.close_connection = True
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.rfile = io.BytesIO(body)
        text = body[:1000].decode(errors="replace") if "/upload/" in self.path else self.path
        named = NAME.search(text)
        request = self.command, (named[1] or named[2]).replace("%2F", "/") if named else ""
        self.store.requests.append(request)
        answer = self.store.rule(*request)
        if answer == MUTE:
            self.wfile = io.BytesIO()
        elif answer:
            self.send_error(answer)
        return answer in (None, MUTE)


class _Server(HTTPServer):
    request_queue_size = 64

    def handle_error(self, request, address):
        """A client that was killed does not wait for its answer."""


@contextlib.contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Serve gs:// of this process, and of those it starts, from memory."""
    from g2is_jax.runs import manifest

    manifest.stored_manifest.cache_clear()  # of another store
    store = ObjectStore()
    server = _Server(("127.0.0.1", 0), partial(_Handler, store))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
        yield store
    server.shutdown()
    thread.join()
    server.server_close()


def without_waits(patch: pytest.MonkeyPatch) -> None:
    """Requests that fail are tried again at once, and leases run out soon."""
    import gcsfs.retry

    from g2is_jax.runs import lock

    no_wait = SimpleNamespace(sleep=lambda seconds: asyncio.sleep(0))
    patch.setattr(gcsfs.retry, "asyncio", no_wait)
    for name, seconds in (("SETTLE", 0.05), ("STALE", 0.5), ("RENEW", 1.0)):
        patch.setattr(lock, f"{name}_SECONDS", seconds)


def stored(files: dict[str, bytes]) -> dict[str, bytes]:
    """Returns those files of a work folder's stages and selections that hold no times."""
    return {name: data for name, data in files.items() if not TIMES.search(name)}
