"""The HTTP service with a small family: answers, refusals, places, clients that go, and two hundred requests."""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

fastapi = pytest.importorskip("fastapi", reason="needs the extra serve")
import httpx  # noqa: E402
import uvicorn  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402

import pure_jax  # noqa: E402
from pure_jax.errors import PureError  # noqa: E402
from pure_jax.infer.families import RESTORE_TILES  # noqa: E402
from pure_jax.infer.restore import Restorer  # noqa: E402
from pure_jax.infer.serve.command import Serve  # noqa: E402
from pure_jax.infer.serve.listening import address, listen  # noqa: E402
from pure_jax.infer.serve.patience import impatient  # noqa: E402
from pure_jax.infer.serve.service import service  # noqa: E402
from pure_jax.infer.uploads import Limits  # noqa: E402
from tests import toy  # noqa: E402
from tests.models import tiny_model  # noqa: E402

SOON = 30.0


def photo(kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (20, 16), seed: int = 0) -> bytes:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture
def gate(monkeypatch) -> Iterator[SimpleNamespace]:
    """A family whose tiles are restored while the gate is open; until then it tells its progress."""
    gate = SimpleNamespace(open=threading.Event(), begun=threading.Event())
    gate.open.set()

    def restore_tiles(model, tiles, *, seed, batch, progress, first=0, sampling=None, text=""):
        gate.begun.set()
        while not gate.open.wait(0.01):
            progress("restore", 0, len(tiles))
        return toy.restore_tiles(model, tiles, seed=seed, batch=batch, progress=progress, sampling=sampling)

    with toy.registered():
        monkeypatch.setitem(RESTORE_TILES, "toy", restore_tiles)
        yield gate


@pytest.fixture
def restorer(gate) -> Restorer:
    model: Any = toy.ToyModel(toy.ToyConfig(), toy.params(), None, "", np.float32)
    return Restorer(model)


@pytest.fixture
def client(restorer) -> Iterator[Callable[..., TestClient]]:
    opened: list[TestClient] = []

    def of(hosts: tuple[str, ...] = ("testserver",), **limits: Any) -> TestClient:
        client = TestClient(service(restorer, "toy", Limits(**limits), list(hosts)))
        opened.append(client.__enter__())
        return client

    yield of
    for client in opened:
        client.__exit__(None, None, None)


