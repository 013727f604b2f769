"""Nothing silently wrong, from periods to signals: a right value or one line."""

import io
import json
import math
import multiprocessing
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from lemur_mini import checkpoints, files, finite, pipeline, training
from lemur_mini.__main__ import main
from lemur_mini.checkpoints import CheckpointError
from lemur_mini.command import in_one_line
from lemur_mini.config import BASELINE
from lemur_mini.data.features import encode_queries, make_normalizer, query_limit
from lemur_mini.data.loading import load
from lemur_mini.data.pages import PAD, Pages
from lemur_mini.data.pictures import decode
from lemur_mini.data.schema import DataError
from lemur_mini.devices import DeviceError, choose_device
from lemur_mini.evaluation import auc, evaluate, log_loss, qauc
from lemur_mini.interrupts import Stopped
from lemur_mini.reproduce import runs, search
from lemur_mini.serving import export
from lemur_mini.serving.ranker import Ranker
from lemur_mini.training import Run, make_model, predict
from tests.conftest import CONFIG

CPU = torch.device("cpu")
START = 1_700_000_000
TITLES = [f"film {k} of {k % 5}" for k in range(30)]


def films(rows=range(30), **more) -> dict:
    return {"item_id": list(rows), "title": [TITLES[k % 30] for k in rows]} | more


def search_log(rows: int = 400, users: int = 20, seed: int = 0, **more) -> dict:
    """Sessions of four, one an hour and a bit."""
    rng, session = np.random.default_rng(seed), np.arange(rows) // 4
    return {
        "user_id": (session % users).tolist(),
        "query_id": session.tolist(),
        "query": [f"words {k % 7}" for k in session],
        "item_id": rng.integers(30, size=rows).tolist(),
        "timestamp": (START + session * 4000 + np.arange(rows) % 4 * 10).tolist(),
        "label": rng.integers(2, size=rows).tolist(),
    } | more


def feed_log(rows: int = 400, **more) -> dict:
    log = search_log(rows)
    log["session_id"] = log.pop("query_id")
    del log["query"]
    return log | more


