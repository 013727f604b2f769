"""The platform does what its data card says, and nothing in it can see a model."""

import ast
import colorsys
import hashlib
import io
import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import lemur_mini.world
from lemur_mini.world import BROAD, Platform, Query
from lemur_mini.world.config import WorldConfig
from lemur_mini.world.documents import draw_documents, write_text
from lemur_mini.world.export import export, impressions_table, items_table
from lemur_mini.world.platform import DAY
from lemur_mini.world.vocabulary import FILLERS, PALETTES, TONES, themes

DATA = Path(__file__).resolve().parent.parent / "data"


@pytest.fixture(scope="module")
def platform() -> Platform:
    """Small, but with documents enough that every page has its eight."""
    return Platform(WorldConfig(users=200, documents=2000, sessions=400), seed=1)


@pytest.fixture(scope="module")
def shipped() -> dict[str, np.ndarray]:
    """The shipped impressions, by column."""
    table = pq.read_table(DATA / "impressions.parquet")
    return {name: table[name].to_numpy() for name in table.column_names}


def queries(platform: Platform, specific: bool, count: int = 60) -> list[Query]:
    asked = (platform.ask(user % platform.config.users) for user in range(10 * count))
    return [q for q in asked if (q.topic != BROAD) == specific][:count]


# --- vocabulary ----------------------------------------------------------------------


