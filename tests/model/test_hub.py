"""Checkpoints by folder and by hub id, the latter against a small hub on this machine."""

import errno
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from etils import epath

from g2is_jax.model.hub import downloaded, resolve_checkpoint
from g2is_jax.runs.errors import InputError

PLAIN = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer.model", "merges.txt"}
PLAIN |= {"chat_template.jinja"}
SHARDS = {"model.safetensors.index.json", "model-1-of-2.safetensors", "model-2-of-2.safetensors"}
UNREAD = {"pytorch_model.bin", "model.gguf", "code.py", "README.md", "original/params.json"}
UNREAD |= {"onnx/model.safetensors", "consolidated.safetensors", "rng_state.pth", ".gitattributes"}
HUB = {
    "some/plain": PLAIN | UNREAD,
    "some/sharded": {"config.json"} | SHARDS | UNREAD,
    "some/part": PLAIN,
    "some/bin": {"config.json"} | UNREAD,
    "some/adapter": {"adapter_model.safetensors", "tokenizer.json"},
    "some/gated": PLAIN,
    "some/forbidden": PLAIN,
    "some/closed": PLAIN,
    "some/broken": PLAIN,
}
COMMITS = {"main": "a" * 40, "v2": "b" * 40}
RESOLVE_ALL = """
import json, sys
from g2is_jax.model.hub import resolve_checkpoint
from g2is_jax.runs.errors import InputError
assert resolve_checkpoint("g2is_jax", None) and "huggingface_hub" not in sys.modules
for name, revision in json.loads(sys.argv[1]):
    try:
        print(json.dumps(str(resolve_checkpoint(name, revision))))
    except InputError as error:
        print(json.dumps({"error": str(error)}))
"""


class Hub(BaseHTTPRequestHandler):
    """A server with as much of the hub's API as a download asks for."""

    def do_GET(self):
        path = urlsplit(self.path).path
        api = re.fullmatch(r"/api/models/(\w+/\w+)(?:/(revision|tree)/(\w+))?", path)
        file = re.fullmatch(r"/(\w+/\w+)/resolve/(\w+)/(.+)", path)
        if not (api or file):
            return self.refuse(404, "")  # the client's questions about itself
        self.server.asked.append((path, self.headers.get("Authorization")))
        name, commit = (api[1], api[3] or "main") if api else (file[1], file[2])
        commit = COMMITS.get(commit, commit)
        if name not in HUB:
            self.refuse(401, "RepoNotFound")
        elif name == "some/closed":
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif name == "some/gated" and file:
            self.refuse(401, "GatedRepo")
        elif name == "some/forbidden":
            self.refuse(403, "")
        elif name == "some/broken":
            self.refuse(500, "")
        elif commit not in COMMITS.values():
            self.refuse(404, "RevisionNotFound")
        elif api and api[2] == "tree":
            kind = {"type": "file", "oid": "0" * 40}
            self.answer([{**kind, "path": path, "size": 99} for path in sorted(HUB[name])])
        elif api:
            siblings = [{"rfilename": path} for path in sorted(HUB[name])]
            self.answer({"id": name, "sha": commit, "siblings": siblings})
        else:
            self.answer([name, commit, file[3]], commit)

    do_HEAD = do_GET

    def answer(self, value, commit=None):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        if commit:
            self.send_header("X-Repo-Commit", commit)
            self.send_header("ETag", f'"{hash(data):x}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def refuse(self, status, code, message="refused"):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def start(home, endpoint, cases, **environment):
    """Resolve the cases in a process of their own: the hub's settings are read at import."""
    foreign = re.compile("hf_|huggingface|.*_proxy$", re.IGNORECASE)
    inherited = {k: v for k, v in os.environ.items() if not foreign.match(k)}
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_mine"}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", RESOLVE_ALL, json.dumps(cases)],
        env=inherited | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    )


def finish(process, cases):
    """Return the result of each case: the folder it gave, or {"error": message}."""
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    return dict(zip(cases, map(json.loads, out.splitlines()), strict=True))


