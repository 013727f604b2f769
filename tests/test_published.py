"""Published logs with raw content: golden files in their owners' layouts."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lemur_mini import __main__ as command
from lemur_mini import data
from lemur_mini.data.loading import load
from lemur_mini.data.schema import DataError

START = 1_700_000_000
WORDS = ("river", "clock", "garden", "mirror", "train", "winter")
NAN = float("nan")


def put(folder: Path, name: str, text: str, encoding: str = "utf-8") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding, newline="")


def pictures(folder: Path, names: list) -> None:
    """Solid colours; every fifth is missing."""
    folder.mkdir(parents=True)
    for k, name in enumerate(names):
        if k % 5 != 4:
            raw = io.BytesIO()
            colour = (40 * k % 256, 90 * k % 256, 10)
            Image.new("RGB", (32, 32), colour).save(raw, "JPEG")
            (folder / f"{name}.jpg").write_bytes(raw.getvalue())


def pages(count: int, seed: int) -> list[dict]:
    """Searches of 6 users: 4 results each; a session holds two or three of them."""
    rng = np.random.default_rng(seed)
    out = []
    for k in range(count):
        session, time = k // 3, START + (1000 * seed + k) * 600
        results = []
        for position, note in enumerate(rng.permutation(12)[:4].tolist()):
            click = int(rng.random() < 0.6)
            dwell = float(rng.choice([2.0, 5.0, 9.0, 40.0])) if click else -1.0
            dwell = NAN if not click and position == 3 else dwell
            results.append(
                {
                    "note_idx": note,
                    "position": position,
                    "click": click,
                    "like": 0,
                    "collect": 0,
                    "comment": 0,
                    "share": 0,
                    "page_time": dwell,
                    "search_timestamp": time + position,
                }
            )
        out.append(
            {
                "query": WORDS[int(rng.integers(6))],
                "search_idx": 10_000 * seed + k,
                "session_idx": 10_000 * seed + session,
                "user_idx": session % 6,
                "recent_clicked_note_idxs": [1, 2],
                "search_result_details_with_idx": results,
            }
        )
    return out


def qilin(folder: Path) -> Path:
    for split, seed in (("train", 0), ("test", 1)):
        rows = pages(60 if split == "train" else 12, seed)
        if split == "train":  # clicked, and nobody knows for how long
            rows[0]["search_result_details_with_idx"][0] |= {"click": 1}
            rows[0]["search_result_details_with_idx"][0] |= {"page_time": NAN}
        (folder / f"search_{split}").mkdir(parents=True)
        path = folder / f"search_{split}" / f"{split}-00000-of-00001.parquet"
        pd.DataFrame(rows).to_parquet(path)
        feed = [
            {
                "request_idx": row["search_idx"],
                "user_idx": row["user_idx"],
                "rec_result_details_with_idx": [
                    {k: v for k, v in r.items() if k != "search_timestamp"}
                    for r in row["search_result_details_with_idx"]
                ],
                "request_timestamp": START + (1000 * seed + k) * 600,
            }
            for k, row in enumerate(rows)
        ]
        pd.DataFrame(feed).to_parquet(folder / f"recommendation_{split}.parquet")
    notes = [
        {
            "note_idx": k,
            "note_title": f"{WORDS[k % 6]} {k}",
            "note_content": None if k == 3 else f"about {WORDS[k % 6]}",
            "image_path": [f"image/{k}.jpg", f"image/{k}b.jpg"] if k else [],
            "taxonomy1_id": "t",
            "imp_num": 900 + k,
            "click_num": 90 + k,
        }
        for k in range(14)
        if k != 11  # shown, and not among the notes
    ]
    (folder / "notes").mkdir()
    pd.DataFrame(notes[:7]).to_parquet(folder / "notes" / "part-0.parquet")
    pd.DataFrame(notes[7:]).to_parquet(folder / "notes" / "part-1.parquet")
    pictures(folder / "image", list(range(12)))
    users = {"user_idx": range(5), "gender": list("fmfmf"), "age": [20, 30, 40, 50, 60]}
    users["fans_num"] = [5] * 5
    pd.DataFrame(users).to_parquet(folder / "user_feat.parquet")
    return folder


def kuaisearch(folder: Path) -> Path:
    rng, lines = np.random.default_rng(2), []
    for page in range(60):
        for item in rng.permutation(9)[:4].tolist():
            row = {
                "user_id": page // 3 % 5,
                "session_id": page // 3 % 2 + page // 30 * 2,  # of each user's own
                "time_index": page * 10,
                "query": WORDS[page % 6],
                "target_item_id": f"A{item}",
                "target_item_price": 10.0 * page,
                "user_fan_number": page // 3 % 5,
                "user_follow_number": 65,
                "search_entrance": f"search_entrance_{page % 2}",
                "is_clicked": int(rng.random() < 0.4),
                "is_purchased": 0,
                "recently_clicked_item_ids": ["A1"],
                "recently_purchased_item_ids": [],
                "user_statistical_features": {"user_show_cnt_30d_hist": 0.0},
                "target_item_statistical_features": {"item_click_cnt_30d_hist": 9.0},
                "split": "train" if page < 50 else "test",
            }
            lines.append(json.dumps(row))
    put(folder, "rank.jsonl", "\n".join(lines) + "\n")
    items = [
        {
            "item_id": f"A{k}",
            "item_title": f"红 {WORDS[k % 6]}",
            "brand_name": None if k == 2 else "b",
            "seller_name": "s",
            **{f"category_level{n}_name": f"c{k % n}" for n in (1, 2, 3)},
        }
        for k in (*range(9), 0)  # the first stands twice
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in items]
    put(folder, "items.jsonl", "\n".join(lines))
    return folder


def takes(rows: int = 160) -> list[tuple[int, int, int]]:
    """user, item, unix seconds: nobody takes an item twice."""
    rng = np.random.default_rng(3)
    pairs = rng.permutation(16 * 20)[:rows].tolist()
    return [(p // 20, p % 20, START + 500 * k) for k, p in enumerate(pairs)]


def microlens(folder: Path, size: str = "50k", head: bool = True) -> Path:
    """A BOM and no header in 100k; titles with commas and with quotes."""
    lines = [f"{u},{i},{t * 1000}" for u, i, t in takes()]
    put(
        folder,
        f"MicroLens-{size}_pairs.csv",
        "\n".join(["user,item,timestamp", *lines]),
    )
    titles = [f"{i},{WORDS[i % 6]}, and more {i}" for i in range(20) if i != 7]
    titles[1] = '1,"said ""river"", twice"'
    text = "\r\n".join([*(["item,title"] if head else []), *titles])
    put(folder, f"MicroLens-{size}_titles.csv", text, "utf-8" if head else "utf-8-sig")
    pictures(folder / f"MicroLens-{size}_covers", list(range(20)))
    return folder


def mmctr(folder: Path, labels: bool = False) -> Path:
    rng, folder_rows = np.random.default_rng(4), {"train": 240, "valid": 60, "test": 40}
    folder.mkdir()
    for split, count in folder_rows.items():
        user = np.repeat(rng.integers(0, 12, count // 4), 4)
        rows = {"user_id": user, "item_seq": [[0, 0, 3]] * count}
        rows["item_id"] = rng.integers(1, 20, count)
        rows["likes_level"] = rows["views_level"] = rng.integers(0, 10, count)
        if split != "test" or labels:
            rows["label"] = np.tile([0, 1, 0, 1], count // 4)
        pd.DataFrame(rows).to_parquet(folder / f"{split}.parquet")
    about = {"item_id": range(20), "item_title": [WORDS[k % 6] for k in range(20)]}
    about["item_tags"] = [[1, 2, 3]] * 20
    pd.DataFrame(about).to_parquet(folder / "item_feature.parquet")
    pictures(folder / "item_images", list(range(1, 20)))
    return folder


def pixelrec(folder: Path) -> Path:
    """The item stands first; seven counters stand before the title."""
    lines = [f"i{i},u{u},{t}" for u, i, t in takes()]
    text = "\n".join(["item_id,user_id,timestamp", *lines])
    put(folder, "Pixel200K_interaction.csv", text)
    counters = ("view", "comment", "thumbup", "share", "coin", "favorite", "barrage")
    head = ",".join(["item_id", *(f"{c}_number" for c in counters)])
    lines = [f'i{i},{"9," * 7}{WORDS[i % 6]},t,"a, b"' for i in range(20)]
    put(folder, "item_info.csv", "\n".join([f"{head},title,tag,description", *lines]))
    pictures(folder / "cover", [f"i{i}" for i in range(20)])
    return folder


def ninerec(folder: Path) -> Path:
    lines = [f"u{u},v{i},{t * 1000}" for u, i, t in takes()]
    put(folder, "KU_pair.csv", "\n".join(["user,item,timestamp", *lines]))
    lines = [f'v{i},河 {i},"{WORDS[i % 6]}, {i}"' for i in range(20)]
    put(folder, "KU_item.csv", "\n".join(["item,text zh,text en", *lines]), "utf-8-sig")
    pictures(folder / "KU_cover", [f"v{i}" for i in range(20)])
    return folder


MORE = {"negatives": 2}
LOGS = {  # maker, importer, what it is told, items, items without a cover
    "qilin": (qilin, data.from_qilin, {}, 12, 4),
    "qilin_feed": (qilin, data.from_qilin, {"part": "recommendation"}, 12, 4),
    "kuaisearch": (kuaisearch, data.from_kuaisearch, {}, 9, None),
    "microlens": (microlens, data.from_microlens, MORE, 20, 4),
    "microlens_100k": (
        lambda folder: microlens(folder, "100k", False),
        data.from_microlens,
        MORE,
        20,
        4,
    ),
    "mmctr": (mmctr, data.from_microlens, {}, 19, 3),
    "pixelrec": (pixelrec, data.from_pixelrec, MORE, 20, 4),
    "ninerec": (ninerec, data.from_ninerec, MORE, 20, 4),
}


@pytest.fixture
def brought(request, tmp_path):
    make, importer, more, *_ = LOGS[request.param]
    report = importer(make(tmp_path / "raw"), tmp_path / "out", **more)
    return request.param, report, tmp_path / "out"


def facts_of(out: Path) -> dict:
    return json.loads((out / "dataset.json").read_text("utf-8"))


@pytest.mark.parametrize("brought", LOGS, indirect=True)
def test_golden_files_come_in_with_a_report(brought):
    name, report, out = brought
    _, _, _, items, missing = LOGS[name]
    assert not report.leaks and report.items == items
    assert 0.1 < report.label_rate < 0.9
    assert facts_of(out).get("missing_covers") == missing
    dataset = load(out)
    if missing is not None:
        assert dataset.counts["missing image"] == missing
    assert dataset.is_feed == (name not in ("qilin", "kuaisearch"))
    leaky = {"imp_num", "click_num", "view_number", "likes_level", "views_level"}
    columns = {*pq.read_schema(out / "items.parquet").names}
    assert not leaky & (columns | {*pq.read_schema(out / "impressions.parquet").names})
    if "mmctr" in name or "pixel" in name or "qilin" in name:
        assert leaky & facts_of(out)["refused"].keys()


@pytest.mark.slow
@pytest.mark.parametrize("brought", LOGS, indirect=True)
def test_the_command_ends_in_a_table(brought, tmp_path, capsys):
    _, _, out = brought
    small = {"width": 16, "hidden": 16, "history-long": 8, "history-short": 4}
    small |= {"batch-pages": 8, "vocabulary": 200, "page-size": 4, "id-width": 8}
    options = [part for k, v in small.items() for part in (f"--config.{k}", str(v))]
    rest = ["--out", str(tmp_path / "run"), "--device", "cpu", *options]
    assert command.main(["--data", str(out), *rest]) == 0
    said = capsys.readouterr().out
    assert "AUC" in said and "boosted trees" in said and "written:" in said


def test_dwell_is_the_label_and_what_is_unknown_is_counted(tmp_path):
    folder = qilin(tmp_path / "raw")
    data.from_qilin(folder, tmp_path / "out")
    log = pq.read_table(tmp_path / "out" / "impressions.parquet").to_pylist()
    wanted, dropped, nan, negative = {}, 0, 0, 0
    for row in pages(60, 0) + pages(12, 1):
        for k, result in enumerate(row["search_result_details_with_idx"]):
            dwell, click = result["page_time"], result["click"]
            if row["search_idx"] == 0 and k == 0:
                dwell, click = NAN, 1
            nan, negative = nan + (dwell != dwell), negative + (dwell < 0)
            if click and not dwell >= 0:
                dropped += 1
                continue
            wanted[row["search_idx"], result["note_idx"]] = int(dwell > 5)
    assert {(r["query_id"], r["item_id"]): r["label"] for r in log} == wanted
    facts = facts_of(tmp_path / "out")
    assert facts["dropped_clicks_without_dwell"] == dropped == 1
    assert (facts["dwell_nan"], facts["dwell_negative"]) == (nan, negative)
    assert facts["items_without_metadata"] == 1
    ages = {r["user_id"]: r["user_age"] for r in log}
    assert ages[0] == 20 and ages[5] is None and "user_fans_num" not in log[0]


def test_the_change_rate_is_that_of_a_loop(tmp_path):
    data.from_qilin(qilin(tmp_path / "raw"), tmp_path / "out")
    pairs, changed, last = set(), set(), {}
    for row in pages(60, 0) + pages(12, 1):  # in time order
        pair = row["user_idx"], row["query"]
        pairs.add(pair)
        before = last.get(row["session_idx"])
        if before and before[1] != pair[1]:
            changed.add(before)
        last[row["session_idx"]] = pair
    wanted = len(changed) / len(pairs)
    assert 0 < wanted < 1
    assert facts_of(tmp_path / "out")["query_change_rate"] == pytest.approx(wanted)


def test_titles_are_split_at_the_first_comma(tmp_path):
    for size, head in (("50k", True), ("100k", False)):
        folder = microlens(tmp_path / size, size, head)
        data.from_microlens(folder, tmp_path / f"{size}-out", negatives=1)
        rows = pq.read_table(tmp_path / f"{size}-out" / "items.parquet").to_pylist()
        titles = {row["item_id"]: row["title"] for row in rows}
        assert titles[0] == "river, and more 0"
        assert titles[1] == 'said "river", twice'
        assert titles[7] is None  # taken, and without a title


def test_splits_are_the_periods_where_there_are_no_times(tmp_path):
    data.from_microlens(mmctr(tmp_path / "a"), tmp_path / "hidden")
    facts = facts_of(tmp_path / "hidden")
    assert facts["test_start"] == 240 and facts["test_rows_without_label"] == 40
    data.from_microlens(mmctr(tmp_path / "b", labels=True), tmp_path / "open")
    facts = facts_of(tmp_path / "open")
    assert (facts["valid_start"], facts["test_start"]) == (240, 300)
    assert facts["refused"].keys() == {"likes_level", "views_level", "item_seq"}


def test_sessions_of_two_users_with_one_name_stay_two(tmp_path):
    data.from_kuaisearch(kuaisearch(tmp_path / "raw"), tmp_path / "out")
    log = pq.read_table(tmp_path / "out" / "impressions.parquet")
    given = {n for n in log.column_names if n.startswith(("user_", "context_"))}
    assert given == {"user_id", "user_fans", "user_follows", "context_entrance"}
    refused = facts_of(tmp_path / "out")["refused"]
    assert refused.keys() == {
        f"{k}_statistical_features" for k in ("user", "target_item")
    }
    log = pq.read_table(tmp_path / "out" / "impressions.parquet").to_pylist()
    users: dict = {}
    for row in log:
        users.setdefault(row["session_id"], set()).add(row["user_id"])
    assert all(len(found) == 1 for found in users.values())
    assert len({row["query_id"] for row in log}) == 60


def test_milliseconds_are_seen(tmp_path):
    data.from_ninerec(ninerec(tmp_path / "raw"), tmp_path / "out", negatives=1)
    assert load(tmp_path / "out").log.timestamp[0] == START


REFUSED = {
    "no negatives": (pixelrec, data.from_pixelrec, {}, "positives alone; give neg"),
    "empty": (lambda folder: folder, data.from_qilin, {}, "to be had at huggingface"),
    "other language": (ninerec, data.from_ninerec, {"language": "fr"}, "en or zh"),
    "milliseconds": (qilin, data.from_qilin, {"dwell_unit": "us"}, "use s or ms"),
    "other part": (qilin, data.from_qilin, {"part": "dqa"}, "search or recommend"),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_cannot_be_brought_in_says_why(said, tmp_path):
    make, importer, more, message = REFUSED[said]
    with pytest.raises(DataError, match=message):
        importer(make(tmp_path / "raw"), tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()


def test_dwells_in_milliseconds_are_not_taken_for_seconds(tmp_path):
    folder = qilin(tmp_path / "raw")
    path = folder / "search_train" / "train-00000-of-00001.parquet"
    rows = pages(60, 0)
    for row in rows:
        for result in row["search_result_details_with_idx"]:
            if result["page_time"] > 0:
                result["page_time"] *= 1000
    pd.DataFrame(rows).to_parquet(path)
    with pytest.raises(DataError, match='give dwell_unit="ms"'):
        data.from_qilin(folder, tmp_path / "out")
