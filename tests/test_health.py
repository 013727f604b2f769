"""Every leak, planted and found; and the leaks of sampled negatives, measured."""

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from lemur_mini import plots
from lemur_mini.data.health import TELLS, health
from lemur_mini.data.importers.negatives import add_negatives
from lemur_mini.data.schema import DataError
from lemur_mini.evaluation import auc

ROOT = Path(__file__).resolve().parent.parent
ITEMS, LOG = "items.parquet", "impressions.parquet"


@pytest.fixture
def tables(folder) -> tuple[pa.Table, pa.Table]:
    return pq.read_table(folder / ITEMS), pq.read_table(folder / LOG)


def put(table: pa.Table, name: str, values) -> pa.Table:
    values = pa.array(values)
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, values)
    return table.append_column(name, values)


def test_clean_data_has_no_leak(folder, dataset, tables):
    report = health(folder)
    assert report.leaks == () and report == health(dataset).__class__(**vars(report))
    assert max(report.aucs.values()) < 0.8
    assert list(report.checked.values())[1:] == ["none"] * 3
    log = dataset.log
    assert report.rows == len(log.label) and report.users == len(dataset.users)
    assert report.items == 120 and report.shown == len(np.unique(log.item))
    assert report.sessions == len(np.unique(log.qid)) and report.sampled == 0
    assert report.label_rate == pytest.approx(log.label.mean())
    assert (report.start, report.end) == (log.timestamp.min(), log.timestamp.max())
    assert report.timeline.sum(1).tolist() == [len(log.label), log.label.sum()]
    missing = np.mean([not text for text in dataset.texts["asr"]])
    assert report.coverage["asr"] == pytest.approx(1 - missing)
    assert report.coverage["image"] == 1


def column(log: pa.Table, kind: str) -> list:
    """Columns that tell the label, each in another way."""
    label, rng = log["label"].to_numpy().astype(int), np.random.default_rng(0)
    return {
        "number": (5.0 * label + rng.random(len(label))).tolist(),
        "reversed": (1 - label).tolist(),
        "missing": [1.5 if y else None for y in label],
        "words": ["liked" if y else "not for me" for y in label],
        "codes": (3 * rng.integers(5, size=len(label)) * 2 + label).tolist(),
        "times": (label * 1000).astype("datetime64[s]"),
    }[kind]


@pytest.mark.parametrize(
    "kind", ["number", "reversed", "missing", "words", "codes", "times"]
)
def test_a_column_that_tells_the_label_is_found(tables, kind):
    items, log = tables
    report = health((items, put(log, "told", column(log, kind))))
    assert report.aucs["told"] >= TELLS
    assert [line.split(":")[0] for line in report.leaks] == [f"{LOG}, column told"]
    assert "LEAK" in str(report)


def test_a_column_of_the_items_that_tells_the_label_is_found(tables):
    """Here every item is always or never watched, and its text says which."""
    items, log = tables
    good = np.random.default_rng(0).random(items.num_rows) < 0.5
    log = put(log, "label", good[log["item_id"].to_numpy()].astype(int))
    named = put(items, "note", [f"sort {int(g)}" for g in good])
    told = {line.split(":")[0] for line in health((named, log)).leaks}
    assert f"{ITEMS}, column note" in told


def test_noise_and_rare_values_do_not_raise_an_alarm(tables):
    items, log = tables
    rng = np.random.default_rng(0)
    log = put(log, "noise", rng.random(log.num_rows))
    log = put(log, "alone", [f"row {k}" for k in range(log.num_rows)])
    report = health((items, log))
    assert report.leaks == ()
    assert report.aucs["alone"] == 0.5 and report.aucs["noise"] < 0.55


def test_items_before_their_birth_are_found(tables):
    items, log = tables
    born = items["created_at"].to_numpy().copy()
    item, time = log["item_id"].to_numpy(), log["timestamp"].to_numpy()
    born[item[40]] = time[item == item[40]].max()  # all but its last impressions
    wrong = (born[item] > time).nonzero()[0]
    report = health((put(items, "created_at", born), log))
    assert report.checked["items before birth"] == str(len(wrong))
    where = f"{LOG}, column created_at, row {wrong[0]}: shown before its item's birth"
    assert len(report.leaks) == 1 and report.leaks[0].startswith(where)
    some = [None if k == item[40] else int(b) for k, b in enumerate(born)]
    assert health((put(items, "created_at", some), log)).leaks == ()
    unknown = health((items.drop_columns("created_at"), log))
    assert "no created_at" in unknown.checked["items before birth"]


