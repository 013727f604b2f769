"""The server: its answers, its gate, what it keeps, and what it does with nonsense."""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
from lemur_mini import Ranker
from lemur_mini.command import OptionError
from lemur_mini.data.errors import DataError
from lemur_mini.files import FileError
from lemur_mini.serving import __main__ as command
from lemur_mini.serving import gate, server
from lemur_mini.serving.journal import Journal, documents_line, event_line, replay
from lemur_mini.serving.nearest import Brute, Nearest, engine_of
from lemur_mini.serving.together import Together
from tests.test_artefact import asked, made
from tests.test_serving import jpeg

TOKEN = "a token of sixteen"


@pytest.fixture(scope="module")
def artefact(folder, config, tmp_path_factory):
    """A folder with a ranker of what was shown, as the form of config.OURS."""
    path = tmp_path_factory.mktemp("artefact")
    made(folder, config, "ours").save_pretrained(path)
    return path


@pytest.fixture
def ranker(artefact):
    return Ranker.from_pretrained(artefact)


@pytest.fixture
def client(ranker):
    with server.running(ranker) as url, httpx.Client(base_url=url) as client:
        yield client


def post(client, path, status=200, **body):
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_answers_are_those_of_the_ranker(client, ranker, folder, config):
    user, text, items = asked(made(folder, config))[0]
    found = post(client, "/rank", user=user, query=text, items=items)
    wanted = ranker.rank_ids(user, text, items)
    assert [r["item"] for r in found["ranked"]] == [item for item, _ in wanted]
    chances = [r["chance"] for r in found["ranked"]]
    np.testing.assert_allclose(chances, [chance for _, chance in wanted], atol=1e-5)
    assert found["known"] == {"user": True, "query": True}
    found = post(client, "/rank", user="x", query="never", items=items[:1])
    assert found["known"] == {"user": False, "query": False}
    near = post(client, "/retrieve", query=text, count=5)["found"]
    rows = ranker.retrieve(text, 5)
    assert [r["item"] for r in near] == ranker.ids_of(rows)


def test_what_is_posted_is_in_the_next_answer(client, ranker):
    item = ranker.known.names["items"][3]
    post(client, "/watched", user="u", item=item, time=ranker.known.past.end + 9)
    post(client, "/watched", user="u", item=item, watched=False)  # now
    assert ranker.history("u")[0] == 3
    image = base64.b64encode(jpeg("red")).decode()
    new = [{"item_id": 7000, "title": "crumb", "image": image}, {"item_id": 7001}]
    assert post(client, "/documents", documents=new) == {"added": 2, "documents": 122}
    found = post(client, "/rank", user="u", query="crumb", items=[7000, 7001, item])
    assert {r["item"] for r in found["ranked"]} == {7000, 7001, item}
    assert post(client, "/documents", 400, documents=new)["error"].endswith("another")
    about = client.get("/health").json()
    assert about["status"] == "ok" and about["documents"] == 122
    text = client.get("/metrics").text
    assert 'lemur_requests_total{path="/documents",status="200"} 1.0' in text
    assert "lemur_documents 122.0" in text
    assert "/rank" in client.get("/openapi.json").json()["paths"]
    page = client.get("/docs").text
    assert "http://" not in page and "https://" not in page  # nothing from elsewhere


