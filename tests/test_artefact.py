"""The artefact and what goes on while it serves: events, documents, vectors."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi

from lemur_mini import Ranker, pipeline
from lemur_mini.checkpoints import CheckpointError
from lemur_mini.config import BASELINE, DENSE, LEMUR
from lemur_mini.data.errors import DataError
from lemur_mini.data.loading import load
from lemur_mini.serving.artefact import CARD, CONFIG, MODEL, TOKENIZER
from lemur_mini.serving.events import Event, InMemory, UserEvents
from lemur_mini.training import make_model

CPU = torch.device("cpu")
OURS = {"history_products": True, "history_seen": 6, "history_wide": True}
FORMS = {
    "paper": {},
    "ours": OURS,
    "dense": OURS | {"groups": (*LEMUR, *DENSE)},
    "ids": {"groups": BASELINE},
}
NEW = {"item_id": 5000, "title": "levain and crumb"}


def made(folder, config, form="paper"):
    """An untrained ranker whose bank knows every document."""
    config = config.replace(**FORMS[form])
    prepared = pipeline.prepare(folder, config, CPU)
    model = make_model(config, prepared.sizes, 0, CPU).eval()
    if config.has_content:
        model.publish(prepared.features)
    return Ranker(model, prepared)


@pytest.fixture
def ranker(folder, config):
    return made(folder, config)


def asked(ranker):
    """Answers to several requests, by the reader's own ids."""
    dataset = ranker.prepared.dataset
    users = [*dataset.users[:6].tolist(), "nobody"]
    texts = [*dataset.queries[:3], "never asked before"]
    items = dataset.items[:9].tolist()
    return [(user, text, items) for user in users for text in texts]


def answers(ranker, requests):
    return [dict(ranker.rank_ids(*request)) for request in requests]


def alike(one, other):
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose([a[k] for k in b], list(b.values()), atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_an_artefact_ranks_as_the_ranker_it_was_saved_from(
    folder, config, tmp_path, form
):
    ranker = made(folder, config, form)
    requests = asked(ranker)
    user, items = requests[0][0], requests[0][2]
    end = ranker.known.past.end
    ranker.add_documents([NEW])
    for k, item in enumerate([5000, *items[:4]]):
        ranker.watched(user, item, end + 60 + k)
        ranker.skipped("a guest", item, end + 60 + k)
    ranker.watched("a guest", items[5], end + 90)
    requests += [("a guest", requests[0][1], [5000, *items])]
    ranker.figures = {"qauc": 0.5}
    ranker.save_pretrained(tmp_path / "a")
    again = Ranker.from_pretrained(tmp_path / "a")
    alike(answers(again, requests), answers(ranker, requests))
    assert again.figures == {"qauc": 0.5}
    for each in (ranker, again):  # ... and both go on alike
        each.watched("a guest", items[6], end + 200)
        each.skipped(user, items[7], end + 201)
        each.add_documents([{"item_id": 5001, "title": "crumb"}])
    requests = [(name, text, [5001, *shown]) for name, text, shown in requests]
    alike(answers(again, requests), answers(ranker, requests))
    again.save_pretrained(tmp_path / "b")  # a second generation
    third = Ranker.from_pretrained(tmp_path / "b")
    alike(answers(third, requests), answers(ranker, requests))


def test_an_artefact_needs_neither_log_nor_pictures(ranker, tmp_path, monkeypatch):
    requests, wanted = asked(ranker), answers(ranker, asked(ranker))
    ranker.save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {MODEL, CONFIG, TOKENIZER, CARD}
    for name in names - {MODEL}:  # what is loaded is one file
        (tmp_path / name).unlink()
    monkeypatch.setattr("lemur_mini.data.features.decode", None)
    again = Ranker.from_pretrained(tmp_path)
    alike(answers(again, requests), wanted)
    with pytest.raises(DataError, match="an artefact has no log"):
        _ = again.prepared
    with pytest.raises(DataError, match="only the newest events"):
        again.history(requests[0][0], before=1)
    shown = again.reasons(requests[0][0], np.arange(3))
    np.testing.assert_allclose(shown, ranker.reasons(requests[0][0], np.arange(3)))


def test_an_artefact_is_a_checkpoint_for_other_orders_of_the_catalogue(
    ranker, config, tmp_path
):
    requests, wanted = asked(ranker), answers(ranker, asked(ranker))
    ranker.save_pretrained(tmp_path)
    dataset, order = ranker.prepared.dataset, np.argsort(-np.arange(120))
    place = np.argsort(order)
    other = replace(
        dataset,
        items=dataset.items[order],
        texts={k: [v[row] for row in order] for k, v in dataset.texts.items()},
        images=[dataset.images[row] for row in order],
        log=replace(dataset.log, item=place[dataset.log.item]),
    )
    (tmp_path / "tokenizer.json").rename(tmp_path / "t.json")
    prepared = pipeline.prepare(other, config, CPU)
    prepared = replace(prepared, tokenizer=ranker.prepared.tokenizer)
    alike(answers(Ranker.load(tmp_path / MODEL, prepared), requests), wanted)


@pytest.mark.parametrize("what", ["bit", "cut", "empty", "gone", "training", "pickle"])
def test_a_damaged_artefact_is_one_clear_error(ranker, tmp_path, what):
    ranker.save_pretrained(tmp_path)
    path = tmp_path / MODEL
    content = bytearray(path.read_bytes())
    if what == "bit":
        content[len(content) // 2] ^= 1
    if what == "pickle":
        torch.save({"model": torch.zeros(3)}, path)
        content = path.read_bytes()
    path.write_bytes({"cut": content[:-9], "empty": b""}.get(what, content))
    if what == "gone":
        path.unlink()
    if what == "training":
        run = pipeline.Run(ranker.model, ranker.prepared.features, 0, 1)
        pipeline.checkpoints.save(run, path, ranker.prepared.fingerprint)
    with pytest.raises(CheckpointError, match=MODEL) as error:
        Ranker.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_what_is_neither_folder_nor_hub_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="neither a folder nor") as error:
        Ranker.from_pretrained(tmp_path / "nothing", local_files_only=True)
    assert "\n" not in str(error.value)


def test_what_is_pushed_is_the_folder(ranker, tmp_path, monkeypatch):
    """Nothing leaves the machine: the last step of the mixin is looked at."""
    sent = {}

    def upload(self, *, folder_path, **more):
        for path in sorted(folder_path.iterdir()):
            sent[path.name] = path.read_bytes()

    class Place:
        repo_id = "somebody/lemur"

    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: Place)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    ranker.push_to_hub("somebody/lemur")
    assert set(sent) == {MODEL, CONFIG, TOKENIZER, CARD}
    assert json.loads(sent[CONFIG])["scale"] == "tiny"
    assert b"library_name: lemur-mini" in sent[CARD]