def put(folder: Path, items: dict, log: dict, about: dict | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, columns in (("items", items), ("impressions", log)):
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    if about:
        (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def made(folder: Path, items=None, log=None, about=None) -> pipeline.Prepared:
    put(folder, items or films(), log or search_log(), about)
    return pipeline.prepare(folder, CONFIG, CPU)


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# --- periods -------------------------------------------------------------------------


def straddling() -> dict:
    """One session id a user and two days: most sessions lie across a boundary."""
    log = feed_log(1600)
    day = (np.array(log["timestamp"]) - START) // (2 * 86_400)
    return log | {"session_id": (np.array(log["user_id"]) * 1000 + day).tolist()}


def test_every_row_is_in_the_period_of_its_own_time(tmp_path):
    dataset = load(put(tmp_path, films(), straddling()))
    log, pages = dataset.log, Pages(dataset.log, 8)
    valid, test = dataset.valid_start, dataset.test_start
    for start, end in ((None, valid), (valid, test), (test, None), (None, test)):
        rows = np.sort(pages.shown(pages.between(start, end)))
        inside = log.timestamp >= (start or 0)
        inside &= log.timestamp < (end or math.inf)
        assert rows.tolist() == np.flatnonzero(inside).tolist()
    sessions = {}
    for row, qid in enumerate(log.qid.tolist()):
        sessions.setdefault(qid, set()).add(int(log.period[row]))
    crossing = sum(len(periods) > 1 for periods in sessions.values())
    assert dataset.counts["sessions split where a period begins"] == crossing > 10


def test_a_cut_changes_no_history(tmp_path):
    """A naive search: what the user watched before the session's first impression."""
    log = load(put(tmp_path, films(), straddling())).log
    pages, length = Pages(log, 8), 5
    found = pages.history(np.arange(len(pages)), length)
    for page, history in enumerate(found.tolist()):
        since = log.timestamp[log.qid == pages.qid[page]].min()
        mine = (log.user == pages.user[page]) & (log.label == 1)
        mine &= log.timestamp < since
        naive = log.item[mine][::-1][:length].tolist()
        assert history == naive + [PAD] * (length - len(naive))
    whole = Pages(replace(log, period=None), 8)
    assert len(whole) < len(pages)
    of = dict(zip(whole.qid.tolist(), whole.since.tolist(), strict=True))
    assert all(of[q] == s for q, s in zip(pages.qid, pages.since, strict=True))


def test_pages_are_cut_at_any_time(tmp_path):
    log = load(put(tmp_path, films(), straddling())).log
    pages = Pages(log, 8)
    middle = int(log.timestamp[333])
    cut = pages.cut_at(None, middle)
    early = cut.shown(cut.between(None, middle))
    assert np.sort(early).tolist() == np.flatnonzero(log.timestamp < middle).tolist()
    assert cut.cut_at(middle) is cut and pages.cut_at(None) is pages
    late = pages.shown(pages.between(None, middle))
    assert (log.timestamp[late] >= middle).any()  # without the cut


def test_training_and_testing_share_no_row(tmp_path, monkeypatch):
    prepared = made(tmp_path, log=straddling())
    middle = int(prepared.dataset.log.timestamp[777])
    seen = []
    real = training.train_step
    monkeypatch.setattr(
        training,
        "train_step",
        lambda run, batch: seen.append(batch) or real(run, batch),
    )
    run = pipeline.fit(prepared, CONFIG, 0, middle)
    rows, _ = pipeline.predict_period(prepared, run, middle, None)
    time = prepared.dataset.log.timestamp
    assert sum(int(b.mask.sum()) for b in seen) == (time < middle).sum() == 777
    assert np.sort(rows).tolist() == np.flatnonzero(time >= middle).tolist()


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [(None, 0, "to train on has no"), (10**10, None, "to test on has no")],
)
def test_an_empty_period_is_found_before_training(tmp_path, start, end, words):
    prepared = made(tmp_path)
    use = words.removesuffix(" has no").removeprefix("to ")
    with pytest.raises(DataError, match=words) as error:
        pipeline.require_period(prepared, start, end, use)
    one_line(error)


def test_an_empty_validation_period_is_counted_and_refused(tmp_path, monkeypatch):
    late = START + 350_000
    about = {"name": "x", "valid_start": late, "test_start": late}
    prepared = made(tmp_path, about=about)
    assert prepared.dataset.counts["empty validation period"] == 1
    monkeypatch.setattr(pipeline, "fit", lambda *_, **__: pytest.fail("was trained"))
    with pytest.raises(DataError, match="the period to choose on has no impressions"):
        search.trial(prepared, {}, 0)
    full = load(put(tmp_path / "full", films(), search_log()))
    assert full.counts["empty validation period"] == 0


@pytest.mark.parametrize("label", [0, 1])
def test_a_log_of_one_class_is_refused_before_training(tmp_path, capfd, label):
    folder = put(tmp_path / "d", films(), search_log(label=[label] * 400))
    assert main(["--data", str(folder), "--out", str(tmp_path / "o")]) == 2
    said = capfd.readouterr()
    assert f"all labels are {label}" in said.err and "step/s" not in said.err
    with pytest.raises(DataError, match="the period to train on has 400 impressions"):
        pipeline.fit(pipeline.prepare(folder, CONFIG, CPU), CONFIG, 0, 10**11)


# --- scores --------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_measure_of_scores_that_are_no_numbers(bad):
    label, qid = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    for score in (np.array([0.1, bad, 0.2, 0.3]), np.full(4, bad)):
        for measure in (auc, log_loss):
            with pytest.raises(FloatingPointError, match="scores are not finite"):
                measure(label, score)
        with pytest.raises(FloatingPointError, match="of 4 scores are not finite"):
            qauc(label, score, qid)
        with pytest.raises(FloatingPointError):
            evaluate(label, score, qid, {})


def test_labels_and_chances_are_checked():
    score = np.array([0.1, 0.2])
    with pytest.raises(ValueError, match="label nan in place 1"):
        auc(np.array([0, math.nan]), score)
    with pytest.raises(ValueError, match="label 2 in place 0"):
        auc(np.array([2, 1]), score)
    with pytest.raises(ValueError, match="do not pair"):
        auc(np.array([0, 1]), score[:, None])
    with pytest.raises(ValueError, match="1.5 in place 1 is no probability"):
        log_loss(np.array([0, 1]), np.array([0.5, 1.5]))


@pytest.mark.parametrize("part", ["loss", "weight", "gradient"])
def test_a_run_stops_at_the_very_step_and_keeps_the_checkpoint(
    prepared, tmp_path, monkeypatch, part
):
    config = CONFIG.replace(checkpoint_every=2)
    path = tmp_path / "model.safetensors"
    real = training.step_options

    def spoil(run, batch):
        if run.step == 5:  # the sixth
            with torch.no_grad():
                weight = run.model.ids["user"].weight
                weight[:] = {"weight": 1e38}.get(part, math.nan)
            if part == "gradient":
                weight.data.zero_()
                weight.register_hook(lambda g: g * math.inf)
        return real(run, batch)

    monkeypatch.setattr(training, "step_options", spoil)
    until = int(prepared.pages.start[80])
    with pytest.raises(FloatingPointError, match="is not finite at step 6;") as error:
        pipeline.fit(prepared, config, 0, until, path)
    one_line(error)
    facts, tensors = checkpoints.read(path)
    assert facts["step"] == 4
    assert all(t.isfinite().all() for t in tensors.values() if t.is_floating_point())


def test_predictions_that_are_no_numbers_stop(prepared):
    model = make_model(CONFIG, prepared.sizes, 0, CPU)
    torch.nn.init.constant_(model.ids["item"].weight, math.nan)
    index = np.arange(3)
    with pytest.raises(FloatingPointError, match="scores are not finite"):
        predict(model, prepared.features, prepared.pages, index)
    model.publish(prepared.features)
    ranker = Ranker(model, prepared)
    with pytest.raises(FloatingPointError, match="chances are not finite"):
        ranker.rank(prepared.dataset.users[0], "bread", np.arange(3))


def test_a_watch_names_the_step_and_the_value():
    watch = finite.Watch()
    watch.note(3, loss=torch.tensor(1.0), weight=torch.tensor(2.0))
    with pytest.raises(FloatingPointError, match="the weight is not finite at step 4"):
        watch.note(4, loss=torch.tensor(1.0), weight=torch.tensor(math.inf))
    watch.check()  # said once


def test_json_is_strict(tmp_path):
    values = {"a": math.nan, "b": [1.0, np.float32("inf")], "c": np.arange(2)}
    files.write_json(tmp_path / "x.json", values | {"d": (np.int64(3), None, True)})
    text = (tmp_path / "x.json").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert found == {"a": None, "b": [1.0, None], "c": [0, 1], "d": [3, None, True]}


def test_the_report_has_a_count_behind_every_null(tmp_path, capfd):
    items = films(range(3))
    folder = put(tmp_path / "d", items, search_log(364, item_id=[0, 1, 2, 0] * 91))
    out = tmp_path / "o"
    assert main(["--data", str(folder), "--out", str(out)]) == 0
    text = (out / "report.json").read_text()
    report = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    for model in report["models"].values():
        assert model["cold_auc"] is None and model["cold_impressions"] == 0
        assert model["positives"] > 0 and model["auc"] is not None


# --- checkpoints and data ------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> tuple[pipeline.Prepared, Run, Path]:
    """A trained model with its checkpoint."""
    folder = tmp_path_factory.mktemp("kept")
    prepared = made(folder / "data")
    path = folder / "model.safetensors"
    until = prepared.dataset.test_start
    return prepared, pipeline.fit(prepared, CONFIG, 0, until, path), path


def scores(ranker: Ranker, user=3, text="words 2", names=(1, 5, 9, 20)) -> dict:
    row = {name: k for k, name in enumerate(ranker.prepared.dataset.items.tolist())}
    got = ranker.rank(user, text, np.array([row[k] for k in names]))
    items = ranker.prepared.dataset.items[got.items].tolist()
    return dict(zip(items, got.chance.tolist(), strict=True))


def test_items_in_another_order_score_as_before(kept, tmp_path):
    prepared, run, path = kept
    right = scores(Ranker(run.model, prepared))
    for rows in (range(29, -1, -1), np.random.default_rng(0).permutation(30).tolist()):
        other = made(tmp_path / str(rows[0]), items=films(rows))
        assert other.dataset.items.tolist() == list(rows)
        assert scores(Ranker.load(path, other)) == pytest.approx(right, abs=1e-5)
        model = checkpoints.load_model(path, CPU, other.fingerprint)
        start = prepared.dataset.test_start
        here, there = (
            pipeline.measures(p, *pipeline.predict_period(p, r, start, None), start)
            for p, r in ((prepared, run), (other, replace(run, model=model)))
        )
        assert there["auc"] == pytest.approx(here["auc"], abs=1e-6)


def test_users_of_a_log_in_another_order_keep_what_was_learnt(kept, tmp_path):
    """A log that begins elsewhere numbers users and queries anew."""
    prepared, run, path = kept
    log = search_log()
    part = {name: values[164:] for name, values in log.items()}
    tokenizer = prepared.tokenizer.backend_tokenizer
    put(tmp_path, films(), part)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    other = pipeline.prepare(tmp_path, CONFIG, CPU)
    loaded = Ranker.load(path, other).model.ids
    for name, mine, theirs in (
        ("user", prepared.dataset.users.tolist(), other.dataset.users.tolist()),
        ("query", prepared.dataset.queries, other.dataset.queries),
    ):
        assert mine != theirs
        for row, value in enumerate(theirs, start=1):
            known = run.model.ids[name].weight[mine.index(value) + 1]
            assert torch.equal(loaded[name].weight[row], known)


def test_what_training_never_saw_is_unknown_and_published(kept, tmp_path):
    prepared, run, path = kept
    rows = [*range(40, 43), *range(30)]
    log = search_log(480, users=24)
    put(tmp_path, films(rows), log)
    prepared.tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    other = pipeline.prepare(tmp_path, CONFIG, CPU)
    ranker = Ranker.load(path, other)
    new = other.dataset.users.tolist().index(23)
    ids, before = ranker.model.ids, run.model.ids
    assert torch.equal(ids["user"].weight[new + 1], before["user"].weight[0])
    assert torch.equal(ids["item"].weight[1:4], before["item"].weight[[0, 0, 0]])
    assert torch.equal(ids["item"].weight[4:], before["item"].weight[1:])
    bank, old = ranker.model.bank, run.model.bank
    assert torch.equal(bank.vectors[3:], old.vectors)
    assert (bank.written >= 0).all()
    twin = old.vectors[10]  # the same title, and weights that have moved since
    assert torch.cosine_similarity(bank.vectors[0], twin, dim=0) > 0.9


def changed(kind: str, folder: Path, prepared) -> pipeline.Prepared:
    """The same data set but for one thing."""
    items, log, config = films(), search_log(), CONFIG
    if kind == "text":
        items["title"] = [*TITLES[:7], "another", *TITLES[8:]]
    if kind == "items":
        items["item_id"] = [f"f{k}" for k in range(30)]
        log["item_id"] = [f"f{k}" for k in log["item_id"]]
    if kind == "users":
        log["user_id"] = [f"u{k}" for k in log["user_id"]]
    if kind == "field":
        items["more"] = ["x"] * 30
    if kind == "feed":
        log = feed_log()
    if kind == "size":
        config = config.replace(image_size=16)
    if kind == "picture":
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
        items["image"] = [buffer.getvalue(), *[None] * 29]
    put(folder, items, log)
    words = json.loads(prepared.tokenizer.backend_tokenizer.to_str())
    if kind == "tokenizer":
        vocabulary = words["model"]["vocab"]
        names = sorted(vocabulary, key=vocabulary.get)[4:]
        places = [vocabulary[name] for name in names][::-1]
        vocabulary |= dict(zip(names, places, strict=True))
    (folder / "tokenizer.json").write_text(json.dumps(words))
    return pipeline.prepare(folder, config, CPU)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("tokenizer", "trained with tokenizer"),
        ("text", "trained with another text of item 7 (1 such"),
        ("picture", "trained with another picture of item 0 (1 such"),
        ("items", "trained on none of these 30 items (ids of types int, str)"),
        ("users", "trained on none of these 20 users (ids of types int, str)"),
        ("field", "trained with fields title (now title more)"),
        ("feed", "trained with kind search (now feed)"),
        ("size", "trained with image_size 32 (now 16)"),
    ],
)
def test_what_does_not_belong_together_is_refused(kept, tmp_path, kind, words):
    prepared, _, path = kept
    other = changed(kind, tmp_path / "d", prepared)
    for load_it in (
        lambda: Ranker.load(path, other),
        lambda: checkpoints.load_model(path, CPU, other.fingerprint),
    ):
        with pytest.raises(CheckpointError) as error:
            load_it()
        assert words in one_line(error) and str(path) in str(error.value)