ONLINE = [(name, None) for name in (*HUB, "some/none", "models--llama/tiny")]
ONLINE += [("some/plain", "v2"), ("some/plain", "v3")]
AWAY = [("some/plain", None), ("some/plain", "v2"), ("some/part", None), ("some/new", None)]
AWAY += [("some/plain", "v3")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return the results with the hub there, then in offline mode, then with the hub gone."""
    home = tmp_path_factory.mktemp("hub")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []
    endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        online = finish(start(home, endpoint, ONLINE, HF_HUB_OFFLINE="0"), ONLINE)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    (Path(online["some/part", None]) / "model.safetensors").unlink()
    away = [start(home, endpoint, AWAY, HF_HUB_OFFLINE=offline) for offline in ("1", "0")]
    offline, gone = (finish(process, AWAY) for process in away)
    return {
        "endpoint": endpoint,
        "cache": str(home / "hub"),
        "asked": server.asked,
        "online": online,
        "offline": offline,
        "gone": gone,
    }


def files(folder):
    return {str(file.relative_to(folder)) for file in Path(folder).rglob("*") if file.is_file()}


def test_downloads_what_is_read_and_no_more(runs):
    assert files(runs["online"]["some/plain", None]) == PLAIN
    assert files(runs["online"]["some/sharded", None]) == {"config.json"} | SHARDS
    fetched = {path.split("/", 5)[-1] for path, _ in runs["asked"] if "/resolve/" in path}
    assert fetched == PLAIN | SHARDS | HUB["some/adapter"]


def test_revision(runs):
    for revision, commit in ((None, COMMITS["main"]), ("v2", COMMITS["v2"])):
        config = Path(runs["online"]["some/plain", revision]) / "config.json"
        assert json.loads(config.read_text()) == ["some/plain", commit, "config.json"]


def test_token(runs):
    assert {token for _, token in runs["asked"]} == {"Bearer hf_mine"}


@pytest.mark.parametrize("away", ["offline", "gone"])
@pytest.mark.parametrize("revision", [None, "v2"])
def test_second_time_without_the_hub(runs, away, revision):
    case = ("some/plain", revision)
    assert runs[away][case] == runs["online"][case]


OFFLINE = "{name}: not a folder here, {asked} is not (or not whole) in {cache}, and HF_HUB_OFFLINE "
OFFLINE += "is set; unset it to download once with network, or give a folder"
GONE = "{name}: not a folder here, and {asked} could not be downloaded from {hub} to {cache} (Conn"
REFUSED = "access is refused; ask for it on {hub}/{name} and set HF_TOKEN"
MESSAGES = {
    ("online", "some/bin", None): "{name}: has no safetensors weights ({cache}/models--some--bin",
    (
        "online",
        "some/adapter",
        None,
    ): "{name}: an adapter of BASE, not a whole model; merge it into",
    ("online", "some/gated", None): f"{{name}}: {REFUSED}",
    ("online", "some/forbidden", None): f"{{name}}: {REFUSED}",
    ("online", "some/closed", None): "{name}: {hub} does not accept the token; set HF_TOKEN",
    ("online", "some/broken", None): "{name}: not a folder here, and {asked} could not be down",
    ("online", "some/none", None): "{name}: neither a folder here nor a model on {hub}; correct",
    ("online", "models--llama/tiny", None): "{name}: neither a folder here nor a valid hub id;",
    ("online", "some/plain", "v3"): "{name}: the model has no revision 'v3'; set model.revision",
    ("offline", "some/new", None): OFFLINE,
    ("offline", "some/part", None): OFFLINE,
    ("offline", "some/plain", "v3"): OFFLINE,
    ("gone", "some/new", None): GONE,
    ("gone", "some/part", None): GONE,
    ("gone", "some/plain", "v3"): GONE,
}


@pytest.mark.parametrize(("run", "name", "revision"), MESSAGES)
def test_refusals(runs, run, name, revision):
    asked = f"{name} at revision {revision}" if revision else name
    message = MESSAGES[run, name, revision].format(
        name=name, asked=asked, hub=runs["endpoint"], cache=runs["cache"]
    )
    found = runs[run][name, revision]["error"]
    assert found.startswith(message)
    assert "\n" not in found


def test_full_disk(monkeypatch):
    import huggingface_hub

    def download(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(InputError, match=f"disk full while writing .*{os.sep}hub: free space"):
        resolve_checkpoint("some/plain", None)


def test_weights_only_where_needed(tmp_path, monkeypatch):
    import huggingface_hub

    unread = []

    def download(*_, ignore_patterns, **__):
        unread.append(ignore_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_checkpoint("some/plain", None, weights=False) == epath.Path(tmp_path)
    with pytest.raises(InputError, match="has no safetensors weights"):
        resolve_checkpoint("some/plain", None)
    assert [name for name in unread[0] if name not in unread[1]] == ["*.safetensors"]


def test_folder_wins(tmp_path, monkeypatch):
    """A folder wins over a hub id of the same name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "llama").mkdir(parents=True)
    for name in ("models/llama", "./models", "models", str(tmp_path), "."):
        assert resolve_checkpoint(name, "") == epath.Path(name)


def test_url_is_taken_as_it_is():
    assert str(resolve_checkpoint("gs://bucket/llama", "")) == "gs://bucket/llama"


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("models", "v2", "model.revision is for hub ids, and models is a folder; leave it empty"),
        ("gs://bucket/llama", "v2", "model.revision is for hub ids, and gs://bucket/llama is"),
        ("config.json", "", "config.json: is a file; give the folder that holds it"),
        ("./foo/bar/baz", "", "./foo/bar/baz: no such folder, and not of a hub id's form"),
        ("./foo/bar", "", "./foo/bar: no such folder, and not"),
        ("foo/bar/", "", "foo/bar/: no such folder, and not"),
        ("/abs/none", "", "/abs/none: no such folder, and not"),
        ("~/llama", "", "~/llama: no such folder, and not"),
        ("gpt2", "", "gpt2: no such folder, and not"),
        ("", "", "'': no such folder, and not"),
        (
            "https://huggingface.co/some/plain",
            "",
            "https://huggingface.co/some/plain: https:// is not",
        ),
    ],
)
def test_neither_folder_nor_hub_id(tmp_path, monkeypatch, name, revision, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "config.json").touch()
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        resolve_checkpoint(name, revision)


def test_what_is_here_of_a_hub_id_is_found_without_network(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--some--plain"
    snapshot = model / "snapshots" / COMMITS["main"]
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMITS["main"])
    assert downloaded("some/plain", None) is None  # nothing of it
    (snapshot / "config.json").write_text("{}")
    assert downloaded("some/plain", None) == epath.Path(snapshot)
    for name, revision in (("some/plain", "v2"), ("some/other", None), ("no id", None), ("", None)):
        assert downloaded(name, revision) is None