def test_duplicate_impressions_are_found(tables):
    items, log = tables
    twice = pa.concat_tables([log, log.slice(10, 3)])
    report = health((items, twice))
    assert report.checked["duplicate impressions"] == "3"
    assert f"{LOG}, column item_id, row {log.num_rows}: same session" in report.leaks[0]


def test_labels_of_one_class_are_found(tables):
    items, log = tables
    report = health((items, log.filter(pc.equal(log["label"], 1))))
    assert "all labels are 1" in report.leaks[0] and len(report.leaks) == 1


def test_bad_data_is_one_line_as_in_load(folder, tmp_path, tables):
    with pytest.raises(DataError, match="column label, row 3: 7 is not a label"):
        health((tables[0], put(tables[1].slice(0, 4), "label", [0, 1, 0, 7])))
    shutil.copy(folder / ITEMS, tmp_path)
    with pytest.raises(DataError, match="impressions.parquet: not found"):
        health(tmp_path)


def test_the_picture_shows_what_was_found(tables):
    items, log = tables
    items = put(items, "cost in $ or $", ["text"] * items.num_rows)  # no formula
    figure = plots.health_figure(health((items, put(log, "told", log["label"]))))
    assert [axes.get_title() for axes in figure.axes][2] == "Leaks found: 1"
    names = [text.get_text() for text in figure.axes[2].get_yticklabels()]
    assert "told" in names and r"cost in \$ or \$" in names
    figure.canvas.draw()


# --- negatives -----------------------------------------------------------------------