@pytest.mark.parametrize("kind", ["tokenizer", "text", "picture", "order", "log"])
def test_resume_takes_only_the_very_same_data(kept, tmp_path, kind):
    prepared, _, path = kept
    if kind == "order":
        other = made(tmp_path, items=films(range(29, -1, -1)))
    elif kind == "log":
        label = search_log()["label"]
        other = made(tmp_path, log=search_log(label=[1 - label[0], *label[1:]]))
    else:
        other = changed(kind, tmp_path, prepared)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="written with") as error:
        pipeline.fit(other, CONFIG, 0, other.dataset.test_start, path, resume=True)
    assert "(now " in one_line(error) and path.read_bytes() == before


def test_pictures_in_files_count_by_their_content(tmp_path):
    def picture(colour: str) -> None:
        Image.new("RGB", (8, 8), colour).save(tmp_path / "a.png")

    picture("red")
    items = films(image=["a.png", *[None] * 29])
    first = made(tmp_path, items).fingerprint
    assert made(tmp_path, items).fingerprint.parts == first.parts
    picture("blue")
    second = made(tmp_path, items).fingerprint
    other = {name for name, value in second.parts.items() if first.parts[name] != value}
    assert other == {"pictures"}


def test_an_older_checkpoint_says_that_it_does_not_know(kept, tmp_path):
    prepared, _, path = kept
    facts, tensors = checkpoints.read(path)
    weights = {k: v for k, v in tensors.items() if not k.startswith("data.")}
    checkpoints.write(tmp_path / "old", facts, weights)
    assert checkpoints.load_model(tmp_path / "old").sizes == prepared.sizes
    with pytest.raises(CheckpointError, match="does not say what it was trained on"):
        Ranker.load(tmp_path / "old", prepared)


