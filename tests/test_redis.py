"""Histories in Redis: a real server where there is one, else its stand-in."""

import shutil
import socket
import subprocess
import threading
import time

import pytest

from lemur_mini import Ranker
from lemur_mini.serving.events import Event, InMemory
from lemur_mini.serving.redis_store import InRedis, StoreError
from tests.test_artefact import made

redis = pytest.importorskip("redis", reason="needs the extra serve")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


@pytest.fixture(params=["redis-server", "fakeredis"])
def url(request, tmp_path):
    """The address of a Redis of this test's own, on this machine."""
    port = free_port()
    if request.param == "fakeredis":
        fake = pytest.importorskip("fakeredis", reason="needs the extra dev")
        server = fake.TcpFakeServer(("127.0.0.1", port), server_type="redis")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"redis://127.0.0.1:{port}/0"
        server.shutdown()
        server.server_close()
        return
    if not (program := shutil.which("redis-server")):
        pytest.skip("no redis-server on this machine")
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path)]
    process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    for _ in range(200):
        with socket.socket() as one:
            if not one.connect_ex(("127.0.0.1", port)):
                break
        time.sleep(0.05)
    yield f"redis://127.0.0.1:{port}/0"
    process.terminate()
    process.wait()


def test_redis_keeps_what_memory_keeps(url):
    stores = [InRedis(url, 3, 5), InMemory(3, 5)]
    for store in stores:
        for k in range(12):
            store.add(k % 2, Event(f"i{k}", 10.0 + k, k % 3 == 0))
        store.add("0", Event(7, 99.5, True))  # not the user 0
    for user in (0, 1, "0", "nobody"):
        for kind in ("watched", "shown"):
            one, other = (getattr(store, kind)(user) for store in stores)
            assert one == other
    assert stores[0].watched("0") == [Event(7, 99.5, True)]


def test_servers_share_histories(url, folder, config):
    rankers = []
    for _ in range(2):
        plain = made(folder, config, "ours")
        store = InRedis(url, config.history_long, 6)
        rankers.append(Ranker(plain.model, plain.prepared, store))
    item, end = rankers[0].known.names["items"][5], rankers[0].known.past.end
    rankers[0].watched("guest", item, end + 1)
    rankers[0].skipped("guest", item, end + 2)
    assert rankers[1].history("guest")[0] == 5
    batch = rankers[1].batch([("guest", "bread", rankers[1].rows_of([item]))])
    assert batch.seen[0, :2].tolist() == [5, 5]
    assert batch.taken[0, :2].tolist() == [False, True]


def test_a_redis_that_is_not_there_is_said():
    url = f"redis://127.0.0.1:{free_port()}"
    for bad in (url, "nonsense"):
        with pytest.raises(StoreError, match="no Redis answers"):
            InRedis(bad, 1, 1)


def test_a_redis_that_goes_is_said(url, monkeypatch):
    store = InRedis(url, 3, 3)

    def gone(*_, **__):
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(store.client, "lrange", gone)
    monkeypatch.setattr(store.client, "pipeline", gone)
    for call in (lambda: store.add(1, Event(1, 2.0, True)), lambda: store.watched(1)):
        with pytest.raises(StoreError, match="Redis is lost"):
            call()