def image_of(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_the_answer_is_what_the_restorer_makes(client, restorer):
    answer = client().post("/restore?scale=2&seed=7", content=photo())
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    expected = restorer.restore(image_of(photo()), scale=2, seed=7).image
    assert np.array_equal(np.asarray(image_of(answer.content)), np.asarray(expected))
    told = json.loads(answer.headers["Pure-Result"])
    assert (told["width"], told["height"], told["seed"], told["remarks"]) == (40, 32, 7, ["seed 7"])
    assert {"wait", "restore", "blend"} <= set(told["seconds"])


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_json_has_the_picture_too(client, format):
    answer = client().post(f"/restore?scale=1&format={format}", content=photo(), headers={"Accept": "application/json"})
    found = answer.json()
    image = image_of(base64.b64decode(found.pop("image")))
    assert (image.format, image.size) == (format.upper(), (found["width"], found["height"]))
    assert (found["format"], found["degradation"], found["description"]) == (format, None, "")


@pytest.mark.parametrize(
    ("query", "content", "status", "complaint"),
    [
        ("", b"", 422, "the upload is empty"),
        ("", b"no picture", 422, "the upload is not a readable picture"),
        ("", photo()[:-60], 422, "the upload is damaged or incomplete"),
        ("", photo(size=(8, 8)), 422, "the upload has 8x8 pixels"),
        (
            "",
            b"--b\r\nContent-Disposition: form-data; name=x; filename=../../etc/passwd\r\n\r\n",
            422,
            "not a readable",
        ),
        ("?scale=17", photo(), 422, "scale: Input should be less than or equal to 16"),
        ("?scale=nan", photo(), 422, "scale: "),
        ("?seed=-1", photo(), 422, "seed: "),
        ("?format=gif", photo(), 422, "format: "),
        ("?temperature=1", photo(), 422, "temperature has no meaning for this model"),
        ("?fast=true", photo(), 422, "fast has no meaning for a model of the family toy"),
        ("?format=jpeg", photo(mode="RGBA"), 422, "a JPEG file cannot hold transparency"),
        ("", bytes(200_001), 413, "more than the 0.2 MB"),
        ("?scale=10", photo(), 413, "the result would have 200x160 pixels"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(client, query, content, status, complaint):
    client = client(bytes=200_000, pixels=20_000)
    answer = client.post(f"/restore{query}", content=content)
    assert answer.status_code == status and complaint in answer.json()["detail"]
    assert "/tmp" not in answer.text and "Traceback" not in answer.text
    assert client.get("/health").json()["taken"] == 0


def test_beyond_the_places_it_is_429_and_then_there_is_room_again(client, gate):
    client = client(places=2)
    gate.open.clear()
    answers: list[int] = []
    ask = [
        threading.Thread(target=lambda: answers.append(client.post("/restore?scale=1", content=photo()).status_code))
        for _ in range(2)
    ]
    for thread in ask:
        thread.start()
    until(lambda: client.get("/health").json()["taken"] == 2)
    refused = client.post("/restore", content=photo())
    assert refused.status_code == 429 and refused.headers["Retry-After"] == "10"
    gate.open.set()
    for thread in ask:
        thread.join(SOON)
    assert answers == [200, 200]
    assert client.post("/restore?scale=1", content=photo()).status_code == 200


def test_an_error_of_any_other_kind_is_500_and_frees_its_place(client, monkeypatch, caplog):
    @wraps(RESTORE_TILES["toy"])
    def broken(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("the device is on fire")

    client = client()
    with monkeypatch.context() as patch:
        patch.setitem(RESTORE_TILES, "toy", broken)
        answer = client.post("/restore?scale=1", content=photo())
    assert answer.status_code == 500
    assert answer.json() == {"detail": "the photo could not be restored; the service's log says why"}
    assert "on fire" in caplog.text and client.get("/health").json()["taken"] == 0
    assert client.post("/restore?scale=1", content=photo()).status_code == 200


def test_a_profile_that_png_readers_refuse_is_left_out_and_said(client):
    buffer = io.BytesIO()
    profile = bytes(16) + b"RGB " + np.random.default_rng(0).bytes(2 << 20)
    image_of(photo()).save(buffer, "JPEG", icc_profile=profile)
    answer = client(bytes=4_000_000).post("/restore?scale=1", content=buffer.getvalue())
    assert image_of(answer.content).size == (20, 16) and "was left out" in answer.headers["Pure-Result"]


def test_what_takes_too_long_is_504_and_its_place_is_free(client, gate):
    client = client(timeout=0.2)
    gate.open.clear()
    assert client.post("/restore", content=photo()).status_code == 504
    until(lambda: client.get("/health").json()["taken"] == 0)


def test_only_its_own_names_and_pages_are_served(client):
    client = client(hosts=("127.0.0.1", "localhost"))
    assert client.get("/health", headers={"Host": "evil.example"}).status_code == 400
    own = {"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:8000"}
    assert client.post("/restore?scale=1", content=photo(), headers=own).status_code == 200
    other = own | {"Origin": "http://evil.example"}
    assert client.post("/restore?scale=1", content=photo(), headers=other).status_code == 403


def test_it_describes_itself(client):
    client = client()
    described = client.get("/openapi.json").json()["paths"]["/restore"]["post"]
    assert {"scale", "seed", "format"} <= {parameter["name"] for parameter in described["parameters"]}
    assert "image/jpeg" in described["requestBody"]["content"] and {"429", "413"} <= described["responses"].keys()
    assert client.get("/docs").status_code == 200
    assert client.get("/health").json() == {
        "status": "ok", "model": "toy", "places": 8, "taken": 0, "working": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (Serve(places=0), "the limit of places is 0"),
        (Serve(timeout=float("nan")), "the limit of timeout is nan"),
        (Serve(port=70000), "the port is 70000"),
        (Serve(host="203.0.113.7"), "cannot listen at 203.0.113.7"),
    ],
)
def test_a_bad_option_is_refused_before_the_model_is_loaded(monkeypatch, command, complaint):
    monkeypatch.setattr(pure_jax, "load", None, raising=False)
    with pytest.raises(PureError, match=complaint):
        command.run()


def test_a_port_that_is_taken_is_refused():
    with listen("127.0.0.1", 0) as taken, pytest.raises(PureError, match="choose another --port"):
        listen("127.0.0.1", taken.getsockname()[1])


# ---- over loopback -------------------------------------------------------------------------------------------------


@pytest.fixture
def running(restorer) -> Iterator[Callable[..., str]]:
    """Starts the service on a port of loopback; returns its address."""
    stops: list[Callable[[], None]] = []

    def start(**limits: Any) -> str:
        listening = listen("127.0.0.1", 0)
        app = service(restorer, "toy", Limits(**limits), ["127.0.0.1"])
        http = impatient(Limits(**limits).upload_timeout)
        config = uvicorn.Config(app, http=http, log_level="error", timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()

        def stop() -> None:
            server.should_exit = True
            thread.join(SOON)
            listening.close()

        stops.append(stop)
        until(lambda: server.started)
        return address(listening)

    yield start
    for stop in stops:
        stop()


def until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.01)


def taken(url: str) -> int:
    return httpx.get(f"{url}/health").json()["taken"]


def hang_up_after_asking(url: str, data: bytes) -> None:
    """As a browser does whose user goes away."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as line:
        head = f"POST /restore?scale=1 HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(data)}\r\n\r\n"
        line.sendall(head.encode() + data)
        time.sleep(0.05)


def test_a_client_that_goes_frees_its_place(running, gate):
    url = running(places=1)
    gate.open.clear()
    hang_up_after_asking(url, photo())
    until(lambda: taken(url) == 0)
    gate.open.set()
    assert httpx.post(f"{url}/restore?scale=1", content=photo()).status_code == 200


@pytest.mark.parametrize("begun", [b"", b"GET /health HTTP/1.1\r\nHost: 127"], ids=["nothing", "half a header"])
def test_who_does_not_say_what_it_wants_is_hung_up_on(running, begun):
    url = running(upload_timeout=0.2)
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=SOON) as line:
        whole = f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        line.sendall(whole[:20])
        line.sendall(whole[20:])  # in two parts, in time
        assert line.recv(1000).startswith(b"HTTP/1.1 200")
        line.sendall(begun)
        while line.recv(1000):
            pass  # until it is closed, or SOON is over
    with socket.create_connection((host, int(port)), timeout=SOON) as line:
        line.sendall(begun)
        assert line.recv(1000) == b""


def test_a_photo_that_does_not_arrive_is_408(running):
    url = running(upload_timeout=0.2)
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=SOON) as line:
        line.sendall(f"POST /restore HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n\r\nslow".encode())
        assert line.recv(1000).startswith(b"HTTP/1.1 408")
    until(lambda: taken(url) == 0)


def test_an_upload_that_does_not_say_how_long_it_is_ends_at_the_limit(running):
    url = running(bytes=5000)
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=SOON) as line:
        head = f"POST /restore HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n"
        line.sendall(head.encode() + b"1771\r\n" + bytes(0x1771) + b"\r\n")  # and no end
        assert line.recv(1000).startswith(b"HTTP/1.1 413")
    until(lambda: taken(url) == 0)


@pytest.mark.slow
@pytest.mark.long
def test_two_hundred_requests_from_sixteen_clients(running):
    """A tenth broken, a tenth given up: every good one is answered, nothing is left behind, memory stays."""
    url = running(places=6)
    good, broken = photo(size=(48, 40)), photo()[:-60]
    expected = httpx.post(f"{url}/restore?scale=2", content=good).content

    async def one(client: httpx.AsyncClient, number: int) -> str:
        dice = random.Random(number)
        if number % 10 == 3:
            return str((await client.post("/restore?scale=2", content=broken)).status_code)
        if number % 10 == 7:
            try:
                await asyncio.wait_for(client.post("/restore?scale=2", content=good), dice.uniform(0.001, 0.03))
            except TimeoutError:
                return "given up"
            return "given up too late"
        while True:  # as a polite client does
            answer = await client.post("/restore?scale=2", content=good)
            if answer.status_code != 429:
                return "good" if answer.content == expected else f"bad {answer.status_code}"
            refused.append(number)
            await asyncio.sleep(dice.uniform(0.01, 0.1))

    async def all_of_them(count: int) -> Counter[str]:
        numbers = iter(range(count))

        async def sixteenth() -> list[str]:
            async with httpx.AsyncClient(base_url=url, timeout=SOON) as client:
                return [await one(client, number) for number in numbers]

        parts = await asyncio.gather(*(sixteenth() for _ in range(16)))
        return Counter(result for part in parts for result in part)

    refused: list[int] = []
    asyncio.run(all_of_them(64))  # until every buffer has its size
    before = resident()
    for _ in range(3):
        counts = asyncio.run(all_of_them(200))
        assert counts["good"] == 160 and counts["given up"] + counts["given up too late"] == 20
        assert counts["422"] + counts["429"] == 20 and counts["given up"] > 0 and sum(counts.values()) == 200
    assert refused  # the queue was full, and did not grow
    until(lambda: taken(url) == 0)
    assert resident() - before < 30e6
    assert httpx.post(f"{url}/restore?scale=2", content=good).content == expected


def resident() -> float:
    gc.collect()
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    return 1024.0 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmRSS"))


@pytest.mark.slow
def test_sigterm_ends_it_in_good_order(tmp_path):
    model = tiny_model(num_layers=1)
    pure_jax.save(tmp_path / "tiny", model.config, model.params, model.tokenizer.to_str(), "A random model.\n")
    command = [sys.executable, "-m", "pure_jax", "serve", "--port", "0", "--grace", "120", "--model", "tiny"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[2]
        answers: list[httpx.Response] = []

        def ask() -> None:
            answers.append(httpx.post(f"{url}/restore?scale=1", content=photo(size=(16, 16)), timeout=200))

        asking = threading.Thread(target=ask)
        asking.start()
        until(lambda: taken(url) == 1)
        process.send_signal(signal.SIGTERM)
        asking.join(200)
        assert answers[0].status_code == 200  # what was begun is finished
        _, said = process.communicate(timeout=SOON)
    assert process.returncode == 0 and "Traceback" not in said