def test_an_exported_checkpoint_is_mapped_too(kept, tmp_path):
    prepared, run, path = kept
    checkpoints.export(path, tmp_path / "half")
    other = made(tmp_path / "d", items=films(range(29, -1, -1)))
    right = scores(Ranker(run.model, prepared))
    assert scores(Ranker.load(tmp_path / "half", other)) == pytest.approx(
        right, abs=0.01
    )


def test_a_model_of_other_sizes_is_not_served(kept, prepared):
    with pytest.raises(DataError, match="Ranker.load finds the rows"):
        Ranker(kept[1].model, prepared)
    with pytest.raises(ValueError, match="a model of 30 documents, features of 120"):
        predict(kept[1].model, prepared.features, prepared.pages, np.arange(2))


# --- pictures ------------------------------------------------------------------------


def encoded(picture: Image.Image, kind: str, **more) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **more)
    return buffer.getvalue()


def halves(mode: str = "RGB") -> Image.Image:
    """Red above blue."""
    picture = Image.new("RGB", (64, 64), "blue")
    picture.paste("red", (0, 0, 64, 32))
    return picture.convert(mode)


def colour(pixels: torch.Tensor, row: int, column: int) -> list[int]:
    return pixels[:, row, column].tolist()


@pytest.mark.parametrize(
    ("turn", "red"),
    [(1, (2, 16)), (3, (29, 16)), (6, (16, 29)), (8, (16, 2)), (5, (16, 2))],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_picture_stands_as_its_exif_says(turn, red, kind):
    exif = Image.Exif()
    exif[0x0112] = turn
    pixels = decode(encoded(halves(), kind, exif=exif.tobytes(), quality=95), 32)
    here, there = colour(pixels, *red), colour(pixels, 31 - red[0], 31 - red[1])
    assert here[0] > 200 > 60 > here[2] and there[2] > 200 > 60 > there[0]


def test_a_broken_exif_turns_nothing():
    pixels = decode(encoded(halves(), "JPEG", exif=b"Exif\0\0II*\0rubbish"), 32)
    assert colour(pixels, 2, 16)[0] > 200


def test_sixteen_bits_keep_their_shades():
    values = np.full((8, 8), 65_535, np.uint16)
    values[:4] = 257 * 100
    pixels = decode(encoded(Image.fromarray(values), "PNG"), 8)
    assert colour(pixels, 0, 0) == [100] * 3 and colour(pixels, 7, 7) == [255] * 3


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_what_is_transparent_lies_on_white(kind):
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (0, 0, 8, 4))
    picture.putpixel((0, 7), (0, 0, 0, 128))
    pixels = decode(encoded(picture, kind, lossless=True), 8)
    assert colour(pixels, 0, 0) == [0, 0, 255] and colour(pixels, 7, 7) == [255] * 3
    assert colour(pixels, 7, 0) == [127] * 3