def purchases(rows: int = 3000, items: int = 200, drift: float = 0.5):
    """Positives only, in time order, with drift: other items are popular later."""
    rng = np.random.default_rng(0)
    time = np.sort(rng.integers(10**6, size=rows))
    rank = (items * rng.random(rows) ** 3).astype(int)
    item = (rank + int(drift * items) * time // 10**6) % items
    log = {
        "user_id": rng.integers(150, size=rows),
        "session_id": np.arange(rows),
        "item_id": item,
        "timestamp": time,
        "label": np.ones(rows, int),
    }
    return pa.table({"item_id": range(items)}), pa.table(log)


def rows_of(log: pa.Table, *names: str) -> list[tuple]:
    return list(zip(*(log[name].to_pylist() for name in names), strict=True))


def popular_before(log: pa.Table) -> np.ndarray:
    """Naive: how often an item was taken before each row."""
    taken = dict.fromkeys(log["item_id"].to_pylist(), 0)
    out, waiting, now = [], [], None
    for time, item, label in rows_of(log, "timestamp", "item_id", "label"):
        if time != now:  # what was taken at one time does not count for that time
            for earlier in waiting:
                taken[earlier] += 1
            waiting, now = [], time
        out.append(taken[item])
        waiting += [item] * label
    return np.array(out, float)


@pytest.mark.parametrize("popularity", [0.0, 1.0])
def test_negatives_keep_their_rules(popularity):
    items, log = purchases()
    out = add_negatives(log, items, 4, popularity, seed=1)
    first = {}  # birth: the first row in the log
    for item, time in rows_of(log, "item_id", "timestamp"):
        first.setdefault(item, time)
    owned, pages, seen, repeats = {}, {}, set(), 0
    rows = rows_of(out, "timestamp", "user_id", "item_id", "label")
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    for time, user, item, label in rows:
        if label:
            repeats += (user, item) in owned
            owned.setdefault((user, item), time)
        pages.setdefault((user, time), []).append((label, item))
        assert (user, item, time) not in seen
        seen.add((user, item, time))
    assert not repeats and len(owned) < log.num_rows  # repeats were dropped
    for time, user, item, label in rows:
        assert first[item] <= time
        assert label or owned.get((user, item), np.inf) > time
    assert all(made == 1 - y for made, y in rows_of(out, "sampled", "label"))
    late = [[y for y, _ in page] for page in list(pages.values())[500:]]
    assert all(len(page) % 5 == 0 for page in late)
    places = np.bincount([page.index(1) for page in late], minlength=5)
    assert places.min() > 0.8 * places.mean()  # the positive stands anywhere


def test_negatives_follow_from_the_seed():
    items, log = purchases(500)
    first, again, other = (add_negatives(log, items, 2, seed=s) for s in (3, 3, 4))
    assert first.equals(again) and not first.equals(other)


@pytest.mark.parametrize(
    ("drift", "even", "popular"),
    [(0, (0.62, 1), (0.47, 0.53)), (0.2, (0.6, 1), (0, 0.47))],
)
def test_popularity_alone_on_sampled_negatives(drift, even, popular):
    """As the docstring says: drawn evenly, the popular are positives; drawn by
    popularity, that is gone, and the reverse holds where what people want changes."""
    items, log = purchases(drift=drift)
    for popularity, (low, high) in ((0.0, even), (1.0, popular)):
        out = add_negatives(log, items, 2, popularity)
        label = out["label"].to_numpy()
        late = np.arange(len(label)) > len(label) // 2
        assert low < auc(label[late], popular_before(out)[late]) < high


def test_weights_are_those_of_a_naive_draw():
    """One late positive, many negatives: shares follow times taken before, plus one."""
    counts = np.array([0, 0, 1, 4, 15])
    item = np.r_[np.repeat(np.arange(5), counts), 0]
    log = {
        "user_id": np.r_[np.arange(20), 20],
        "session_id": np.arange(21),
        "item_id": item,
        "timestamp": np.r_[np.arange(20), 100],
        "label": np.ones(21, int),
    }
    items = pa.table({"item_id": range(5), "created_at": [0, 0, 0, 0, 0]})
    drawn = np.zeros(5)
    for seed in range(150):
        out = add_negatives(pa.table(log), items, 1, seed=seed)
        last = out.filter(pc.equal(out["timestamp"], 100))
        drawn += np.bincount(last.filter(last["sampled"])["item_id"], minlength=5)
    wanted = np.where(np.arange(5) == 0, 0, counts + 1)  # 0 is what this user takes
    np.testing.assert_allclose(drawn / 150, wanted / wanted.sum(), atol=0.1)


def test_negatives_respect_birth_and_small_catalogues():
    log = {
        "user_id": [1, 1, 2],
        "session_id": [1, 2, 3],
        "item_id": ["a", "b", "a"],
        "timestamp": [10, 20, 30],
        "label": [1, 1, 1],
    }
    items = {"item_id": ["a", "b", "c"], "created_at": [0, 0, 25]}
    out = add_negatives(pa.table(log), pa.table(items), 5).to_pylist()
    negatives = [(r["timestamp"], r["item_id"]) for r in out if r["sampled"]]
    assert sorted(negatives) == [(10, "b"), (30, "b"), (30, "c")]
    with pytest.raises(DataError, match="row 2: z is not in items.parquet"):
        add_negatives(pa.table(log | {"item_id": ["a", "b", "z"]}), pa.table(items), 1)


# --- code of others ------------------------------------------------------------------


def sources():
    yield from ((p.name, p.read_text("utf-8")) for p in ROOT.glob("lemur_mini/**/*.py"))
    for path in ROOT.glob("notebooks/**/*.ipynb"):
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                yield path.name, "".join(cell["source"])


def trusting(text: str) -> int:
    """How often `trust_remote_code` is anything but the keyword with False."""
    tree = ast.parse(text)
    keywords = [
        k for n in ast.walk(tree) if isinstance(n, ast.Call) for k in n.keywords
    ]
    named = [k for k in keywords if k.arg == "trust_remote_code"]
    good = sum(getattr(k.value, "value", None) is False for k in named)
    return text.count("trust_remote_code") - good


def test_code_of_others_is_never_run():
    found = [name for name, text in sources() if trusting(text)]
    assert found == []
    uses = sum("trust_remote_code=False" in text for _, text in sources())
    assert uses >= 1


@pytest.mark.parametrize(
    "line",
    [
        "load('x', trust_remote_code=True)",
        "load('x', trust_remote_code=asked)",
        "load('x', **{'trust_remote_code': False})",
        "trust_remote_code = True",
    ],
)
def test_the_test_above_can_fail(line):
    assert trusting(line) and not trusting("load('x', trust_remote_code=False)")
