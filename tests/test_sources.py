"""Other people's logs: every format in its original layout, with its quirks."""

import gzip
import http.server
import io
import json
import socket
import threading
from pathlib import Path
from urllib.error import HTTPError, URLError

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from lemur_mini import pipeline
from lemur_mini.data.importers.amazon import from_amazon_reviews
from lemur_mini.data.importers.huggingface import from_huggingface, sessions
from lemur_mini.data.importers.images import fetch_images
from lemur_mini.data.importers.movielens import from_movielens
from lemur_mini.data.loading import load
from lemur_mini.data.schema import DataError

LOG = "impressions.parquet"
START = 978_300_000  # 2000-12-31


def picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 48), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def log_of(folder: Path) -> dict:
    return pq.read_table(folder / LOG).to_pydict()


def items_of(folder: Path) -> dict:
    rows = pq.read_table(folder / "items.parquet").to_pylist()
    return {row["item_id"]: row for row in rows}


# --- MovieLens -----------------------------------------------------------------------

TITLES = {  # as published: what it becomes
    1: ("Toy Story (1995)", "Toy Story (1995)"),
    2: ("Matrix, The (1999)", "The Matrix (1999)"),
    3: (
        "City of Lost Children, The (Cité des enfants perdus, La) (1995)",
        "The City of Lost Children (Cité des enfants perdus, La) (1995)",
    ),
    4: ('"Great Performances" Cats (1998)', '"Great Performances" Cats (1998)'),
    5: ("Good, the Bad and the Ugly", "Good, the Bad and the Ugly"),  # no year
    6: ("Avventura, L' (1960)", "L'Avventura (1960)"),
    7: ("Star Wars: Episode IV (1977)", "Star Wars: Episode IV (1977)"),
}
GENRES = ["Animation|Children's|Comedy", "Action", "Sci-Fi", "(no genres listed)"]


def ratings() -> list[tuple]:
    """user, film, rating, time; unsorted, with equal times, as in the files."""
    rng = np.random.default_rng(0)
    pair = rng.permutation(30 * 7)[:200]  # nobody rates a film twice
    time = START + rng.integers(9, size=200) * 2000
    columns = 1 + pair // 7, 1 + pair % 7, rng.integers(1, 6, size=200), time
    return list(zip(*(c.tolist() for c in columns), strict=True))


def ml_1m(folder: Path, encoding: str = "latin-1", end: str = "\r\n") -> Path:
    """The layout of ml-1m: no header, `::`, Latin-1; blank lines for good measure."""
    films = [f"{i}::{t}::{GENRES[i % 4]}" for i, (t, _) in TITLES.items()]
    lines = ["::".join(map(str, row)) for row in ratings()]
    folder.mkdir()
    text = end.join([*films[:2], "", *films[2:], ""])
    (folder / "movies.dat").write_bytes(text.encode(encoding))
    (folder / "ratings.dat").write_bytes(end.join([*lines, "", ""]).encode())
    (folder / "users.dat").write_bytes(b"1::F::1::10::48067\n")
    return folder


def ml_latest(folder: Path, bom: bool = False, end: str = "\n") -> Path:
    """The layout of ml-latest: header, commas, quotes doubled inside quotes, UTF-8."""
    films = []
    for i, (title, _) in TITLES.items():
        if "," in title or '"' in title:
            title = '"' + title.replace('"', '""') + '"'
        films.append(f"{i},{title},{GENRES[i % 4]}")
    lines = [f"{u},{i},{r:.1f},{t}" for u, i, r, t in ratings()]
    folder.mkdir()
    mark = "\ufeff" if bom else ""
    for name, head, rows in (
        ("movies.csv", "movieId,title,genres", films),
        ("ratings.csv", "userId,movieId,rating,timestamp", lines),
    ):
        text = mark + end.join([head, *rows, "", ""])
        (folder / name).write_bytes(text.encode("utf-8"))
    return folder