BAD = [
    ("/rank", {"user": 1, "items": []}),
    ("/rank", {"user": 1, "items": [1] * 1001}),
    ("/rank", {"user": 1, "items": [10**30]}),
    ("/rank", {"user": 1, "items": [True]}),
    ("/rank", {"user": 1.5, "items": [1]}),
    ("/rank", {"user": [1], "items": [1]}),
    ("/rank", {"user": 1, "items": [1], "more": 1}),
    ("/rank", {"user": 1, "items": "1"}),
    ("/rank", {"user": "x" * 201, "items": [1]}),
    ("/rank", {"user": 1, "query": "x" * 1001, "items": [1]}),
    ("/rank", {"user": 1, "query": "\ud800", "items": [1]}),
    ("/rank", {"user": 1, "query": None, "items": [1]}),
    ("/rank", {}),
    ("/rank", []),
    ("/retrieve", {"query": "x", "count": 0}),
    ("/retrieve", {"query": "x", "count": 10**9}),
    ("/retrieve", {"query": "x", "count": "5"}),
    ("/watched", {"user": 1, "item": "\x00", "time": 2e9}),
    ("/watched", {"user": 1, "item": 1, "time": 1}),
    ("/watched", {"user": 1, "item": 1, "time": 1e300}),
    ("/watched", {"user": 1, "item": 1, "watched": 2}),
    ("/documents", {"documents": []}),
    ("/documents", {"documents": [{}]}),
    ("/documents", {"documents": [{"item_id": 1, "title": 7}]}),
    ("/documents", {"documents": [{"item_id": 8000, "colour": "red"}]}),
    ("/documents", {"documents": [{"item_id": 8000, "image": "/etc/passwd"}]}),
    ("/documents", {"documents": [{"item_id": 8000, "image": "é"}]}),
    ("/documents", {"documents": [{"item_id": 8000}, {"item_id": 8000}]}),
    ("/documents", {"documents": [{"item_id": "8000"}]}),
    ("/documents", {"documents": [{"item_id": 8000, "title": "x" * 20_001}]}),
    ("/documents", {"documents": [{"item_id": k} for k in range(8000, 8065)]}),
]
RAW = [b"", b"{", b"\xff", b"[" * 90_000, b'{"user": NaN}', b"1e999", b"9" * 5000]


def test_nonsense_gets_one_line_of_json_and_the_service_goes_on(client, ranker):
    calls = [(path, json.dumps(body).encode()) for path, body in BAD]
    calls += [
        (path, raw) for path in ("/rank", "/documents", "/watched") for raw in RAW
    ]
    for path, body in calls:
        kind = {"content-type": "application/json"}
        answer = client.post(path, content=body, headers=kind)
        assert 400 <= answer.status_code < 500, (path, body[:80], answer.text)
        assert answer.json().keys() == {"error"} and "\n" not in answer.json()["error"]
    for way, path in (("GET", "/rank"), ("POST", "/nothing"), ("PUT", "/health")):
        answer = client.request(way, path)
        assert answer.status_code in (404, 405) and "error" in answer.json()
    assert client.get("/health").json()["documents"] == 120
    assert ranker.known.guests == {} and ranker.histories.users() == []
    post(client, "/rank", user=1, items=ranker.known.names["items"][:3])


def test_random_json_never_breaks_it(client, ranker):
    rng = np.random.default_rng(0)
    atoms = [None, True, -1, 0, 1.5, 10**20, "", "x", "\x00", "é" * 300, [], {}]
    fields = {
        "/rank": ("user", "query", "items"),
        "/retrieve": ("query", "count"),
        "/watched": ("user", "item", "time", "watched"),
        "/documents": ("documents",),
    }

    def draw(depth=0):
        kind = rng.integers(3 if depth < 3 else 1)
        if kind == 0:
            return atoms[rng.integers(len(atoms))]
        if kind == 1:
            return [draw(depth + 1) for _ in range(rng.integers(4))]
        names = ("item_id", "title", "image", "x")
        return {n: draw(depth + 1) for n in names if rng.random() < 0.5}

    for _ in range(150):
        path = list(fields)[rng.integers(4)]
        body = {name: draw() for name in fields[path] if rng.random() < 0.9}
        answer = client.post(path, json=body)
        assert answer.status_code < 500 and isinstance(answer.json(), dict), body
    assert client.get("/health").status_code == 200


def test_a_body_is_bounded_however_it_comes(ranker):
    with server.running(ranker, most=1000) as url, httpx.Client(base_url=url) as client:
        assert client.post("/rank", content=b"x" * 1001).status_code == 413
        parts = (b"x" * 400 for _ in range(4))
        answer = client.post("/rank", content=parts)  # chunks, of no said length
        assert answer.status_code == 413 and "1000 bytes" in answer.json()["error"]
        assert client.get("/health").status_code == 200


def test_a_failure_of_ours_is_json_too(client, ranker, monkeypatch):
    monkeypatch.setattr(ranker, "batch", lambda *_: 1 / 0)
    items = ranker.known.names["items"][:2]
    said = post(client, "/rank", 500, user=1, items=items)
    assert said == {"error": "ZeroDivisionError; the server's log says more"}