def singular(word: str) -> str:
    """Crude on purpose: what a model could match without knowing English."""
    word = word.lower()
    for ending in ("ing", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


def test_eight_categories_of_six_topics():
    categories, topics = themes()
    assert [theme.category for theme in categories] == list(range(8))
    assert [theme.category for theme in topics] == sorted([*range(8)] * 6)


def test_every_word_stands_once():
    words = [w.lower() for theme in sum(themes(), ()) for w in theme.query]
    words += [w.lower() for theme in sum(themes(), ()) for w in theme.document]
    words += [*FILLERS, *(w for tone in TONES.values() for w in tone)]
    assert len(words) > 600
    assert sorted(words) == sorted(set(words))


def test_queries_and_documents_share_no_stem():
    asked = {singular(w) for theme in sum(themes(), ()) for w in theme.query}
    said = {singular(w) for theme in sum(themes(), ()) for w in theme.document}
    assert not asked & said


# --- documents -----------------------------------------------------------------------


def test_documents_say_their_topic_and_tone_and_no_other(platform):
    documents, rng = platform.documents, np.random.default_rng(0)
    categories, topics = themes()
    foreign = {w for t in topics for w in t.document} | set(
        w for theme in (*categories, *topics) for w in theme.query
    )
    for i in range(300):
        text = write_text(documents, i, rng)
        words = {k: set(re.findall(r"\w+", (v or "").lower())) for k, v in text.items()}
        own = set(topics[documents.topic[i]].document)
        tone = set(list(TONES.values())[documents.tone[i]])
        assert words["title"] & own and words["title"] & tone
        assert words["ocr"] & own and words["cover_ocr"] <= own
        assert not words["asr"] or words["asr"] & tone
        assert not set.union(*words.values()) & (foreign - own)


def test_palette_is_the_mean_colour_of_the_cover(platform):
    config = replace(platform.config, documents=300)
    small = Platform(config, seed=2)
    covers = items_table(small)["image"].to_pylist()
    right = 0
    for cover, palette in zip(covers, small.documents.palette, strict=True):
        mean = np.asarray(Image.open(io.BytesIO(cover))).mean((0, 1)) / 255
        hue = 360 * colorsys.rgb_to_hsv(*mean)[0]
        gaps = [abs((hue - value + 180) % 360 - 180) for value in PALETTES.values()]
        right += int(np.argmin(gaps)) == palette
    assert right / len(covers) > 0.95


def test_documents_keep_being_born():
    config = WorldConfig()
    born = draw_documents(config, np.random.default_rng(0)).born
    assert 0.37 < np.mean(born == 0) < 0.43
    assert (np.bincount(born[born > 0].astype(int), minlength=config.days) > 50).all()


# --- pages and reformulations --------------------------------------------------------


def test_mix_of_a_specific_page(platform):
    documents = platform.documents
    for query in queries(platform, specific=True):
        page = platform.page(query, day=20.0)
        topic, category = documents.topic[page], documents.category[page]
        inside = category == query.category
        assert len(set(page)) == 8
        assert (topic == query.topic).sum() == 6
        assert (inside & (topic != query.topic)).sum() == 1
        assert (~inside).sum() == 1


def test_mix_of_a_broad_page(platform):
    for query in queries(platform, specific=False):
        page = platform.page(query, day=20.0)
        inside = platform.documents.category[page] == query.category
        assert len(set(page)) == 8
        assert inside.sum() == 7


def test_nobody_sees_the_unborn(platform):
    asked = queries(platform, specific=True) + queries(platform, specific=False)
    late = 0
    for day, query in zip(np.linspace(0, 30, len(asked)), asked, strict=True):
        born = platform.documents.born[platform.page(query, day)]
        assert (born <= day).all()
        late += (born > 0).sum()
    assert late  # and not only those of the first day


def test_half_of_the_queries_are_broad(platform):
    broad = [platform.ask(u % 200).topic == BROAD for u in range(1000)]
    assert 0.45 < np.mean(broad) < 0.55


def test_reformulations_are_more_specific(platform):
    topics = themes()[1]
    for query in queries(platform, True) + queries(platform, False):
        new = platform.refine(0, query)
        words = set(new.text.split()) - set(FILLERS)
        assert new.topic != BROAD
        assert topics[new.topic].category == new.category == query.category
        assert words <= set(topics[new.topic].query)
        if query.topic != BROAD:
            assert new.topic == query.topic
            assert len(words) > len(set(query.text.split()) - set(FILLERS))


def test_just_the_pages_without_a_watch_are_reissued(platform):
    always = Platform(replace(platform.config, reformulate=1.0), seed=3)
    log = always.simulate()
    unwatched = sum(not record["label"].any() for record in log)
    assert unwatched and len(log) == always.config.sessions + unwatched
    never = Platform(replace(platform.config, reformulate=0.0), seed=3)
    assert len(never.simulate()) == never.config.sessions


# --- truth ---------------------------------------------------------------------------


def naive_probability(
    platform: Platform, user: int, query: Query, i: int, watched: set
) -> float:
    config, users, documents = platform.config, platform.users, platform.documents
    topic, category = documents.topic[i], documents.category[i]
    inside = category == query.category
    relevance = 0.7 if inside else 0.0
    if query.topic != BROAD:
        relevance = 1.0 if topic == query.topic else 0.35 if inside else 0.0
    logit = config.bias + config.relevance * relevance
    if inside:
        logit += config.affinity * users.affinity[user, topic]
    for mine, its in ((users.palette, documents.palette), (users.tone, documents.tone)):
        match = 1.0 if mine[user] == its[i] else 0.0
        logit += config.taste * (match - 0.2) / math.sqrt(0.2 * 0.8)
    logit += config.quality * documents.quality[i]
    logit += config.refinding * (i in watched)
    return 1 / (1 + math.exp(-logit))


def test_probability_is_the_formula(platform):
    asked = queries(platform, True, 20) + queries(platform, False, 20)
    shown = np.arange(0, 2000, 7)
    platform.watched[3, [7, 21]] = True
    for user, query in enumerate(asked):
        known = {7, 21} if user == 3 else set()
        expected = [naive_probability(platform, user, query, i, known) for i in shown]
        np.testing.assert_allclose(
            platform.probability(user, query, shown), expected, rtol=1e-12
        )


def test_what_was_watched_before_is_watched_more(platform):
    lively = Platform(replace(platform.config, documents=100), seed=5)
    log = lively.simulate()
    seen, chances = set(), {True: [], False: []}
    for record in log:  # sessions of one user do not overlap here
        for i, p, label in zip(
            record["item"], record["p"], record["label"], strict=True
        ):
            chances[(record["user"], i) in seen].append(p)
            seen |= {(record["user"], i)} if label else set()
    assert len(chances[True]) > 100
    assert np.mean(chances[True]) > np.mean(chances[False]) + 0.2


def test_labels_follow_the_probabilities(shipped):
    order = np.argsort(shipped["probability"], kind="stable")
    for part in np.array_split(order, 20):
        p, label = shipped["probability"][part], shipped["label"][part]
        spread = np.sqrt((p * (1 - p)).sum())
        assert abs(label.sum() - p.sum()) < 4.5 * spread


def test_log_is_in_time_order_and_users_have_arrived(platform):
    busy = Platform(replace(platform.config, days=1), seed=4)  # sessions overlap
    log = busy.simulate()
    days = [record["day"] for record in log]
    assert days == sorted(days)
    assert all(r["day"] >= busy.users.arrival[r["user"]] for r in log)


def test_the_seed_decides_everything(world):
    def tables(seed: int):
        made = Platform(world, seed)
        return items_table(made), impressions_table(made)

    first, again, other = tables(0), tables(0), tables(1)
    for a, b, c in zip(first, again, other, strict=True):
        assert a.equals(b)
        assert not a.equals(c)


def test_columns_show_no_hidden_factor(folder):
    fields = ["title", "ocr", "asr", "cover_ocr"]
    items = ["item_id", *fields, "image", "created_at"]
    log = ["user_id", "query_id", "query", "item_id", "timestamp", "label"]
    assert pq.read_schema(folder / "items.parquet").names == items
    names = pq.read_schema(folder / "impressions.parquet").names
    assert names == [*log, "probability"]


def test_world_knows_no_model():
    allowed = {*sys.stdlib_module_names, "numpy", "PIL", "pyarrow", "torch", "tqdm"}
    files = sorted(Path(lemur_mini.world.__file__).parent.glob("*.py"))
    assert len(files) >= 5
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module] if not node.level else []
                assert node.level < 2, file
            for name in names:
                ours = name.startswith(("lemur_mini.files", "lemur_mini.world"))
                assert ours or name.split(".")[0] in allowed, f"{file}: {name}"


