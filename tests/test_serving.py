"""Serving: batches, new documents, the served page in a real browser, the engine."""

import base64
import io
import json
import shutil
import subprocess
import time
import zipfile

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image

from lemur_mini import plots
from lemur_mini.checkpoints import CheckpointError
from lemur_mini.data.features import encode_queries
from lemur_mini.data.schema import DataError
from lemur_mini.serving import export, page
from lemur_mini.serving.ranker import Ranker
from lemur_mini.training import make_model
from tests.benchmarks.latency import latency

EVIL = "<img src=x onerror=alert(1)> </script><b>$x$ $\\frac{$ & [a](b)"


@pytest.fixture
def ranker(config, prepared):
    """An untrained LEMUR whose bank knows every document."""
    model = make_model(config, prepared.sizes, 0, torch.device("cpu")).eval()
    model.publish(prepared.features)
    return Ranker(model, prepared)


def jpeg(colour):
    """A small cover."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def test_a_batch_ranks_as_its_requests_one_by_one(ranker, prepared):
    users, queries = prepared.dataset.users, prepared.dataset.queries
    asked = [
        (users[0], queries[0], np.arange(5)),
        (users[1], "never asked before", np.arange(40, 52)),
        ("nobody", queries[1], np.array([7])),
        (users[1], "nor this", np.arange(40, 52)),
    ]
    for one, request in zip(ranker.rank_many(asked), asked, strict=True):
        alone = ranker.rank(*request)
        assert one.items.tolist() == alone.items.tolist()
        np.testing.assert_allclose(one.chance, alone.chance, rtol=1e-4)
    second, fourth = ranker.scores(asked)[[1, 3]]
    assert not np.allclose(second, fourth)  # each unknown text is read by itself
    assert ranker.rank_many([]) == []


def test_histories_are_those_of_a_search_through_the_log(ranker, prepared):
    log = prepared.dataset.log
    middle = int(np.median(log.timestamp))
    for row, user in enumerate(prepared.dataset.users[:20]):
        for before in (None, middle, 0):
            mine = (log.user == row) & (log.label == 1)
            mine &= log.timestamp < (before if before is not None else np.inf)
            expected = log.item[mine][::-1][: ranker.model.config.history_long]
            found = ranker.history(user, before)
            assert found[found >= 0].tolist() == expected.tolist()
            assert len(found) == ranker.model.config.history_long


def test_no_document_is_encoded_while_serving(ranker, monkeypatch):
    def forbidden(*_):
        raise AssertionError("a document was encoded")

    monkeypatch.setattr(ranker.model.document_encoder, "forward", forbidden)
    assert len(ranker.rank("nobody", "bread", np.arange(9)).items) == 9


def test_a_new_document_is_encoded_once_and_rankable_at_once(ranker, monkeypatch):
    before = ranker.rank("nobody", "bread", np.arange(9))
    shared, count = ranker.prepared, len(ranker.prepared.dataset.items)
    calls = []
    encode = ranker.model.encode
    monkeypatch.setattr(
        ranker.model, "encode", lambda f, rows: calls.extend(rows) or encode(f, rows)
    )
    texts = {"title": "levain and crumb " * 200, "ocr": "flour"}
    new = [
        {"item_id": 5000, **texts, "image": jpeg("red")},
        {"item_id": 5001, "title": "crumb"},
    ]
    rows = ranker.add_documents(new)
    assert rows.tolist() == [count, count + 1] and len(calls) == 2
    after = ranker.rank("nobody", "bread", np.arange(9))
    np.testing.assert_allclose(after.chance, before.chance)  # old ones stay
    ranked = ranker.rank("nobody", "bread", np.array([3, *rows]))
    assert set(rows) < set(ranked.items) and np.isfinite(ranked.chance).all()
    assert ranker.prepared.dataset.texts["title"][-1] == "crumb"
    assert len(shared.dataset.items) == count == len(shared.features.tokens)
    third = ranker.add_documents([{"item_id": 5002, "title": "crumb"}])
    vectors = ranker.model.bank.vectors
    torch.testing.assert_close(vectors[third[0]], vectors[rows[1]])  # the same content
    assert not torch.allclose(vectors[rows[0]], vectors[rows[1]])


def test_a_new_document_is_what_it_would_have_been_from_the_start(ranker):
    dataset = ranker.prepared.dataset
    copy = {name: values[7] for name, values in dataset.texts.items()}
    copy |= {"item_id": 5000, "image": dataset.images[7]}
    (row,) = ranker.add_documents([copy])
    vectors = ranker.model.bank.vectors
    torch.testing.assert_close(vectors[row], vectors[7], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"title": "no id"}, "item_id, row 0: is empty or NaN"),
        ({"item_id": 0}, "0 is in the catalogue already"),
        ({"item_id": 5000, "colour": "red"}, "column colour: is no field; use item_id"),
        ({"item_id": 5000, "title": 7}, "column title: has type int64; give strings"),
        ({"item_id": 5000, "image": 7}, "column image: has type int64"),
    ],
)
def test_a_bad_new_document_is_named(ranker, document, message):
    count = len(ranker.model.bank.vectors)
    with pytest.raises(DataError, match=message):
        ranker.add_documents([document])
    assert len(ranker.model.bank.vectors) == count == ranker.prepared.sizes.documents


def test_reasons_are_cosines_with_the_history(ranker, prepared):
    user = prepared.dataset.users[np.bincount(prepared.dataset.log.user).argmax()]
    history, vectors = ranker.history(user), ranker.model.bank.vectors
    found = ranker.reasons(user, np.array([3, 4]))
    expected = torch.cosine_similarity(vectors[4], vectors[history[0]], dim=0)
    assert found[1, 0] == pytest.approx(float(expected), abs=1e-5)
    assert (ranker.reasons("nobody", np.array([3])) == 0).all()


def test_latency_is_measured_in_order(ranker):
    facts = latency(ranker, 2, shown=4, repeats=5)
    assert facts["batch"] == 2 and 0 < facts["p50"] <= facts["p99"]


# --- strings of the data -------------------------------------------------------------


@pytest.fixture
def served(ranker):
    """A page for two users and two queries, a hostile title first of all."""
    evil = {"item_id": 5000, "title": EVIL, "image": jpeg("blue")}
    (row,) = ranker.add_documents([evil])
    busy = ranker.prepared.dataset.log.user
    users = [ranker.prepared.dataset.users[np.bincount(busy).argmax()], EVIL]
    candidates = [np.array([row, 1, 2, 3]), np.array([4, row])]
    return page.served_page(ranker, users, ["bread", EVIL], candidates)


def test_nothing_in_the_data_is_markup(served):
    assert "<img src=x" not in served and served.count("</script>") == 2
    data = served.split('id="data">')[1].split("</script>")[0]
    assert EVIL in json.loads(data)["users"]  # ... and nothing of it is lost
    frame = page.frame(served)
    assert frame.count("<") == 4 and 'sandbox="allow-scripts"' in frame


def test_captions_of_covers_are_no_mathematics():
    figure = plots.covers([jpeg("red"), None, b"no image"], [EVIL] * 3, "$\\frac{$")
    figure.canvas.draw()  # broken mathtext raises here
    assert figure.axes[0].get_title() == EVIL
    plt.close(figure)


# --- a real browser ------------------------------------------------------------------

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
DRIVE = """
(() => {
  const card = () => [...document.querySelectorAll("figcaption")].map(
    (c) => c.firstChild.textContent);
  const set = (id, key, value, event) => {
    document.getElementById(id)[key] = value;
    document.getElementById(id).dispatchEvent(new Event(event)); };
  const seen = { first: card(), because: document.querySelectorAll("i").length };
  seen.covers = [...document.images].filter((i) => i.naturalWidth > 0).length;
  set("query", "value", document.querySelectorAll("#queries option")[1].value, "input");
  seen.second = card();
  set("user", "selectedIndex", 1, "change");
  seen.because_of_nobody = document.querySelectorAll("i").length;
  set("query", "value", "not stored", "input");
  seen.note = document.getElementById("note").textContent;
  seen.left = card().length;
  seen.hostile = document.querySelectorAll("#page b b, img[onerror]").length;
  return JSON.stringify(seen);
})()
"""


@pytest.fixture
def browser(tmp_path):
    """A headless browser's debugging address, or a skip."""
    websocket = pytest.importorskip("websocket", reason="needs websocket-client")
    name = next(filter(None, map(shutil.which, BROWSERS)), None)
    if name is None:
        pytest.skip("no Chromium or Chrome on this machine: the page was not driven")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    options += ["--remote-debugging-port=0", f"--user-data-dir={tmp_path / 'profile'}"]
    process = subprocess.Popen([name, *options], stderr=subprocess.DEVNULL)
    try:
        ports = tmp_path / "profile" / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not ports.is_file() or len(ports.read_text().split()) < 2:
            if time.monotonic() > deadline:
                pytest.skip("the browser did not start within a minute")
            time.sleep(0.1)
        port, path = ports.read_text().split()
        address = f"ws://127.0.0.1:{port}{path}"
        connection = websocket.create_connection(
            address, timeout=60, suppress_origin=True
        )
        yield Devtools(connection)
        connection.close()
    finally:
        process.terminate()
        process.wait(30)