def test_requests_that_wait_are_ranked_together(ranker, monkeypatch):
    rng, sizes, rank = np.random.default_rng(0), [], ranker.rank_many
    asked = [(k, f"words {k}", rng.integers(0, 120, 3 + k % 5)) for k in range(40)]
    asked[7] = (7, "words", np.array([120]))  # in no catalogue

    def slow(requests, before=None):
        sizes.append(len(requests))
        time.sleep(0.02)
        return rank(requests, before)

    monkeypatch.setattr(ranker, "rank_many", slow)
    together = Together(ranker, most=8)
    with ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(together.rank, request) for request in asked]
    for k, (request, answer) in enumerate(zip(asked, waiting, strict=True)):
        if k == 7:
            with pytest.raises(DataError, match="catalogue rows from 0"):
                answer.result()
            continue
        (wanted,) = rank([request])
        chance = np.sort(answer.result().chance)
        np.testing.assert_allclose(chance, np.sort(wanted.chance), atol=1e-5)
    assert max(sizes) <= 8 and len(sizes) < 40


# --- the gate ------------------------------------------------------------------------


def test_others_need_a_token(ranker):
    for host in ("0.0.0.0", "::", "example.org", "10.0.0.1"):
        with pytest.raises(OptionError, match="LEMUR_MINI_TOKEN"):
            gate.require_token(host, None)
        gate.require_token(host, TOKEN)
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        gate.require_token(host, None)
    for weak in ("", "short", "é" * 20):
        with pytest.raises(OptionError, match="16 ASCII"):
            gate.require_token("127.0.0.1", weak)
    with server.running(ranker, token=TOKEN) as url:
        for path in ("/rank", "/metrics", "/docs", "/nothing"):
            for given in ({}, {"authorization": "Bearer no"}):
                assert httpx.get(url + path, headers=given).status_code == 401
        assert httpx.get(url + "/health").status_code == 200
        given = {"authorization": f"Bearer {TOKEN}"}
        assert httpx.get(url + "/metrics", headers=given).status_code == 200


def test_the_command_says_what_is_wrong_in_one_line(artefact, tmp_path, capfd):
    wrong = {
        "no checkpoint there": [str(tmp_path)],
        "LEMUR_MINI_TOKEN": [str(artefact), "--host", "0.0.0.0"],
        "cannot be listened on": [str(artefact), "--host", "203.0.113.1"],
        "no Redis answers": [str(artefact), "--redis", "redis://127.0.0.1:1"],
        "invalid choice": [str(artefact), "--port", "x"],
    }
    for said, arguments in wrong.items():
        if said == "cannot be listened on":
            os.environ[command.TOKEN] = TOKEN
        try:
            assert command.main(arguments) == 2
        finally:
            os.environ.pop(command.TOKEN, None)
        error = capfd.readouterr().err
        assert error.count("\n") == 1
        assert said in error or said == "invalid choice"


# --- retrieval -----------------------------------------------------------------------


@pytest.mark.parametrize("faiss", [True, False])
def test_the_index_follows_the_bank(ranker, faiss, monkeypatch):
    if faiss:
        pytest.importorskip("faiss")
    monkeypatch.setattr("lemur_mini.serving.nearest.TAIL", 3)
    nearest = Nearest(faiss=faiss)

    def check():
        vector = ranker.query_vector("bread")
        rows, cosines = nearest.search(ranker.model, vector, 7)
        assert rows.tolist() == ranker.retrieve("bread", 7).tolist()
        assert (np.diff(cosines) <= 0).all()

    check()
    for k in range(20):  # first compared one by one, then in an index made anew
        ranker.add_documents([{"item_id": 9000 + k, "title": f"bread {k}"}])
        check()
    assert nearest._index.size > 120
    ranker.refresh(np.arange(140), -ranker.model.bank.vectors)
    check()


def test_a_graph_finds_most_and_numpy_all():
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = vectors[:50]
    exact = Brute(vectors).search(query, 10)[1]
    flat = engine_of(vectors).search(query, 10)[1]
    graph = engine_of(vectors, exact=100).search(query, 10)[1]
    assert [set(a) for a in exact] == [set(a) for a in flat]
    hits = [len(set(a) & set(b)) for a, b in zip(exact, graph, strict=True)]
    assert np.mean(hits) > 9.5


# --- what is kept --------------------------------------------------------------------