# --- the shipped data ----------------------------------------------------------------


def test_shipped_files_have_their_checksums():
    lines = (DATA / "SHA256SUMS").read_text("utf-8").split("\n")[:-1]
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert set(sums) == {"items.parquet", "impressions.parquet", "dataset.json"}
    for name, digest in sums.items():
        assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() == digest, name


def test_shipped_data_is_small():
    assert sum(file.stat().st_size for file in DATA.iterdir()) <= 15e6


def test_shipped_log_is_whole(shipped):
    config = WorldConfig()
    born = pq.read_table(DATA / "items.parquet")["created_at"].to_numpy()
    assert len(born) == config.documents
    assert (np.bincount(shipped["query_id"]) == config.page_size).all()
    assert (np.diff(shipped["timestamp"]) >= 0).all()
    assert (np.diff(shipped["query_id"]) >= 0).all()
    assert (born[shipped["item_id"]] <= shipped["timestamp"]).all()
    facts = json.loads((DATA / "dataset.json").read_text("utf-8"))
    assert facts["valid_start"] == config.start + 26 * DAY
    assert facts["test_start"] == config.start + 28 * DAY


@pytest.mark.slow
def test_regenerating_gives_the_shipped_data(tmp_path):
    facts = json.loads((DATA / "dataset.json").read_text("utf-8"))
    export(tmp_path, seed=facts["seed"])
    assert json.loads((tmp_path / "dataset.json").read_text("utf-8")) == facts
    for name in ("items.parquet", "impressions.parquet"):
        ours, new = pq.read_table(DATA / name), pq.read_table(tmp_path / name)
        assert ours.schema == new.schema
        for column in set(ours.column_names) - {"image", "probability"}:
            assert ours[column].equals(new[column]), column
        if "probability" in ours.column_names:  # rounded to four digits
            p, q = (table["probability"].to_numpy() for table in (ours, new))
            np.testing.assert_allclose(p, q, rtol=0, atol=1.1e-4)
        else:
            images = (table["image"].to_pylist() for table in (ours, new))
            for a, b in zip(*images, strict=True):
                a, b = (np.asarray(Image.open(io.BytesIO(x)), int) for x in (a, b))
                assert np.abs(a - b).mean() < 2  # decoders may differ by a rounding
