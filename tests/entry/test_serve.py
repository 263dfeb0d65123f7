"""`scalingnote serve`: a real server in a process of its own, asked as its users ask it."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("scann")
pytest.importorskip("starlette")

from live_server import LiveServer

import scalingnote_jax
from scalingnote_jax.cli import main
from scalingnote_jax.hashing import content_hash

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    work = Path(shutil.copytree(finished, tmp_path_factory.mktemp("served") / "work"))
    server = LiveServer(work, "--documents", "--hybrid", "--read-secs=2", "--inputs=8")
    yield server
    assert server.stop() == 0, "\n".join(server.log)
    assert not server.records("fault")
    assert not any("Traceback" in line for line in server.log)


@pytest.fixture(scope="module")
def model(finished: Path) -> scalingnote_jax.Model:
    return scalingnote_jax.load(finished)


def test_search_finds_what_the_searcher_finds(server: LiveServer, finished: Path) -> None:
    texts = ["topic3 amber", "topic7"]
    wanted = scalingnote_jax.Searcher.open(finished).search(texts, 4)
    answer = server.post("/search", {"query": texts, "k": 4})
    assert answer.status == 200
    found = [result["hits"] for result in answer.body["results"]]
    assert [[hit["id"] for hit in hits] for hits in found] == [[h.id for h in w] for w in wanted]
    first, own = found[0][0], wanted[0][0]
    assert (first["title"], first["text"]) == (own.title, own.text)
    assert first["score"] == pytest.approx(own.score, abs=1e-5)
    bare = server.post("/search", {"query": texts[0], "k": 1, "texts": False}).body
    assert bare["results"][0]["hits"][0].keys() == {"id", "score"}


def test_words_and_tower_are_searched_together(server: LiveServer, finished: Path) -> None:
    texts = ["topic3 amber", "topic7"]
    found = {
        mode: server.post("/search", {"query": texts, "k": 5, "mode": mode}).body["results"]
        for mode in ("dense", "hybrid", "lexical")
    }
    for lexical, topic in zip(found["lexical"], ("d3", "d7"), strict=True):
        assert topic in {hit["id"].split("-")[0] for hit in lexical["hits"]}
    assert all(len(result["hits"]) == 5 for result in found["hybrid"])
    assert found["hybrid"] != found["dense"]
    vector = server.post("/embed", {"inputs": "topic3", "input_type": "query"}).body[0]
    refused = server.post("/search", {"vector": vector, "mode": "hybrid"})
    assert (refused.status, refused.body["error"][:4]) == (422, "mode")


def test_a_query_vector_finds_what_its_text_finds(server: LiveServer) -> None:
    (vector,) = server.post("/embed", {"inputs": "topic3", "input_type": "query"}).body
    by_text = server.post("/search", {"query": "topic3", "k": 5}).body
    by_vector = server.post("/search", {"vector": [2 * x for x in vector], "k": 5}).body
    hits = [[hit["id"] for hit in answer["results"][0]["hits"]] for answer in (by_text, by_vector)]
    assert hits[0] == hits[1]


def embed(server: LiveServer, **values: Any) -> np.ndarray:
    answer = server.post("/embed", values)
    assert answer.status == 200, answer
    return np.array(answer.body)


def test_each_side_has_its_tower_and_must_be_named(
    server: LiveServer, model: scalingnote_jax.Model
) -> None:
    texts = ["topic3 amber", "topic7"]
    for side, encode in (("query", model.encode_queries), ("document", model.encode_documents)):
        wanted = encode(texts)
        for said in ({"input_type": side}, {"prompt_name": side}, {"model": f"tiny-{side}"}):
            np.testing.assert_allclose(embed(server, inputs=texts, **said), wanted, atol=1e-5)
    unsaid = server.post("/embed", {"inputs": texts})
    assert unsaid.status == 422
    assert unsaid.body["error"].startswith("input_type: not there; expected 'query' or 'document'")


def test_fewer_dimensions_are_cut_and_of_length_one(server: LiveServer) -> None:
    whole = embed(server, inputs="topic3", input_type="query")[0]
    cut = embed(server, inputs="topic3", input_type="query", dimensions=4)[0]
    np.testing.assert_allclose(cut, whole[:4] / np.linalg.norm(whole[:4]), atol=1e-6)
    assert np.linalg.norm(cut) == pytest.approx(1, abs=1e-6)
    raw = embed(server, inputs="topic3", input_type="query", normalize=False)[0]
    np.testing.assert_allclose(raw / np.linalg.norm(raw), whole, atol=1e-6)


def test_the_openai_client_works_unchanged(
    server: LiveServer, model: scalingnote_jax.Model
) -> None:
    openai = pytest.importorskip("openai")
    url = f"http://127.0.0.1:{server.port}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        assert [m.id for m in client.models.list()] == ["tiny-query", "tiny-document"]
        wanted = model.encode_queries(["topic3 amber", "topic7"])
        # The client asks for base64 by itself, unless a format is named
        for form in ({}, {"encoding_format": "float"}):
            given = {"model": "tiny-query", "input": ["topic3 amber", "topic7"], **form}
            answer = client.embeddings.create(**given)
            np.testing.assert_allclose([d.embedding for d in answer.data], wanted, atol=1e-5)
            assert answer.usage.prompt_tokens == 3  # two words and one
        short = client.embeddings.create(model="tiny-query", input="topic3", dimensions=4)
        assert np.linalg.norm(short.data[0].embedding) == pytest.approx(1, abs=1e-6)
        with pytest.raises(openai.NotFoundError, match="model: 'gpt'; expected one of tiny"):
            client.embeddings.create(model="gpt", input="topic3")
        with pytest.raises(openai.BadRequestError, match="dimensions: 99; expected 1 to 16"):
            client.embeddings.create(model="tiny-query", input="topic3", dimensions=99)
        side = {"input_type": "document"}
        answer = client.embeddings.create(model="tiny", input="topic3", extra_body=side)
        wanted = model.encode_documents("topic3")
        np.testing.assert_allclose([answer.data[0].embedding], wanted, atol=1e-5)


def test_base64_is_little_endian_float32(server: LiveServer) -> None:
    given = {"model": "tiny-query", "input": "topic3", "encoding_format": "base64"}
    answer = server.post("/v1/embeddings", given)
    data = base64.b64decode(answer.body["data"][0]["embedding"])
    floats = struct.unpack(f"<{len(data) // 4}f", data)
    np.testing.assert_allclose(floats, embed(server, inputs="topic3", input_type="query")[0])


def test_what_is_live_is_said(server: LiveServer, finished: Path) -> None:
    info = server.get("/info").body
    store = json.loads((finished / "embeddings" / "teacher-doc" / "manifest.json").read_text())
    assert info["model_id"] == "tiny"
    assert info["teacher"] == store["checkpoint"]
    student = json.loads((finished / "student" / "done.json").read_text())
    assert info["model_sha"] == student["output"]
    assert (info["max_input_length"], info["max_client_batch_size"]) == (16, 8)
    assert info["documents"] == 40
    assert set(info["towers"]) == {"query", "document"}


def test_metrics_count_what_came_in(server: LiveServer) -> None:
    def counted() -> dict[str, float]:
        lines = [x for x in server.get("/metrics").body.splitlines() if not x.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    before = counted()
    long = " ".join(["amber"] * 17)  # the tower reads 16 tokens
    embed(server, inputs=["amber basin", long], input_type="query")
    server.post("/embed", {"inputs": []})
    after = counted()

    def rise(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert rise('scalingnote_tokens_total{side="query"}') == 18
    assert rise('scalingnote_texts_total{side="query"}') == 2
    assert rise('scalingnote_truncated_texts_total{side="query"}') == 1
    assert rise('scalingnote_requests_total{path="/embed",status="200"}') == 1
    assert rise('scalingnote_requests_total{path="/embed",status="422"}') == 1
    for stage in ("tokens", "queue", "tower"):
        assert rise(f'scalingnote_stage_seconds_count{{stage="{stage}"}}') >= 1
    assert after["scalingnote_ready"] == 1
    assert after["scalingnote_documents"] == 40


def test_a_text_that_is_too_long_is_cut_or_refused(server: LiveServer) -> None:
    sixteen, longer = " ".join(["amber"] * 16), " ".join(["amber"] * 17)
    both = embed(server, inputs=[sixteen, longer], input_type="query")
    np.testing.assert_allclose(both[0], both[1], atol=1e-6)
    whole = {"input_type": "query", "truncate": False}
    assert server.post("/embed", {"inputs": sixteen, **whole}).status == 200
    refused = server.post("/embed", {"inputs": longer, **whole})
    assert refused.status == 413
    assert "expected at most 16 tokens" in refused.body["error"]


BAD = [
    ("POST", "/search", b"", 400, "body: empty"),
    ("POST", "/search", b'{"query": "a", "k": NaN}', 400, "NaN is no JSON number"),
    ("POST", "/search", {"query": ""}, 422, "an empty text"),
    ("POST", "/search", {"query": "\ud800"}, 422, "half of a surrogate pair"),
    ("POST", "/search", {"query": 7}, 422, "query: 7"),
    ("POST", "/search", {"query": "a", "k": 41}, 422, "k: 41; expected 1 to 40 documents"),
    ("POST", "/search", {"query": "a", "k": 10**9}, 422, "k: 1000000000; expected 1 to 1000"),
    ("POST", "/search", {"query": "a", "model": "tiny-document"}, 422, "input_type"),
    ("POST", "/search", {"query": "a", "collection": "b"}, 422, "collection"),
    ("POST", "/search", {"query": "a", "filter": {"year": 3}}, 422, "filter: no field"),
    ("POST", "/search", {"vector": [1, 2]}, 422, "vector: 2 numbers; expected 16"),
    ("POST", "/search", {"query": ["a"] * 9}, 413, "9 texts; expected at most 8"),
    ("POST", "/search", {"query": "a" * 100_001}, 413, "100001 characters"),
    ("POST", "/search", {"query": "a" * 2_000_001}, 413, "body: over 2000000 bytes"),
    ("POST", "/embed", {"inputs": "a", "model": "other"}, 404, "model: 'other'"),
    ("GET", "/nowhere", None, 404, "GET /nowhere"),
    ("GET", "/search", None, 405, "Method Not Allowed"),
    ("DELETE", "/embed", None, 405, "Method Not Allowed"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "says"), BAD)
def test_bad_input_is_one_line(
    server: LiveServer, method: str, path: str, body: Any, status: int, says: str
) -> None:
    answer = server.request(method, path, body)
    assert answer.status == status, answer
    assert says in answer.body["error"]
    assert "\n" not in answer.body["error"]
    assert "Traceback" not in json.dumps(answer.body)


def test_deadlines_and_ids_come_with_headers(server: LiveServer) -> None:
    assert server.get("/health", X_Request_Id="mine-1").headers["x-request-id"] == "mine-1"
    invented = server.get("/health", X_Request_Id="no good id").headers["x-request-id"]
    assert len(invented) == 32
    for bad in ("0", "-1", "soon", "1" * 20):
        answer = server.post("/search", {"query": "a", "k": 1}, X_Timeout_Ms=bad)
        assert (answer.status, answer.body["error"][:12]) == (400, "X-Timeout-Ms")
    assert server.post("/search", {"query": "a", "k": 1}, X_Timeout_Ms="5000").status == 200


def raw(server: LiveServer, data: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    connection.sendall(data)
    return connection


def test_slow_and_silent_clients_are_let_go_and_cost_nobody_else_anything(
    server: LiveServer,
) -> None:
    head = b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    silent = [raw(server, b"") for _ in range(50)]
    slow = [raw(server, b"POST /search HTTP/1.1\r\nHos") for _ in range(20)]
    half = [raw(server, head + b'{"query":') for _ in range(20)]
    for _ in range(5):
        started = time.perf_counter()
        assert server.post("/search", {"query": "topic3", "k": 3}).status == 200
        assert time.perf_counter() - started < 2
    assert b" 408 " in half[0].recv(1000).splitlines()[0]  # after the 2 s of --read-secs
    for connection in (*silent, *slow):
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1000) == b""
    for connection in (*silent, *slow, *half):
        connection.close()
    endless = raw(server, b"GET / HTTP/1.1\r\n")
    more = b"X-More: " + b"x" * 10_000 + b"\r\n"
    assert sends_until_it_is_closed(endless, more) < 100


def sends_until_it_is_closed(connection: socket.socket, data: bytes) -> int:
    for sent in range(100):
        try:
            connection.sendall(data)
        except ConnectionError:
            return sent
        time.sleep(0.01)
    return 100


def test_a_client_that_goes_costs_no_answer(server: LiveServer) -> None:
    body = json.dumps({"query": "topic3", "k": 3}).encode()
    head = f"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for _ in range(30):
        raw(server, head + body).close()
    assert server.post("/search", {"query": "topic3", "k": 3}).status == 200


def test_many_at_once_get_what_one_gets(server: LiveServer) -> None:
    words = ["amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "heron"]
    alone = {word: server.post("/search", {"query": word, "k": 3}).body for word in words}
    wrong: list[Any] = []

    def ask(word: str) -> None:
        for _ in range(10):
            answer = server.post("/search", {"query": word, "k": 3})
            hits, wanted = (
                [hit["id"] for hit in body["results"][0]["hits"]]
                for body in (answer.body, alone[word])
            )
            if answer.status != 200 or hits != wanted:
                wrong.append((word, answer))

    threads = [threading.Thread(target=ask, args=(word,)) for word in words]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_log_has_no_texts(server: LiveServer) -> None:
    server.post("/search", {"query": "zephyr jasper", "k": 1}, X_Request_Id="logged")
    time.sleep(0.2)
    (line,) = [r for r in server.records("request") if r["id"] == "logged"]
    assert (line["path"], line["status"], line["tokens"], line["k"]) == ("/search", 200, 2, 1)
    assert not any("zephyr" in line for line in server.log)


def test_keys_overload_and_a_signal_in_the_middle(finished: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first\nsecond\n")
    few = ("--queue-tokens=16", "--inputs=1", "--batch-tokens=16", "--stop-delay-secs=4")
    server = LiveServer(finished, f"--api-key-file={keys}", "--log-texts", *few, wait=False)
    assert server.get("/health").status == 200
    early = server.get("/ready")
    assert early.status in (200, 503)  # 503 unless it was quicker than this test
    server.wait_ready()
    for header in ({}, {"Authorization": "Bearer third"}, {"Authorization": "Basic first"}):
        refused = server.post("/search", {"query": "a", "k": 1}, **header)
        assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert server.get("/metrics").status == 401
    key = {"Authorization": "Bearer second"}
    assert server.post("/search", {"query": "kelp", "k": 1}, **key).status == 200

    seen: list[Any] = []

    def is_ready() -> bool:
        try:
            return server.get("/ready").status == 200
        except ConnectionError:
            return False

    def ask() -> None:  # as a load balancer does: while it is said to be ready
        while is_ready():
            seen.append(server.post("/search", {"query": "kelp", "k": 1}, **key))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    assert server.stop() == 0
    for thread in threads:
        thread.join()
    assert {answer.status for answer in seen} <= {200, 429}
    assert any(answer.status == 200 for answer in seen)
    for answer in seen:
        if answer.status == 429:
            assert int(answer.headers["retry-after"]) >= 1
    assert any("kelp" in line for line in server.log)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{nothing}"], "no config.json in it"),
        (["{work}", "--port=99999"], "--port: 99999; expected 0 to 65535"),
        (["{work}", "--host=192.0.2.1"], "--host, --port: 192.0.2.1:8080"),
        (["{work}", "--inputs=0"], "--inputs: 0; expected at least 1"),
        (["{work}", "--timeout-secs=nan"], "--timeout-secs: nan"),
        (["{work}", "--api-key-file={nothing}"], "--api-key-file"),
    ],
)
def test_what_cannot_be_served_ends_with_one_line(
    words: list[str], says: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"work": str(finished), "nothing": str(tmp_path)}
    assert main(["serve", *(word.format(**places) for word in words)]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_a_damaged_workdir_ends_the_server_with_one_line(finished: Path, tmp_path: Path) -> None:
    work = Path(shutil.copytree(finished, tmp_path / "work"))
    (work / "index" / "manifest.json").unlink()
    server = LiveServer(work, wait=False)
    assert server.process.wait(60) == 2
    server.stop()
    (line,) = [line for line in server.log if line.startswith("scalingnote: ")]
    assert "manifest.json: not there" in line
    assert not any("Traceback" in line for line in server.log)


def other_student(finished: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of a workdir, and one whose student says that it is of another teacher."""
    good, bad = (Path(shutil.copytree(finished, tmp_path / n)) for n in ("good", "bad"))
    shutil.rmtree(bad / "student" / "kept", ignore_errors=True)
    for path in (bad / "student" / "checkpoints").glob("*/meta/metadata"):
        meta = json.loads(path.read_text()) | {"teacher": "f" * 64}
        del meta["own_hash"]
        path.write_text(json.dumps(meta | {"own_hash": content_hash(meta)}))
    return good, bad