class Devtools:
    """As much of the Chrome DevTools protocol as one page needs."""

    def __init__(self, connection):
        self.connection, self.number, self.events = connection, 0, []

    def ask(self, method, session=None, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        message |= {"sessionId": session} if session else {}
        self.connection.send(json.dumps(message))
        while True:
            answer = json.loads(self.connection.recv())
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer.get("method"))

    def drive(self, url, script):
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        session = attached["sessionId"]
        self.ask("Page.enable", session)
        self.ask("Page.navigate", session, url=url)
        ready = "document.readyState == 'complete' && !!document.querySelector('b')"
        for _ in range(300):
            if self.evaluate(ready, session):
                break
            time.sleep(0.1)
        return json.loads(self.evaluate(script, session))

    def evaluate(self, expression, session):
        found = self.ask("Runtime.evaluate", session, expression=expression)
        return found["result"].get("value")


@pytest.mark.slow
def test_the_served_page_works_in_a_real_browser(served, browser, tmp_path):
    (tmp_path / "page.html").write_text(served, "utf-8")
    seen = browser.drive((tmp_path / "page.html").as_uri(), DRIVE)
    assert len(seen["first"]) == 4 and EVIL in seen["first"]  # shown as it is
    assert len(seen["second"]) == 2 and EVIL in seen["second"]
    assert seen["because"] > 0 == seen["because_of_nobody"]
    assert seen["covers"] == 4  # decoded
    assert seen["note"].startswith("Not among the stored queries")
    assert seen["left"] == seen["hostile"] == 0
    assert "Page.javascriptDialogOpening" not in browser.events  # no alert ran


