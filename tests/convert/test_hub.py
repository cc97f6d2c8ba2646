"""Models from the hub: the real client against a small hub on this machine, and what happens without a connection."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

import pure_jax
from pure_jax.convert.command import Convert
from pure_jax.convert.hub import download, is_hub_id, origin_of
from pure_jax.errors import PureError
from tests import upstream

REPO, PT = "owner/name", "vq_ds8_c2i.pt"
FIRST, SECOND, UNKNOWN = "a" * 40, "b" * 40, "c" * 40
HANGS_UP = 0  # in place of a status: no answer at all
EXTRA = "original/large.bin"
"""A file of the hub's model that nobody needs here."""


class Hub:
    """What the hub has: one model with two commits, and which of them each branch means."""

    def __init__(self, files: dict[str, Path]) -> None:
        self.files = files  # commit -> directory
        self.branches = {"main": FIRST}
        self.requests: list[str] = []
        self.refuse: int | None = None  # the status of every answer
        self.broken: str | None = None  # a file that cannot be had
        self.gated = False

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body)."""
        self.requests.append(path)
        path = unquote(path.partition("?")[0])
        if self.refuse:
            return self.refuse, {}, b""
        if match := re.fullmatch(rf"/api/models/{REPO}/revision/(.+)", path):
            if commit := self.commit(match[1]):
                return 200, {}, json.dumps({"id": REPO, "sha": commit, "siblings": []}).encode()
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if match := re.fullmatch(rf"/api/models/{REPO}/tree/(.+)", path):
            if commit := self.commit(match[1]):
                return 200, {}, json.dumps([self.entry(file) for file in self.tree(commit)]).encode()
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if match := re.fullmatch(rf"/{REPO}/resolve/(\w+)/(.+)", path):
            if self.gated:
                return 403, {"X-Error-Code": "GatedRepo"}, b""
            if match[2] == self.broken:
                return 404, {}, b""
            body = (self.files[match[1]] / match[2]).read_bytes()
            return 200, {"X-Repo-Commit": match[1], "ETag": f'"{hashlib.sha1(body).hexdigest()}"'}, body
        return 404, {"X-Error-Code": "RepoNotFound"}, b""

    def commit(self, revision: str) -> str | None:
        return revision if revision in self.files else self.branches.get(revision)

    def tree(self, commit: str) -> list[Path]:
        return sorted(path for path in self.files[commit].rglob("*") if path.is_file())

    def entry(self, file: Path) -> dict[str, Any]:
        folder = next(folder for folder in self.files.values() if folder in file.parents)
        body = file.read_bytes()
        name = file.relative_to(folder).as_posix()
        return {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> dict[str, Path]:
    """Two commits of one model; the image tokenizer is another's, as PURE's is."""
    folder = tmp_path_factory.mktemp("published")
    for commit, seed in ((FIRST, 0), (SECOND, 1)):
        upstream.write_model(folder / commit, seed=seed, shard_size="1GB")
        (folder / commit / EXTRA).parent.mkdir()
        (folder / commit / EXTRA).write_bytes(bytes(100))
    (folder / SECOND / PT).unlink()
    shutil.move(folder / FIRST / PT, folder / PT)
    return {commit: folder / commit for commit in (FIRST, SECOND)}


@pytest.fixture(scope="module")
def image_tokenizer(published) -> Path:
    return published[FIRST].parent / PT


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the client's."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


def direct_to(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    template = f"http://127.0.0.1:{port}" + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    close_session()  # its settings are read when it is opened


@pytest.fixture
def hub(published, cache, monkeypatch) -> Iterator[Hub]:
    state = Hub(published)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if state.refuse == HANGS_UP:
                self.close_connection = True
                return
            status, headers, body = state.answer(self.path)
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - the library's name

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        direct_to(monkeypatch, server.server_port)
        yield state
        server.shutdown()
        thread.join()
    close_session()


@pytest.fixture
def disconnect(hub, monkeypatch) -> Callable[[], None]:
    """Called, it leaves nobody to answer at the hub's address (port 9 takes no connections here)."""

    def call() -> None:
        hub.requests.clear()
        direct_to(monkeypatch, 9)

    return call