@pytest.mark.parametrize(
    ("mode", "clear"), [("P", 1), ("L", 0), ("RGB", (255, 0, 0)), ("1", 0)]
)
def test_a_colour_that_stands_for_nothing_is_white(mode, clear):
    picture = Image.new(mode, (8, 8), 1 if mode in "P1" else "black")
    if mode == "P":
        picture.putpalette([0, 255, 0, 255, 0, 0] + [0] * 762)
    if mode == "RGB":
        picture = Image.new(mode, (8, 8), "red")
    if mode in "P1":
        picture.paste(0, (0, 0, 8, 4))
    pixels = decode(encoded(picture, "PNG", transparency=clear), 8)
    assert colour(pixels, 7, 7) == [255] * 3
    if mode == "P":
        assert colour(pixels, 0, 0) == [0, 255, 0]


def test_other_modes_show_what_a_viewer_shows():
    red = [Image.new("RGB", (16, 16), "red").convert(m) for m in ("CMYK", "P", "RGB")]
    for picture, kind in zip(red, ("JPEG", "GIF", "BMP"), strict=True):
        assert np.allclose(
            colour(decode(encoded(picture, kind), 8), 4, 4), [254, 0, 0], atol=4
        )
    frames = [Image.new("RGB", (8, 8), c) for c in ("lime", "red")]
    for kind in ("GIF", "WEBP", "PNG"):
        moving = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert np.allclose(colour(decode(moving, 8), 4, 4), [0, 255, 0], atol=9)