LAYOUTS = {
    "1m": ml_1m,
    "1m with unix line ends": lambda folder: ml_1m(folder, end="\n"),
    "10m": lambda folder: ml_1m(folder, "utf-8"),
    "1m after an editor": lambda folder: ml_1m(folder, "utf-8-sig"),
    "latest": ml_latest,
    "latest after Windows": lambda folder: ml_latest(folder, True, "\r\n"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_movielens_layouts(layout, tmp_path):
    out = tmp_path / "out"
    report = from_movielens(LAYOUTS[layout](tmp_path / "ml"), out)
    items, log = items_of(out), log_of(out)
    assert {i: row["title"] for i, row in items.items()} == {
        i: title for i, (_, title) in TITLES.items()
    }
    assert items[4]["genres"] == "Animation, Children's, Comedy"
    assert items[3]["genres"] is None and items[5]["created_at"] is None
    assert items[2]["created_at"] == 915_148_800  # 1999-01-01
    assert items[6]["created_at"] < 0  # 1960
    wanted = sorted(ratings(), key=lambda row: row[3])  # a stable sort
    columns = ("user_id", "item_id", "label", "timestamp")
    found = zip(*(log[name] for name in columns), strict=True)
    assert list(found) == [(u, i, int(r >= 4), t) for u, i, r, t in wanted]
    assert "rating" not in log  # it tells the label
    assert report.leaks == () and report.rows == 200 and report.users == 30


def test_sessions_are_those_of_a_loop(tmp_path):
    out, gap = tmp_path / "out", 2000
    from_movielens(ml_1m(tmp_path / "ml"), out, gap=gap, threshold=3)
    log, last, number = log_of(out), {}, {}
    columns = ("user_id", "timestamp", "session_id", "label")
    for user, time, session, label in zip(*(log[c] for c in columns), strict=True):
        if user not in last or time - last[user] > gap:
            assert session not in number.values()
            number[user] = session
        last[user] = time
        assert number[user] == session and label in (0, 1)
    facts = json.loads((out / "dataset.json").read_text("utf-8"))
    assert facts["label"] == "rating >= 3" and facts["session_gap"] == gap
    assert len(set(log["session_id"])) > len(last)
    assert max(np.unique(sessions(np.zeros(3), np.array([0, 5, 11]), 5))) == 1


def test_movielens_with_posters_and_plots_runs(tmp_path, config, capsys):
    folder, posters = ml_latest(tmp_path / "ml"), tmp_path / "posters"
    posters.mkdir()
    (posters / "1.jpg").write_bytes(picture("red"))
    (posters / "notes.txt").write_text("no picture")
    plots = tmp_path / "plots.csv"
    plots.write_text('movieId,plot\n2,"Neo, ""the one"", wakes"\n99,none such\n')
    out = tmp_path / "out"
    report = from_movielens(folder, out, posters=posters, plots=plots)
    items = items_of(out)
    assert items[1]["image"] == picture("red") and items[2]["image"] is None
    assert items[2]["plot"] == 'Neo, "the one", wakes' and items[1]["plot"] is None
    assert report.coverage["image"] == report.coverage["plot"] == 1 / 7
    assert str(report) in capsys.readouterr().out
    prepared = pipeline.prepare(out, config, torch.device("cpu"))
    assert prepared.sizes.feed and prepared.sizes.documents == 7
    assert prepared.features.has_image.tolist() == [True] + [False] * 6
    run = pipeline.fit(
        prepared,
        pipeline.config_for(config, prepared.dataset),
        0,
        prepared.dataset.test_start,
    )
    assert run.step > 0
    by_mapping = tmp_path / "again"
    from_movielens(folder, by_mapping, posters={1: picture("red")}, plots={2: "Neo"})
    assert items_of(by_mapping)[1]["image"] == picture("red")


def replaced(path: Path, old: bytes, new: bytes) -> None:
    raw = path.read_bytes()
    assert old in raw
    path.write_bytes(raw.replace(old, new, 1))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "movies.dat").unlink(), "movies.dat: cannot be read .*publish"),
        (
            lambda f: replaced(f / "ratings.dat", b"::9783", b":9783"),
            "ratings.dat: cannot be read .*Row #1: Expected 4 columns, got 3",
        ),
        (
            lambda f: replaced(f / "ratings.dat", b"::9783", b"::yesterday"),
            "ratings.dat: cannot be read .*Row #1.*yesterday",
        ),
        (
            lambda f: replaced(f / "movies.dat", b"1::Toy", b"100::Toy"),
            "ratings.dat, column movieId, row .*: 1 is not in movies.dat; add the item",
        ),
        (
            lambda f: replaced(f / "ratings.dat", b"\r\n", b"::\r\n"),
            "ratings.dat: cannot be read .*Row #1: Expected 4 columns, got 5",
        ),
    ],
)
def test_bad_movielens_is_named(spoil, message, tmp_path):
    folder = ml_1m(tmp_path / "ml")
    spoil(folder)
    with pytest.raises(DataError, match=message) as error:
        from_movielens(folder, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_no_folder_of_posters(tmp_path):
    with pytest.raises(DataError, match="gone: no folder"):
        from_movielens(ml_1m(tmp_path / "ml"), tmp_path, posters=tmp_path / "gone")


# --- Amazon Reviews 2023 -------------------------------------------------------------


def address(item: int, size: str = "large") -> str:
    return f"http://127.0.0.1:1/{item}.{size}.jpg"


def meta(item: int) -> dict:
    """One line of the metadata; `details` has keys and types of its own each time."""
    images = [
        {"thumb": "x", "large": "other", "variant": "PT01", "hi_res": None},
        {
            "thumb": address(item, "thumb"),
            "large": address(item),
            "variant": "MAIN",
            "hi_res": None,
        },
    ]
    return {
        "main_category": "All Beauty",
        "title": f"Crème No. {item} “for you”",
        "average_rating": 4.8,
        "rating_number": 10,
        "features": ["soft", "made of wool"] if item % 2 else [],
        "description": [],
        "price": [None, 12.5, "from 9.99"][item % 3],
        "images": images if item != 3 else [],
        "videos": [],
        "store": "Howard's" if item else None,
        "categories": ["Beauty", "Face"],
        "details": {f"key {item}": item if item % 2 else str(item), "UPC": item},
        "parent_asin": f"B0{item:08}",
        "bought_together": None,
    }


def amazon(folder: Path, packed: bool = False, rows: int = 300) -> Path:
    rng = np.random.default_rng(1)
    reviews = [
        {
            "rating": float(rng.integers(1, 6)),
            "title": "Such a lovely scent",
            "text": "line\nbreak \u2028 and more",
            "images": [],
            "asin": f"child{k}",
            "parent_asin": f"B0{rng.integers(30):08}",
            "user_id": f"AGKH{rng.integers(20)}",
            "timestamp": 1_588_687_728_923 + int(rng.integers(10**10)),
            "helpful_vote": 0,
            "verified_purchase": True,
        }
        for k in range(rows)
    ]
    lines = {"All_Beauty": reviews, "meta_All_Beauty": map(meta, range(1, 40))}
    folder.mkdir()
    for name, content in lines.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        path = folder / f"{name}.jsonl{'.gz' * packed}"
        with gzip.open(path, "wb") if packed else path.open("wb") as file:
            file.write(text.encode() + b"\n")
    return folder


def rows_of(folder: Path, packed: bool) -> list[dict]:
    path = folder / f"All_Beauty.jsonl{'.gz' * packed}"
    raw = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    return [json.loads(line) for line in raw.split(b"\n") if line]


@pytest.mark.parametrize("packed", [False, True])
def test_amazon_reviews(packed, tmp_path):
    out = tmp_path / "out"
    asked = []
    report = from_amazon_reviews(
        amazon(tmp_path / "in", packed), out, "All_Beauty", opener=asked.append
    )
    assert not asked  # no image without a request
    items, log = items_of(out), log_of(out)
    assert len(items) == 30 and report.coverage["image"] == 0
    assert items["B000000001"]["title"] == "Crème No. 1 “for you”"
    assert items["B000000001"]["features"] == "soft made of wool"
    assert items["B000000002"]["features"] is None
    assert items["B000000001"]["categories"] == "Beauty Face"
    assert items["B000000000"]["title"] is None  # reviewed, but not in the metadata
    assert log["timestamp"] == sorted(log["timestamp"])
    made = sorted(row["timestamp"] for row in rows_of(tmp_path / "in", packed))
    assert load(out).log.timestamp.tolist() == [t / 1000 for t in made]
    assert 0.2 < np.mean(log["label"]) < 0.6 and report.rows == 300
    assert load(out).is_feed


def test_purchases_with_negatives_are_flagged_and_run(tmp_path, config):
    out = tmp_path / "out"
    source = amazon(tmp_path / "in")
    report = from_amazon_reviews(
        source, out, "All_Beauty", threshold=None, negatives=3, seed=5
    )
    log, facts = log_of(out), json.loads((out / "dataset.json").read_text("utf-8"))
    assert facts["negatives"] == {"per_positive": 3, "seed": 5}
    assert [1 - s for s in log["sampled"]] == log["label"]
    assert report.sampled == sum(log["sampled"]) > 2 * sum(log["label"])
    prepared = pipeline.prepare(out, config, torch.device("cpu"))
    assert prepared.sizes.feed
    only = from_amazon_reviews(source, tmp_path / "only", "All_Beauty", threshold=None)
    assert any("all labels are 1" in line for line in only.leaks)


def test_amazon_images_on_request(tmp_path):
    pictures, asked = picture("blue"), []

    def opener(url, timeout):
        asked.append(url)
        return io.BytesIO(pictures)

    arguments = amazon(tmp_path / "in"), tmp_path / "out", "All_Beauty"
    for _ in range(2):  # the second time from the cache
        report = from_amazon_reviews(*arguments, images=True, opener=opener)
    items = items_of(tmp_path / "out")
    assert sorted(asked) == sorted(address(i) for i in range(1, 30) if i != 3)
    assert items["B000000001"]["image"] == pictures
    assert items["B000000003"]["image"] is None
    assert report.coverage["image"] == 28 / 30


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"timestamp": 1', b'"timestamp": "x1', "line 1: no JSON"),
        (b'"rating": ', b'"stars": ', "line 1, rating: None is no float"),
        (
            b'"timestamp": ',
            b'"timestamp": null, "t": ',
            "line 1, timestamp: None is no int",
        ),
    ],
)
def test_bad_amazon_lines_are_named(old, new, message, tmp_path):
    folder = amazon(tmp_path / "in")
    replaced(folder / "All_Beauty.jsonl", old, new)
    with pytest.raises(DataError, match=f"All_Beauty.jsonl, {message}"):
        from_amazon_reviews(folder, tmp_path / "out", "All_Beauty")