# --- the engine ----------------------------------------------------------------------


@pytest.mark.slow
def test_an_engine_finds_what_the_ranker_finds(ranker, prepared, tmp_path):
    export.export_engine(ranker, tmp_path)
    tower = export.load_tower(tmp_path / export.TOWER)
    vectors, ids = export.load_bank(tmp_path)
    texts = ["bread", "never asked before", prepared.dataset.queries[3]]
    width = prepared.features.query_tokens.shape[1]
    tokens, length = encode_queries(prepared.tokenizer, texts, width - 1)
    tokens = torch.nn.functional.pad(tokens.long(), (0, width - tokens.shape[1]))
    with torch.no_grad():
        found = tower(tokens, length)  # another batch size than the example's
    for text, vector in zip(texts, found, strict=True):
        torch.testing.assert_close(vector, ranker.query_vector(text))
        best = (vectors @ vector).topk(5).indices
        items = prepared.dataset.items[ranker.retrieve(text, 5)]
        assert [ids[row] for row in best] == items.tolist()
    text = (tmp_path / export.TOKENIZER).read_text("utf-8")
    assert json.loads(text)["model"]["type"] == "BPE"


class Bomb:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("code ran",))


@pytest.mark.parametrize("name", ["a/data/sample_inputs/model.pt", "a/x/config.json"])
def test_an_archive_that_could_run_code_is_refused(tmp_path, name):
    bomb = io.BytesIO()
    torch.save(Bomb(), bomb)
    pickled = json.dumps({"config": {"w": {"use_pickle": True}}}).encode()
    with zipfile.ZipFile(tmp_path / "bad.pt2", "w") as archive:
        archive.writestr(name, pickled if name.endswith("json") else bomb.getvalue())
    with pytest.raises(CheckpointError, match="may run code when it is loaded"):
        export.load_tower(tmp_path / "bad.pt2")
    (tmp_path / "bad.pt2").write_bytes(base64.b64encode(b"nothing"))
    with pytest.raises(CheckpointError, match="no exported program"):
        export.load_tower(tmp_path / "bad.pt2")