# --- texts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("कि", "क"),  # Hindi: that, and the letter alone
        ("ดี", "ด"),  # Thai: good
        ("が", "か"),  # Japanese voiced and not
        ("año", "ano"),
        ("می‌خواهم", "میخواهم"),  # Persian, with the joiner
        ("👩‍👩‍👧", "👩👩👧"),
    ],
)
def test_marks_that_tell_words_apart_stay(first, second):
    normalizer = make_normalizer()
    assert normalizer.normalize_str(first) != normalizer.normalize_str(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("ガ", "ガ"),  # one letter, or a letter and its mark
        ("Café", "cafe\u0301"),
        ("ＡＢＣ", "abc"),
        ("ﾃﾚﾋﾞ", "テレビ"),
        ("so\u00adft", "soft"),
        ("a\u202eb\x00", "ab"),
    ],
)
def test_what_looks_the_same_is_the_same(first, second):
    normalizer = make_normalizer()
    assert normalizer.normalize_str(first) == normalizer.normalize_str(second)


def test_words_of_other_scripts_have_tokens_of_their_own(tmp_path):
    titles = ["कि", "कु", "ดี", "ดู", "が", "か"] * 5
    prepared = made(tmp_path, items=films(title=titles))
    rows = [tuple(row) for row in prepared.features.tokens[:6].tolist()]
    assert len(set(rows)) == 6
    assert prepared.tokenizer.unk_token_id not in {t for row in rows for t in row}


def test_a_query_is_read_up_to_the_configured_limit(kept, tmp_path):
    """The log's widest query has two tokens; the limit is ten."""
    prepared, run, _ = kept
    ranker, limit = Ranker(run.model, prepared), query_limit(CONFIG)
    assert prepared.features.query_tokens.shape[1] - 1 < limit
    longer = "words 2 film 3 of 4 words"
    one, other = (ranker.query_vector(t) for t in ("words 2", longer))
    assert float(one @ other) < 0.9999
    most = " ".join(["film 1"] * 60)
    tokens, length = encode_queries(prepared.tokenizer, [longer, most], limit)
    vector = run.model.query_encoder(tokens, length)
    vector = torch.nn.functional.normalize(run.model.running_norms["query"](vector))
    torch.testing.assert_close(vector[0], other, rtol=1e-4, atol=1e-5)
    assert length[1] == 1 + limit
    export.export_engine(ranker, tmp_path)
    tower = export.load_tower(tmp_path / export.TOWER)
    padded = torch.full((2, 1 + limit), prepared.tokenizer.pad_token_id)
    padded[:, : tokens.shape[1]] = tokens
    torch.testing.assert_close(tower(padded, length)[0], other, rtol=1e-4, atol=1e-5)