# --- live ----------------------------------------------------------------------------


def test_the_newest_events_of_a_log_are_those_of_a_loop(prepared):
    log, users = prepared.dataset.log, len(prepared.dataset.users)
    past = UserEvents.of(log, users)
    for watched, shown in ((3, 0), (3, 5), (0, 2), (100, 100)):
        some = past.newest(watched, shown)
        for user in range(users):
            wanted, met, taken = [], 0, 0
            for row in np.flatnonzero(log.user == user)[::-1].tolist():
                if met < shown or (log.label[row] and taken < watched):
                    wanted.insert(0, row)
                met, taken = met + 1, taken + log.label[row]
            found, label = some.before(user, None)
            assert found.tolist() == log.item[wanted].tolist()
            assert label.tolist() == log.label[wanted].tolist()


def test_what_a_user_watches_is_in_the_next_history(folder, config):
    ranker = made(folder, config, "ours")
    dataset, end = ranker.prepared.dataset, ranker.known.past.end
    user, (a, b, c) = dataset.users[0].item(), dataset.items[:3].tolist()
    before = ranker.history(user)
    ranker.watched(user, a, end + 10)
    ranker.skipped(user, b, end + 20)
    ranker.watched(user, c, end + 5)  # comes late
    rows = ranker.rows_of([a, c]).tolist()
    assert ranker.history(user).tolist() == [*rows, *before[:-2]]
    assert ranker.history(user, int(end) + 8).tolist() == [rows[1], *before[:-1]]
    batch = ranker.batch([(user, "bread", np.array([4]))])
    assert batch.seen[0, :3].tolist() == ranker.rows_of([b, a, c]).tolist()
    assert batch.taken[0, :3].tolist() == [False, True, True]
    ranker.watched("a guest", b, end + 30)
    assert ranker.history("a guest")[0] == ranker.rows_of([b])[0]


@pytest.mark.parametrize(
    ("item", "later", "message"),
    [
        (10**9, 1, "item 1000000000 is not in the catalogue"),
        (None, 1, "item None is not in the catalogue"),
        (0, 0, "is not after the log's last"),
        (0, float("nan"), "time nan is not after"),
        (0, float("inf"), "time inf is not after"),
    ],
)
def test_an_event_that_cannot_be_is_said(ranker, item, later, message):
    with pytest.raises(DataError, match=message):
        ranker.watched("u", item, ranker.known.past.end + later)
    assert ranker.histories.watched("u") == []