def test_what_is_live_is_swapped_without_a_failed_answer(finished: Path, tmp_path: Path) -> None:
    good, bad = other_student(finished, tmp_path)
    keys = {"SCALINGNOTE_ADMIN_KEY": "boss", "SCALINGNOTE_API_KEY": "user"}
    server = LiveServer(Path(shutil.copytree(finished, tmp_path / "first")), **keys)
    user, boss = ({"Authorization": f"Bearer {key}"} for key in ("user", "boss"))
    seen: list[Any] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            seen.append(server.post("/search", {"query": "topic3", "k": 3}, **user))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        assert server.post("/admin/rollback", {}, **boss).status == 409
        assert server.post("/admin/swap", {"workdir": str(good)}, **user).status == 401
        refused = server.post("/admin/swap", {"workdir": str(bad)}, **boss)
        assert refused.status == 422
        assert "a student of another teacher (ffffffffffff)" in refused.body["error"]
        for values, says in (
            ({}, "workdir: not there"),
            ({"workdir": 3}, "workdir: 3; expected a name"),
            ({"workdir": str(tmp_path / "none")}, "no config.json in it"),
            ({"workdir": "a\0b"}, "expected printable characters"),
            ({"folder": "x"}, "folder: no field of this request"),
        ):
            answer = server.post("/admin/swap", values, **boss)
            assert (answer.status, says in answer.body["error"]) == (422, True), answer
        for _ in range(2):
            swapped = server.post("/admin/swap", {"workdir": str(good)}, **boss)
            assert swapped.status == 200, swapped
            assert swapped.body["canary_recall"] == 1  # brute force
        back = server.post("/admin/rollback", {}, **boss)
        assert (back.status, back.body) == (200, {"name": "tiny", "documents": 40})
    finally:
        done.set()
        for thread in threads:
            thread.join()
        code = server.stop()
    assert code == 0
    assert {answer.status for answer in seen} == {200}
    found = {tuple(h["id"] for h in answer.body["results"][0]["hits"]) for answer in seen}
    assert len(found) == 1
    assert not server.records("fault")


def test_without_an_admin_key_nothing_is_swapped(server: LiveServer, finished: Path) -> None:
    assert server.post("/admin/swap", {"workdir": str(finished)}).status == 404