def test_amazon_files_of_the_hub(tmp_path, monkeypatch):
    folder, asked = amazon(tmp_path / "in"), []

    def download(self, url):
        asked.append(url)
        return str(folder / url.rsplit("/", 1)[1])

    monkeypatch.setattr(datasets.DownloadManager, "download", download)
    hub = "McAuley-Lab/Amazon-Reviews-2023"
    from_amazon_reviews(hub, tmp_path / "out", "All_Beauty")
    assert asked == [
        f"hf://datasets/{hub}/raw/review_categories/All_Beauty.jsonl",
        f"hf://datasets/{hub}/raw/meta_categories/meta_All_Beauty.jsonl",
    ]


def test_amazon_without_files_or_network(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="All_Beauty.jsonl: not found"):
        from_amazon_reviews(tmp_path, tmp_path / "out", "All_Beauty")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **b: pytest.fail("asked"))
    with pytest.raises(DataError, match="nobody/none: neither a folder nor reachable"):
        from_amazon_reviews("nobody/none", tmp_path / "out", "All_Beauty")


# --- fetching ------------------------------------------------------------------------


@pytest.fixture
def server():
    """Answers 200; /busy twice 503 first; /gone 404. Yields address and requests."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            busy = self.path == "/busy" and requests.count("/busy") < 3
            code = 503 if busy else 404 if self.path == "/gone" else 200
            self.send_response(code)
            self.end_headers()
            self.wfile.write(b"image of " + self.path.encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", requests
        running.shutdown()


def test_images_are_fetched_once_with_retries(server, tmp_path, capsys):
    host, requests = server
    urls = [f"{host}/a", None, f"{host}/busy", f"{host}/gone", "file:///etc/hosts"]
    wanted = [b"image of /a", None, b"image of /busy", None, None]
    assert fetch_images(urls, tmp_path, pause=0.01) == wanted
    assert sorted(requests) == ["/a"] + ["/busy"] * 3 + ["/gone"]  # 404 is final
    assert "2 of 5 images could not be fetched, such as" in capsys.readouterr().out
    requests.clear()
    assert fetch_images(urls, tmp_path, pause=0.01) == wanted
    assert requests == ["/gone"]  # the rest is in the cache
    assert not [path for path in tmp_path.iterdir() if path.suffix]  # no cut files


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (URLError("no route"), 3),
        (TimeoutError(), 3),
        (HTTPError("u", 429, "slow down", {}, None), 3),
        (HTTPError("u", 403, "no", {}, None), 1),
    ],
)
def test_what_is_tried_again(error, asked, tmp_path):
    calls = []

    def opener(url, timeout):
        calls.append(url)
        raise error

    found = fetch_images(["http://x/1"], tmp_path, pause=0, opener=opener)
    assert found == [None] and len(calls) == asked


def test_an_image_without_end_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lemur_mini.data.importers.images.MOST_BYTES", 10)

    def opener(url, timeout):
        return io.BytesIO(b"x" * 11)

    assert fetch_images(["http://x/1"], tmp_path, opener=opener) == [None]
    assert "more than 10 bytes" in capsys.readouterr().out


# --- any table -----------------------------------------------------------------------

COLUMNS = {"user_id": "uid", "item_id": "film", "timestamp": "when", "label": "stars"}
COLUMNS |= {"title": "name"}


def table(rows: int = 120) -> dict:
    rng = np.random.default_rng(2)
    film = rng.integers(9, size=rows)
    return {
        "uid": [f"user {k}" for k in rng.integers(6, size=rows)],
        "film": film.tolist(),
        "when": (START + rng.integers(10**5, size=rows)).tolist(),
        "stars": rng.integers(1, 6, size=rows).tolist(),
        "name": [f"film <b>{k}</b>" for k in film],
    }


def kinds(folder: Path) -> dict:
    made = pa.table(table())
    paths = {kind: folder / f"log.{kind}" for kind in ("parquet", "csv", "jsonl")}
    pq.write_table(made, paths["parquet"])
    pa.csv.write_csv(made, paths["csv"])
    paths["jsonl"].write_text("\n".join(map(json.dumps, made.to_pylist())))
    shuffled = datasets.Dataset.from_dict(table())
    return paths | {
        "arrow": made,
        "dataset": shuffled,
        "selected": shuffled.select(range(119, -1, -1)).select(range(119, -1, -1)),
    }


@pytest.mark.parametrize(
    "kind", ["parquet", "csv", "jsonl", "arrow", "dataset", "selected"]
)
def test_any_table(kind, tmp_path):
    out = tmp_path / "out"
    from_huggingface(kinds(tmp_path)[kind], out, COLUMNS, threshold=4)
    log, items, made = log_of(out), items_of(out), table()
    order = sorted(range(120), key=made["when"].__getitem__)
    assert log["user_id"] == [made["uid"][k] for k in order]
    assert log["label"] == [int(made["stars"][k] >= 4) for k in order]
    assert {i: row["title"] for i, row in items.items()} == {
        k: f"film <b>{k}</b>" for k in set(made["film"])
    }
    assert load(out).name == "out"


def test_a_table_of_items_queries_and_dates(tmp_path):
    made = table()
    made["ask"] = [f"text {k % 3}" for k in range(120)]
    made["when"] = [np.datetime64(t, "s") for t in made["when"]]
    items = {"film": list(range(12)), "cover": [picture("red")] * 12}
    columns = COLUMNS | {"query": "ask", "image": "cover"}
    del columns["title"], columns["label"]
    out = tmp_path / "out"
    report = from_huggingface(
        pa.table(made), out, columns, items=pa.table(items), negatives=2, gap=10**4
    )
    dataset, log = load(out), log_of(out)
    assert not dataset.is_feed and len(dataset.queries) == 3
    assert report.items == 12 and report.sampled == sum(log["sampled"]) > 0
    owner = {}
    columns = (log[name] for name in ("user_id", "query", "query_id"))
    for user, query, page in zip(*columns, strict=True):
        assert owner.setdefault(page, (user, query)) == (user, query)
    assert len(owner) > 18


@pytest.mark.parametrize(
    ("source", "columns", "message"),
    [
        ("arrow", {"item_id": "film", "timestamp": "when"}, "user_id is missing"),
        (
            "arrow",
            COLUMNS | {"title": "nome"},
            "no column nome; it has uid, film",
        ),
        (
            "arrow",
            COLUMNS,
            "the table, column stars, row 0: . is not a label; use 0 or 1",
        ),
        ("gone.parquet", COLUMNS, "gone.parquet: cannot be read"),
    ],
)
def test_bad_tables_are_named(source, columns, message, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    source = kinds(tmp_path).get(source, source)
    with pytest.raises(DataError, match=message):
        from_huggingface(source, tmp_path / "out", columns)