def refusal(*args: Any) -> str:
    with pytest.raises(PureError) as error:
        download(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


def head(model: pure_jax.Model) -> np.ndarray:
    return np.asarray(model.params["transformer"]["lm_head"]["kernel"])


# ---- downloads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("revision", "commit"), [(None, FIRST), ("main", FIRST), ("trial/1", SECOND), (SECOND, SECOND)]
)
def test_a_revision_is_downloaded(hub, published, revision, commit):
    hub.branches["trial/1"] = SECOND
    found = download(REPO, revision)
    assert origin_of(found) == (REPO, commit)
    names = sorted(path.name for path in found.iterdir())
    assert names == ["config.json", "model.safetensors", "tokenizer.json"]  # what a model needs, and no more
    assert all((found / name).read_bytes() == (published[commit] / name).read_bytes() for name in names)


@pytest.mark.parametrize("revision", [None, FIRST])
def test_what_was_downloaded_is_there_without_a_connection(hub, disconnect, revision):
    first = download(REPO, revision)
    hub.requests.clear()
    assert download(REPO, revision) == first
    assert [path for path in hub.requests if "/resolve/" in path] == []
    disconnect()
    assert download(REPO, revision) == first


def test_what_was_downloaded_is_there_in_offline_mode(hub, monkeypatch):
    first = download(REPO)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download(REPO) == first
    assert hub.requests == []
    for unseen in ((REPO, SECOND), (REPO, "v2"), ("owner/other",)):
        assert "offline mode is enabled" in refusal(*unseen)


@pytest.mark.parametrize(
    ("repo", "revision"), [("owner/other", None), ("owner/other", FIRST), (REPO, "v2"), (REPO, SECOND)]
)
def test_what_was_not_downloaded_is_one_sentence_without_a_connection(hub, disconnect, repo, revision):
    download(REPO)
    disconnect()
    message = refusal(repo, revision)
    assert message.startswith(f"{repo} is no directory here, and it cannot be downloaded from the hub (")
    assert "Connection refused" in message


@pytest.mark.parametrize("status", [HANGS_UP, 500, 503, 429, 418])
def test_a_hub_in_trouble_is_as_good_as_none(hub, status):
    first = download(REPO)
    hub.refuse = status
    assert download(REPO) == first
    assert "cannot be downloaded from the hub (" in refusal(REPO, "v2")


def test_a_download_that_broke_off_is_taken_up_again(hub):
    hub.broken = "model.safetensors"
    assert "cannot be downloaded from the hub (" in refusal(REPO)
    hub.broken = None
    assert (download(REPO) / "model.safetensors").is_file()


def test_a_full_disk_is_told(hub, monkeypatch):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    assert "cannot be downloaded from the hub ([Errno 28] No space left on device)" in refusal(REPO)


# ---- what the hub does not have ------------------------------------------------------------------------------------


def test_an_unknown_model_is_told(hub):
    assert refusal("owner/nothing") == "owner/nothing is neither a directory here nor a model on the hub"


@pytest.mark.parametrize("revision", ["v2", UNKNOWN])
def test_an_unknown_revision_is_told(hub, revision):
    assert refusal(REPO, revision).startswith(f"{REPO} has no revision {revision!r}")


def test_a_branch_that_is_gone_is_told(hub):
    download(REPO)
    hub.branches.clear()
    assert refusal(REPO).startswith(f"{REPO} has no revision 'main' (any more)")


def test_a_licence_that_was_not_accepted_is_told(hub):
    hub.gated = True
    assert refusal(REPO).startswith(f"{REPO} asks for its licence to be accepted")