def test_white_space_does_not_use_up_the_room(kept):
    prepared, limit = kept[0], query_limit(CONFIG)
    far = encode_queries(prepared.tokenizer, [" " * 5000 + "words\n\n 2"], limit)
    near = encode_queries(prepared.tokenizer, ["words 2"], limit)
    assert far[0].tolist() == near[0].tolist()


# --- what people type ----------------------------------------------------------------


def test_a_device_that_is_not_there_is_one_line(tmp_path, capfd):
    for name in ("mps", "cuda", "cuda:99", "toaster"):
        if name == "mps" and torch.backends.mps.is_available():
            continue
        if name == "cuda" and torch.cuda.is_available():
            continue
        with pytest.raises(DeviceError, match="use .*cpu") as error:
            choose_device(name)
        one_line(error)
    assert choose_device("cpu") == CPU
    gone = "cuda" if not torch.cuda.is_available() else "mps"
    assert main(["--out", str(tmp_path), "--device", gone]) == 2
    assert f"lemur_mini: no {gone} on this machine" in capfd.readouterr().err


def test_a_negative_seed_is_one_line(prepared, tmp_path, capfd):
    assert main(["--out", str(tmp_path), "--seed", "-1"]) == 2
    assert "seed -1 is negative" in capfd.readouterr().err
    with pytest.raises(ValueError, match="seed -2 is negative; use 0 or more"):
        pipeline.fit(prepared, CONFIG, -2, prepared.dataset.test_start)