def test_what_the_log_has_taken_in_is_not_counted_twice(folder, config):
    histories = InMemory(8, 0)
    old = made(folder, config)
    end, item = old.known.past.end, old.known.names["items"][0]
    histories.add("u", Event(item, end - 1, True))
    histories.add("u", Event(item, end + 1, True))
    histories.add("u", Event("never added", end + 2, True))
    ranker = Ranker(old.model, old.prepared, histories)
    assert (ranker.history("u") >= 0).sum() == 1


def test_adding_costs_what_is_new(ranker, monkeypatch):
    """Texts tokenised and documents encoded, at any size of the log."""
    from lemur_mini.data import features

    texts, tokenise = [], features._encode
    monkeypatch.setattr(
        features,
        "_encode",
        lambda t, some, n: texts.extend(some) or tokenise(t, some, n),
    )
    ranker.add_documents([NEW, {"item_id": 5001}])
    assert len(texts) <= 2 * (len(ranker.known.fields) + 1)


def test_ids_of_one_kind_and_once(ranker):
    ranker.add_documents([NEW])
    for bad in ({"item_id": 5000}, {"item_id": "5000"}, {"item_id": "x"}):
        with pytest.raises(DataError, match="new documents, column item_id, row 0"):
            ranker.add_documents([bad])
    assert ranker.model.sizes.documents == 121 == len(ranker.model.bank.vectors)


def test_refreshed_vectors_are_all_there_at_once(ranker):
    rows, vectors = np.array([3, 5]), torch.randn(2, 16)
    old = ranker.model
    ranker.refresh(rows, vectors)
    torch.testing.assert_close(ranker.model.bank.vectors[rows], vectors)
    assert not torch.equal(old.bank.vectors[rows], vectors)  # who reads, reads on
    assert ranker.model.bank.written[3] > old.bank.written[3]
    with pytest.raises(DataError, match="catalogue rows from 0"):
        ranker.refresh(np.array([999]), vectors[:1])
    with pytest.raises(FloatingPointError):
        ranker.refresh(np.array([3]), vectors[:1] * torch.nan)


def test_no_answer_is_of_two_states(ranker):
    """Readers rank while all vectors are swapped between two states and documents are
    added: every answer is that of one state."""
    request = asked(ranker)[:1]
    all_rows = np.arange(120)
    states = [ranker.model.bank.vectors.clone()]
    states.append(-states[0])
    wanted = []
    for state in states[::-1]:
        ranker.refresh(all_rows, state)
        (answer,) = answers(ranker, request)
        wanted.append(sorted(answer.values()))
    assert not np.allclose(*wanted)
    stop, seen, wrong = threading.Event(), set(), []

    def read():
        while not stop.is_set():
            found = sorted(answers(ranker, request)[0].values())
            match = [k for k in (0, 1) if np.allclose(found, wanted[k], atol=1e-5)]
            seen.update(match)
            if not match:
                wrong.append(found)
            newest = ranker.known.names["items"][-1]
            ranker.rank_ids("nobody", "bread", [newest])

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for k in range(60):
        ranker.refresh(all_rows, states[k % 2])
        ranker.add_documents([{"item_id": 6000 + k, "title": "crumb"}])
        ranker.watched("nobody", 6000 + k, ranker.known.past.end + 1 + k)
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong and seen == {0, 1}
    assert ranker.model.sizes.documents == 180


def test_queries_leave_no_words_behind(folder, config):
    whole = made(folder, config, "dense").prepared
    scorer, pair = whole.matcher, (np.zeros(1, int), np.zeros(1, int))
    text, kept = whole.dataset.texts["title"][0], scorer.arrays()
    one = scorer([f"{text} zzqx zzqx yyqx"], *pair)
    np.testing.assert_array_equal(one, scorer([f"{text} zzqx zzqx yyqx"], *pair))
    more = scorer.extended({k: ["zzqx"] for k in whole.dataset.texts})
    found = more(["zzqx"], np.zeros(1, int), np.array([len(whole.dataset.items)]))
    assert found.max() > 0
    np.testing.assert_array_equal(one, scorer([f"{text} zzqx zzqx yyqx"], *pair))
    for name, values in scorer.arrays().items():
        np.testing.assert_array_equal(values, kept[name])


def test_a_feed_is_saved_too(folder, config, tmp_path):
    dataset = load(folder)
    log = replace(dataset.log, query=np.zeros_like(dataset.log.query))
    feed = replace(dataset, queries=[""], log=log)
    prepared = pipeline.prepare(feed, config, CPU)
    model = make_model(config, prepared.sizes, 0, CPU).eval()
    model.publish(prepared.features)
    ranker = Ranker(model, prepared)
    ranker.save_pretrained(tmp_path)
    again = Ranker.from_pretrained(tmp_path)
    user, items = dataset.users[0].item(), dataset.items[:5].tolist()
    alike(*([dict(r.rank_ids(user, "", items))] for r in (again, ranker)))