def test_what_is_no_id_is_told(cache):
    assert not any(map(is_hub_id, ("name", "a/b/c", "/a/b", "./a", "../a", "a/", "https://a/b", "C:/a", "a b/c")))
    assert is_hub_id("nonwhy/PURE") and is_hub_id("Alpha-VLLM/Lumina-mGPT-7B-768")
    assert refusal("owner/two--dashes") == "'owner/two--dashes' is neither a directory here nor a hub id (owner/name)"
    with pytest.raises(PureError, match="'?a/b/c'? is not a model directory: there is no such directory"):
        pure_jax.load("a/b/c")


def test_other_directories_have_no_commit(tmp_path, monkeypatch):
    (tmp_path / FIRST).mkdir()
    assert origin_of(tmp_path / FIRST) == (FIRST, None)
    monkeypatch.chdir(tmp_path / FIRST)
    assert origin_of(Path(".")) == (FIRST, None)


# ---- a revision that moves -----------------------------------------------------------------------------------------


def test_a_branch_that_has_moved_is_refused_until_the_user_chooses(hub, disconnect):
    first = download(REPO)
    hub.branches["main"] = SECOND
    for _ in range(2):  # asking again does not make it right
        message = refusal(REPO)
        assert message.startswith(f"{REPO}: the revision 'main' has moved from {FIRST} to {SECOND}")
    assert download(REPO, FIRST) == first
    assert origin_of(download(REPO, SECOND)) == (REPO, SECOND)
    assert FIRST in refusal(REPO)  # the other download did not decide for the branch
    disconnect()
    assert download(REPO) == first


def test_a_commit_is_not_affected_by_a_move(hub, disconnect):
    hub.branches["main"] = SECOND
    first = download(REPO, FIRST)
    assert origin_of(first) == (REPO, FIRST)
    assert origin_of(download(REPO)) == (REPO, SECOND)  # main was never seen elsewhere
    hub.branches["main"] = UNKNOWN
    disconnect()
    assert download(REPO, FIRST) == first


# ---- through the library -------------------------------------------------------------------------------------------


def test_a_model_on_the_hub_is_loaded(hub, published, image_tokenizer, disconnect):
    with pytest.raises(PureError, match="no image tokenizer"):
        pure_jax.load(REPO)
    first, second = (head(pure_jax.load(published[c], vqgan=image_tokenizer)) for c in (FIRST, SECOND))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(head(pure_jax.load(REPO, vqgan=image_tokenizer)), first)
    np.testing.assert_array_equal(head(pure_jax.load(REPO, revision=SECOND, vqgan=image_tokenizer)), second)
    disconnect()
    np.testing.assert_array_equal(head(pure_jax.load(REPO, revision="main", vqgan=image_tokenizer)), first)


def test_a_conversion_records_the_model_and_its_commit(hub, published, image_tokenizer, tmp_path):
    hub.branches["main"] = SECOND
    Convert(REPO, tmp_path / "out", vqgan=image_tokenizer).run()
    record = json.loads((tmp_path / "out" / "upstream.json").read_text())
    assert (record["model"], record["commit"], record["vqgan"]) == (REPO, SECOND, PT)
    assert f"{REPO} at commit {SECOND}" in (tmp_path / "out" / "README.md").read_text()
    Convert(str(published[SECOND]), tmp_path / "local", vqgan=image_tokenizer).run()
    for name in ("transformer.safetensors", "vqgan.safetensors", "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    assert json.loads((tmp_path / "local" / "upstream.json").read_text())["commit"] is None


def test_a_move_leaves_no_destination(hub, image_tokenizer, tmp_path):
    download(REPO)
    hub.branches["main"] = SECOND
    with pytest.raises(PureError, match="has moved"):
        Convert(REPO, tmp_path / "out", vqgan=image_tokenizer).run()
    assert not any(path.name.startswith("out") for path in tmp_path.iterdir())