def test_out_that_cannot_be_written_is_found_before_training(
    prepared, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("here")
    monkeypatch.setattr(training, "train_step", lambda *_: pytest.fail("was trained"))
    for path in (tmp_path / "file" / "model", tmp_path / "file" / "a" / "model"):
        with pytest.raises(files.FileError, match="nothing can be written there"):
            pipeline.fit(prepared, CONFIG, 0, prepared.dataset.test_start, path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_more_results_than_there_are(kept):
    prepared, run, _ = kept
    ranker = Ranker(run.model, prepared)
    assert sorted(ranker.retrieve("words 1", 10**6).tolist()) == list(range(30))
    with pytest.raises(DataError, match="ask for one document or more"):
        ranker.retrieve("words 1", 0)


def test_documents_without_a_vector_are_not_retrieved(prepared):
    model = make_model(CONFIG, prepared.sizes, 0, CPU).eval()
    model.publish(prepared.features, torch.arange(5))
    found = Ranker(model, prepared).retrieve("bread", 50)
    assert sorted(found.tolist()) == [0, 1, 2, 3, 4]


def test_a_feed_is_asked_for_no_query(tmp_path):
    prepared = made(tmp_path, log=feed_log())
    model = make_model(CONFIG, prepared.sizes, 0, CPU)
    model.publish(prepared.features)
    ranker = Ranker(model, prepared)
    assert len(ranker.rank(3, "", np.arange(4)).items) == 4
    for ask in (
        lambda: ranker.rank(3, "bread", np.arange(4)),
        lambda: ranker.retrieve("bread", 3),
        lambda: ranker.query_vector("bread"),
        lambda: ranker.query_vector(""),
        lambda: export.export_engine(ranker, tmp_path / "engine"),
    ):
        with pytest.raises(DataError, match="feed") as error:
            ask()
        one_line(error)


def test_a_model_of_ids_has_no_vectors(prepared, tmp_path):
    config = CONFIG.replace(groups=BASELINE)
    ranker = Ranker(make_model(config, prepared.sizes, 0, CPU), prepared)
    for ask in (
        lambda: ranker.retrieve("bread", 3),
        lambda: ranker.reasons("nobody", np.arange(3)),
        lambda: export.export_engine(ranker, tmp_path / "engine"),
    ):
        with pytest.raises(DataError, match="of ids alone"):
            ask()


@pytest.mark.parametrize(
    "candidates", [[], [1.0, 2.5], [True, False], [[1, 2]], [-1], [120], ["a"]]
)
def test_candidates_are_rows_of_the_catalogue(prepared, candidates):
    model = make_model(CONFIG, prepared.sizes, 0, CPU)
    model.publish(prepared.features)
    with pytest.raises(DataError):
        Ranker(model, prepared).rank("nobody", "bread", np.array(candidates))


@pytest.fixture
def forks(monkeypatch):
    """Workers that begin at once, where the system has them."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs fork")
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(runs.multiprocessing, "get_context", lambda _: fork)


def dies(*_) -> str:
    os._exit(9)


@pytest.mark.usefixtures("forks")
def test_a_worker_that_dies_is_one_line(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "_one", dies)
    words = ["run", "--data", str(folder), "--results", str(tmp_path)]
    words += ["--variants", "lemur", "--seeds", "0", "1", "--device", "cpu"]
    assert in_one_line(runs.main)(words) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("lemur_mini: a worker process died")
    assert "2 runs have no result" in said and "lemur, seed 0" in said


@pytest.mark.usefixtures("forks")
def test_data_that_a_worker_cannot_read_is_one_line(tmp_path, capsys):
    words = ["run", "--data", str(tmp_path), "--results", str(tmp_path / "r")]
    words += ["--variants", "lemur", "--seeds", "0", "--device", "cpu"]
    assert in_one_line(runs.main)(words) == 2
    assert "items.parquet: not found" in capsys.readouterr().err.splitlines()[-1]


# --- signals -------------------------------------------------------------------------


def fit_until(prepared, path, **more) -> Run:
    config = CONFIG.replace(checkpoint_every=1000)
    return pipeline.fit(
        prepared, config, 0, int(prepared.pages.start[80]), path, **more
    )


def at_step(monkeypatch, step: int, act) -> None:
    real = training.train_step

    def stepped(run, batch):
        if run.step == step:
            act()
        return real(run, batch)

    monkeypatch.setattr(training, "train_step", stepped)


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_writes_the_step_it_came_in(
    prepared, tmp_path, monkeypatch, number, code
):
    whole = fit_until(prepared, tmp_path / "whole")
    number, path = getattr(signal, number), tmp_path / "model"
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        at_step(patch, 7, lambda: signal.raise_signal(number))
        with pytest.raises(Stopped) as stopped:
            fit_until(prepared, path)
    assert stopped.value.saved == path and stopped.value.code == code
    assert signal.getsignal(number) == before
    assert checkpoints.read(path)[0]["step"] == 8
    run = fit_until(prepared, path, resume=True)
    for mine, theirs in zip(
        run.model.parameters(), whole.model.parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_a_second_signal_does_not_wait(prepared, tmp_path, monkeypatch):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    at_step(monkeypatch, 3, twice)
    with pytest.raises(Stopped) as stopped:
        fit_until(prepared, tmp_path / "model")
    assert stopped.value.saved is None and not (tmp_path / "model").exists()


def test_training_in_a_thread_hears_nothing_and_works(prepared, tmp_path):
    done = []
    thread = threading.Thread(
        target=lambda: done.append(fit_until(prepared, tmp_path / "model"))
    )
    thread.start()
    thread.join()
    assert done[0].step == 20


@pytest.mark.parametrize("when", ["before", "first", "second"])
def test_resume_is_promised_only_where_it_works(
    folder, tmp_path, monkeypatch, capfd, when
):
    out = tmp_path / "out"
    command = ["--data", str(folder), "--out", str(out), "--device", "cpu"]
    stop = lambda: signal.raise_signal(signal.SIGINT)  # noqa: E731
    with monkeypatch.context() as patch:
        if when == "before":
            patch.setattr(pipeline, "prepare", lambda *_: stop())
        if when == "first":
            at_step(patch, 2, stop)
        if when == "second":
            real = pipeline.evaluate_period
            patch.setattr(pipeline, "evaluate_period", lambda *a: (stop(), real(*a)))
        assert main(command) == 130
    said = capfd.readouterr().out
    assert ("--resume" in said) == (when != "before")
    if when != "before":
        assert main([*command, "--resume"]) == 0