def test_a_journal_gives_back_what_it_was_given(tmp_path):
    path = tmp_path / "j"
    journal = Journal(path)
    values = [["event", 1, 2, 3.5, True], ["event", "é\n", "b", 4, False]]
    for value in values:
        journal.append(value)
    with pytest.raises(FileError, match="another server"):
        Journal(path)
    journal.close()
    whole = path.read_bytes()
    for cut in range(len(whole)):  # killed at any byte
        path.write_bytes(whole[:cut])
        journal = Journal(path)
        found = journal.read()
        assert found == values[: whole[:cut].count(b"\n")]
        journal.append(values[1])
        assert journal.read() == [*found, values[1]]
        journal.close()
    path.write_bytes(b"damaged\n" + whole)
    journal = Journal(path)
    with pytest.raises(FileError, match="line 1: damaged"):
        journal.read()
    journal.close()


def test_a_full_disk_keeps_the_journal_whole(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "j")
    journal.append([1])

    def full(_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(FileError, match="no space left"):
            journal.append([2])
    journal.append([3])
    assert journal.read() == [[1], [3]]
    journal.close()


def test_what_cannot_be_kept_is_not_taken(ranker, tmp_path, monkeypatch):
    journal = Journal(tmp_path / "j")
    with (
        server.running(ranker, journal=journal) as url,
        httpx.Client(base_url=url) as client,
    ):
        monkeypatch.setattr(os, "fsync", lambda _: 1 / 0)
        monkeypatch.setattr(
            journal, "append", lambda _: (_ for _ in ()).throw(FileError("full"))
        )
        post(client, "/documents", 503, documents=[{"item_id": 8000}])
        item = ranker.known.names["items"][0]
        post(client, "/watched", 503, user="u", item=item)
    assert ranker.model.sizes.documents == 120 and ranker.histories.users() == []
    journal.close()


def test_a_journal_goes_on_with_an_artefact_that_was_saved_since(ranker, tmp_path):
    end, item = ranker.known.past.end, ranker.known.names["items"][0]
    events = [ranker.event(item, end + k, True) for k in (1, 2)]
    new = [{"item_id": 8000, "title": "crumb", "image": jpeg("red")}]
    lines = [event_line("u", events[0]), documents_line(new)]
    lines = json.loads(json.dumps(lines))
    assert replay(lines, ranker) == {"event": 1, "documents": 1}
    ranker.save_pretrained(tmp_path)
    later = Ranker.from_pretrained(tmp_path)
    lines += [event_line("u", events[1])]
    assert replay(lines, later) == {"left out": 2, "event": 1}
    ranker.take("u", events[1])
    assert later.history("u").tolist() == ranker.history("u").tolist()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_what_was_acknowledged_outlives_a_kill(artefact, tmp_path):
    """The server is killed at random moments while clients post; what it had answered
    is there when it comes back."""
    rng, journal = np.random.default_rng(), tmp_path / "journal"
    known = Ranker.from_pretrained(artefact).known
    begin, item = int(known.past.end) + 1, known.names["items"][1]
    arguments = [sys.executable, "-m", "lemur_mini.serving", str(artefact)]
    arguments += ["--port", "0", "--journal", str(journal)]
    events, documents = [], []  # acknowledged
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    lines = iter(process.stdout.readline, "")
    url = next(line.split()[-1] for line in lines if "serving on" in line)

    def talk(who):
        with httpx.Client(base_url=url, timeout=60) as client:
            for k in range(1000):
                name = 10_000 + 1000 * who + k
                try:
                    body = {"user": who, "item": item, "time": begin + k}
                    if client.post("/watched", json=body).status_code == 200:
                        events.append((who, begin + k))
                    body = {"documents": [{"item_id": name, "title": str(k)}]}
                    if client.post("/documents", json=body).status_code == 200:
                        documents.append(name)
                except httpx.HTTPError:
                    return

    clients = [threading.Thread(target=talk, args=(who,)) for who in range(3)]
    for each in clients:
        each.start()
    enough, late = rng.integers(3, 60), time.monotonic() + 60
    while min(len(events), len(documents)) < enough and time.monotonic() < late:
        time.sleep(rng.uniform(0, 0.01))
    os.kill(process.pid, signal.SIGKILL)
    for each in clients:
        each.join()
    process.wait()
    process.stdout.close()
    back, kept = Ranker.from_pretrained(artefact), Journal(journal)
    values = kept.read()
    replay(values, back)
    found = {(value[1], value[3]) for value in values if value[0] == "event"}
    assert set(events) <= found and len(events) > 2 and len(documents) > 2
    assert set(documents) <= set(back.known.rows["items"])
    kept.close()
