"""Any git history as a search log, against a naive reading of the same history."""

import datetime
import io
import json
import os
import subprocess
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lemur_mini.data import DataError, load
from lemur_mini.data.importers import git_walk
from lemur_mini.data.importers.git_commits import in_order
from lemur_mini.data.importers.git_history import from_git_history
from lemur_mini.data.importers.git_words import GROUND, People, subject

START, DAY = 1_500_000_000, 86_400
ANN, BEN = ("Ann Archer", "ann@first.org"), ("Ben Baker", "ben.b@second.net")


@pytest.fixture(autouse=True)
def plain_git(monkeypatch):
    """Git as it is without anybody's settings."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a hook; must not lead astray


def git(folder: Path, *args: str, stdin: bytes = b"") -> bytes:
    env = {k: v for k, v in os.environ.items() if k != "GIT_DIR"}
    command = ["git", "-C", str(folder), *args]
    return subprocess.run(
        command, input=stdin, env=env, check=True, capture_output=True
    ).stdout


def quoted(path: bytes) -> bytes:
    return b'"' + b"".join(b"\\%03o" % byte for byte in path) + b'"'


def commit(subject, files=None, who=ANN, day=0, **more) -> dict:
    """files: path -> bytes, (mode, bytes), or None for what is deleted."""
    return {"say": subject, "files": files or {}, "who": who, "day": day} | more


def history(folder: Path, commits: list[dict]) -> Path:
    """A repository of these commits, each on the one before (or on commit `parent`,
    counted from 1), made in one process."""
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    out = []
    for mark, c in enumerate(commits, start=1):
        name, mail = (part.encode() for part in c["who"])
        when = b"%d +0000" % c.get("time", START + c["day"] * DAY)
        say = c["say"] if isinstance(c["say"], bytes) else c["say"].encode()
        out += [b"commit refs/heads/main\nmark :%d" % mark]
        out += [b"author %s <%s> %s" % (name, mail, when)]
        out += [b"committer %s <%s> %s" % (name, mail, when)]
        out += [b"data %d\n%s" % (len(say), say)]
        out += [b"from :%d" % c.get("parent", mark - 1)] if mark > 1 else []
        out += [b"merge :%d" % c["merge"]] if "merge" in c else []
        for path, blob in c["files"].items():
            out.append(entry(path if isinstance(path, bytes) else path.encode(), blob))
    git(folder, "fast-import", "--quiet", stdin=b"\n".join([*out, b""]))
    return folder


def entry(path: bytes, blob) -> bytes:
    if blob is None:
        return b"D %s" % quoted(path)
    mode, blob = blob if isinstance(blob, tuple) else (b"100644", blob)
    if mode == b"160000":
        return b"M 160000 %s %s" % (blob, quoted(path))
    return b"M %s inline %s\ndata %d\n%s" % (mode, quoted(path), len(blob), blob)


def busy(days: int = 30, files: int = 12, who=(ANN, BEN)) -> list[dict]:
    """A file is modified every day; file k says `unique<k>`."""
    begin = commit("begin here", {f"d/f{k}.txt": b"unique%d" % k for k in range(files)})
    return [begin] + [
        commit(
            f"change number {day}",
            {f"d/f{day % files}.txt": b"unique%d day%d" % (day % files, day)},
            who[day % len(who)],
            day,
        )
        for day in range(1, days + 1)
    ]


def taken(out: Path) -> tuple[dict, dict, dict]:
    """Pages by query_id: the rows; items by item_id; dataset.json."""
    items = {r["item_id"]: r for r in pq.read_table(out / "items.parquet").to_pylist()}
    pages: dict = {}
    for row in pq.read_table(out / "impressions.parquet").to_pylist():
        pages.setdefault(row["query_id"], []).append(row)
    return pages, items, json.loads((out / "dataset.json").read_text("utf-8"))


def naive(folder: Path) -> list[dict]:
    """Every commit of a straight history: one ls-tree a commit, sets and loops."""
    trees, told, born, first = [{}], [], {}, {}
    for name in git(folder, "rev-list", "--reverse", "HEAD").decode().split():
        tree = {}
        for line in git(folder, "ls-tree", "-r", "-z", name).split(b"\0")[:-1]:
            (_, _, blob), path = line.split(b"\t")[0].split(), line.split(b"\t", 1)[1]
            tree[path] = blob.decode()
        before = trees[-1]
        time = int(git(folder, "show", "-s", "--format=%ct", name))
        for path in tree.keys() - before.keys():
            born.setdefault(path, time)
            first.setdefault(path, git(folder, "cat-file", "blob", tree[path]))
        changed = {
            p for p in tree.keys() | before.keys() if tree.get(p) != before.get(p)
        }
        modified = changed & tree.keys() & before.keys()
        say = git(folder, "show", "-s", "--format=%s", name).decode().strip()
        told.append(
            {"say": say, "time": time, "changed": changed, "before": set(before)}
        )
        told[-1] |= {"modified": modified, "touched": changed & before.keys()}
        trees.append(tree)
    return [t | {"born": born, "first": first} for t in told]


def wild(seed: int) -> list[dict]:
    """Files come, change, go and come back."""
    rng = np.random.default_rng(seed)
    alive, commits, serial = set(), [], 0
    for day in range(70):
        files = {}
        for path in [f"d{k % 3}/name{k}.txt" for k in rng.permutation(25)[:4]]:
            serial += 1
            gone = path in alive and rng.random() < 0.2
            files[path] = None if gone else b"text%d" % serial
            alive ^= {path} if gone or path not in alive else set()
        commits.append(commit(f"wild change {day}", files, (ANN, BEN)[day % 2], day))
    return commits


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_page_is_what_a_naive_reading_says(seed, tmp_path):
    folder = history(tmp_path / "r", wild(seed))
    from_git_history(folder, tmp_path / "out", most_files=3)
    (pages, items, about), told = taken(tmp_path / "out"), naive(folder)
    usable = {k for k, t in enumerate(told) if 0 < len(t["touched"]) <= 3}
    usable = {k for k in usable if told[k]["modified"]}
    usable = {k for k in usable if told[k]["before"] - told[k]["changed"]}
    assert pages.keys() == usable
    assert sum(about["left_out"].values()) + len(pages) == len(told) == 70
    path = {b"".join(told[0]["first"][p].split()): p for p in told[0]["first"]}
    path = {k: path[item["content"].encode()] for k, item in items.items()}
    for number, rows in pages.items():
        t = told[number]
        positives = {path[r["item_id"]] for r in rows if r["label"]}
        negatives = [path[r["item_id"]] for r in rows if not r["label"]]
        assert positives == t["modified"]
        assert len(set(negatives)) == len(negatives)
        assert set(negatives) <= t["before"] - t["changed"]
        wanted = max(7, 4 * len(positives))
        assert len(negatives) == min(wanted, len(t["before"] - t["changed"]))
        assert {r["query"] for r in rows} == {t["say"]}
        assert {r["timestamp"] for r in rows} == {t["time"]}
        assert all(r["sampled"] == (not r["label"]) for r in rows)
    for key, item in items.items():
        assert item["created_at"] == told[0]["born"][path[key]]
        folder_, name = path[key].decode().split("/")
        assert (item["title"], item["folder"]) == (name.replace(".", " "), folder_)


def test_half_are_recent_a_quarter_the_author_s_own(tmp_path):
    """Of 7: 4 from the year's, 2 from the author's own, 1 from all."""
    many = {f"never/n{k}.txt": b"never%d" % k for k in range(200)}
    old = [
        commit(f"old change {k}", {f"old/o{k}.txt": b"b"}, BEN, k) for k in range(30)
    ]
    old = [
        commit("all begins", many | {f"old/o{k}.txt": b"a" for k in range(30)})
    ] + old
    new = [commit("new begins", {f"new/n{k}.txt": b"a" for k in range(30)}, ANN, 500)]
    for day in range(30):
        new.append(commit(f"new one {day}", {f"new/n{day}.txt": b"b"}, ANN, 500 + day))
    new.append(commit("now Ben asks", {"new/n3.txt": b"c"}, BEN, 530))
    new.append(commit("now Ann asks", {"new/n3.txt": b"d"}, ANN, 531))
    folder = history(tmp_path / "r", old + new)
    counts = Counter()
    for seed in range(8):
        from_git_history(folder, tmp_path / "out", seed=seed)
        pages, items, _ = taken(tmp_path / "out")
        for number, who in ((62, "Ben"), (63, "Ann")):
            rows = [r for r in pages[number] if not r["label"]]
            drawn = Counter(items[r["item_id"]]["folder"] for r in rows)
            assert len(rows) == 7
            counts += Counter({(who, place): n for place, n in drawn.items()})
    assert counts["Ben", "new"] >= 8 * 4 and counts["Ben", "old"] >= 8 * 2
    assert counts["Ann", "new"] >= 8 * 6
    assert 0 < counts["Ben", "never"] <= 8 and 0 < counts["Ann", "never"] <= 8


def test_what_is_often_modified_is_often_drawn(tmp_path):
    begin = commit("all begins", {f"f{k}.txt": b"a" for k in range(40)})
    turns = [0, 0, 0, 1] * 30 + list(range(2, 40))
    changes = [commit(f"a change {k}", {f"f{t}.txt": b"%d" % k}, day=1 + k) for k, t in
               enumerate(turns)]  # fmt: skip
    asks = [
        commit(f"who asks {k}", {"f39.txt": b"ask%d" % k}, day=200) for k in range(60)
    ]
    from_git_history(
        history(tmp_path / "r", [begin, *changes, *asks]), tmp_path / "out"
    )
    pages, items, _ = taken(tmp_path / "out")
    rows = [r for rows in pages.values() for r in rows if r["query"][:3] == "who"]
    drawn = Counter(items[r["item_id"]]["title"] for r in rows if not r["label"])
    assert drawn["f0 txt"] > 50 and drawn["f0 txt"] > drawn["f1 txt"] > drawn["f7 txt"]


def test_what_is_left_out_is_counted(tmp_path):
    day = 40
    odd = [
        commit("Merge branch 'x' of y", {"d/f1.txt": b"1"}, day=day),
        commit("a real merge", {"d/f1.txt": b"2"}, day=day, merge=3),
        commit('Revert "a change of mine"', {"d/f1.txt": b"3"}, day=day),
        commit("Undo it\n\nThis reverts commit abc.", {"d/f1.txt": b"4"}, day=day),
        commit("Update all of it", {"d/f1.txt": b"5"}, ("dependabot[bot]", "d@b"), day),
        commit("Bump a from 1.0 to 1.1", {"d/f1.txt": b"6"}, day=day),
        commit("short", {"d/f1.txt": b"7"}, day=day),
        commit("too many at once", {f"d/f{k}.txt": b"8" for k in range(9)}, day=day),
        commit("eight are allowed", {f"d/f{k}.txt": b"9" for k in range(8)}, day=day),
        commit("only a new file", {"new.txt": b"10"}, day=day),
        commit("nothing at all", day=day),
        commit("from the future", {"d/f1.txt": b"11"}, time=2**33),
        commit("from long ago", {"d/f1.txt": b"12"}, time=1000),
        commit("the clock is slow", {"d/f1.txt": b"13"}, day=39),
        commit("all is well again", {"d/f1.txt": b"14"}, day=41),
    ]
    from_git_history(history(tmp_path / "r", busy() + odd), tmp_path / "out")
    pages, _, about = taken(tmp_path / "out")
    assert about["left_out"] == {
        "bot": 2,
        "date in the future or before 1990": 2,
        "merge": 2,
        "modifies no existing file": 3,  # the first commit of all too
        "revert": 2,
        "subject below 8 characters": 1,
        "touches more than 8 existing files": 1,
    }
    assert about["noted"]["dates out of order, corrected"] == 1
    times = {rows[0]["query"]: rows[0]["timestamp"] for rows in pages.values()}
    assert times["the clock is slow"] == START + day * DAY  # not before its parent
    assert times["all is well again"] == START + 41 * DAY
    assert sum(r["label"] for r in pages[39]) == 8 and len(pages[39]) == 8 + 4


def test_nobody_is_named(tmp_path, capsys):
    say = [
        "Fix the parser, patch by Ben Baker",
        "Fix the lexer [Ann Archer & BEN BAKER]",
        "Mail me at someone.else@third.co.uk for more",
        "Fix the tests\nSigned-off-by: Cleo Carter <cleo@fourth.io>",
        "Fix the docs (thanks @ben.b)",
        "Fix more\n\nCo-authored-by: Dora Dunn <dora@fifth.com>",
        "Found by Dora  Dunn and cleo-carter today",
    ]
    who = [(ANN, BEN)[k % 2] for k in range(len(say))]
    by = "AUTHORS/Dora Dunn.txt", b"Ann\n Archer <ann@first.org> wrote %d"
    more = [
        commit(text, {by[0]: by[1] % k, "d/f1.txt": b"%d" % k}, who[k], 50 + k)
        for k, text in enumerate(say)
    ]
    folder = history(tmp_path / "r", busy() + more)
    from_git_history(folder, tmp_path / "out")
    pages, items, about = taken(tmp_path / "out")
    every = json.dumps([pages, items, about], default=str) + capsys.readouterr().out
    for name in ("Archer", "Baker", "Cleo", "Carter", "Dora", "Dunn", "@", "-by"):
        assert name.casefold() not in every.casefold()
    queries = [rows[0]["query"] for rows in pages.values()][30:]
    assert queries[:2] == ["Fix the parser,", "Fix the lexer"]
    assert queries[3:5] == ["Fix the tests", "Fix the docs"]
    assert len({row["user_id"] for rows in pages.values() for row in rows}) == 2
    other = busy()
    other[0]["say"] = "another begin"
    from_git_history(history(tmp_path / "r2", other), tmp_path / "out2")
    users = [{r["user_id"] for rows in p.values() for r in rows} for p in
             (pages, taken(tmp_path / "out2")[0])]  # fmt: skip
    assert not users[0] & users[1]  # the salt is the repository's own


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Use foo() of Ann Archer's module", "Use foo() of 's module"),
        ("Archer, Ann", "Archer, Ann"),  # another order is another name
        ("react@16.2.0 is out", "react@16.2.0 is out"),
        ("@instance of [Active Record]", "@instance of [Active Record]"),
        ("mail odd@host now", "mail now"),
        ("Done [dhh]", "Done"),
        ("dhh is a word", "dhh is a word"),
        ("Tidy up (Ann Archer, dhh)", "Tidy up"),
        ("a\0b", "a b"),
        ("", ""),
    ],
)
def test_texts_without_people(text, left):
    people = People()
    for person in (ANN, ("dhh", "odd@host")):
        people.add(*person)
    assert people.without(text) == left


def test_subjects_are_the_first_paragraph():
    assert subject("\n one\n two \n\nbody") == "one two"
    assert subject("one\nReviewed-by: A B <a@b.c>\ntwo") == "one two"
    assert subject("") == subject("Cc: A B <a@b.c>") == ""


def png(colour=(255, 0, 0, 0), size=(4, 4), mode="RGBA") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, "PNG")
    return out.getvalue()


def test_files_that_are_no_plain_text(tmp_path):
    files = {
        "a.png": png(),
        "big.PNG": png((0, 0, 255), (400, 100), "RGB"),
        "bad.jpg": b"no picture",
        "binary.bin": b"\0\1\2",
        "large.lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "latin.txt": "café crème".encode("latin-1"),
        "wide.txt": "très bien".encode("utf-16"),
        "empty.txt": b"",
        "long.txt": b"word " * 2000,
        "header.txt": b"#" * 5000 + b" after it",
        "link": (b"120000", b"latin.txt"),
        "module": (b"160000", b"1" * 40),
    }
    begin = commit("all begins here", files)
    changed = {k: v for k, v in files.items() if k not in ("link", "module")}
    more = [
        commit(b"caf\xe9 is changed", {name: blob + b"%d" % k}, day=k)
        for k, (name, blob) in enumerate([*changed.items()] * 3)
        if k >= 5
    ]
    more.append(commit("link and module", {"link": (b"120000", b"wide.txt"),
                "module": (b"160000", b"2" * 40)}, day=60))  # fmt: skip
    folder = history(tmp_path / "r", [begin, *more])
    from_git_history(folder, tmp_path / "out")
    pages, items, about = taken(tmp_path / "out")
    by = {item["title"]: item for item in items.values()}
    assert len(by) == 10 and 26 not in pages
    assert {row["query"] for row in pages[1]} == {"café is changed"}
    assert by["latin txt"]["content"] == "café crème"
    assert by["wide txt"]["content"] == "très bien"
    assert by["header txt"]["content"] == "after it"
    assert by["long txt"]["content"] == ("word " * 120).strip()
    for name in ("bad jpg", "binary bin", "large lfs", "empty txt", "a png"):
        assert by[name]["content"] == ""
    assert [k for k, v in by.items() if v["image"]] == ["a png", "big PNG"]
    small, big = (Image.open(io.BytesIO(by[k]["image"])) for k in ("a png", "big PNG"))
    assert small.getpixel((0, 0)) == GROUND and big.getpixel((0, 0)) == (0, 0, 255)
    assert small.size == (4, 4) and big.size == (96, 24)
    noted = about["noted"]
    assert noted["documents with a picture"] == 2
    assert noted["pictures that cannot be read"] == 1
    assert noted["binary documents, without content"] == 2
    assert noted["submodules, no documents"] == noted["symlinks, no documents"] == 1


def test_a_moved_file_is_a_new_document_one_that_returns_is_not(tmp_path):
    move = commit(
        "move a file", {"d/f1.txt": None, "e/g1.txt": b"unique1 day25"}, day=31
    )
    after = [commit("change it there", {"e/g1.txt": b"x"}, day=32)]
    after += [commit("it is gone now", {"d/f2.txt": None}, day=33)]
    after += [commit("it comes back", {"d/f2.txt": b"new words"}, day=34)]
    after += [commit("and is changed", {"d/f2.txt": b"newer"}, day=35)]
    from_git_history(history(tmp_path / "r", [*busy(), move, *after]), tmp_path / "out")
    pages, items, about = taken(tmp_path / "out")
    by = {item["title"]: (key, item) for key, item in items.items()}
    assert by["g1 txt"][1]["created_at"] == START + 31 * DAY
    assert by["f2 txt"][1]["content"] == "unique2"
    positives = {
        n: {r["item_id"] for r in rows if r["label"]} for n, rows in pages.items()
    }
    assert positives[32] == {by["g1 txt"][0]} and positives[35] == {by["f2 txt"][0]}
    assert 31 not in pages and 33 not in pages and 34 not in pages
    shown = {r["item_id"] for n in (32, 34, 35) for r in pages.get(n, [])}
    assert by["f1 txt"][0] not in shown
    assert about["noted"]["files moved unchanged, new documents"] == 1


def test_a_log_is_pinned_by_commit_or_date(tmp_path):
    folder = history(tmp_path / "r", busy(30))
    from_git_history(folder, tmp_path / "whole", seed=3)
    longer = history(tmp_path / "longer", busy(45))
    tip = git(folder, "rev-parse", "HEAD").decode().strip()
    untils = [tip, tip[:10], "main~15", "2017-08-13", datetime.date(2017, 8, 13)]
    untils += ["2017-08-13T02:40:00+00:00"]
    for k, until in enumerate(untils):
        out = tmp_path / f"out{k}"
        from_git_history(longer, out, until=until, seed=3)
        assert taken(out)[0] == taken(tmp_path / "whole")[0]
        assert taken(out)[2]["commit"] == tip
    bare = tmp_path / "bare.git"
    git(tmp_path, "clone", "-q", "--bare", str(folder), str(bare))
    from_git_history(bare, tmp_path / "from_bare", seed=3)
    for name in ("items.parquet", "impressions.parquet"):
        first, again = tmp_path / "whole" / name, tmp_path / "from_bare" / name
        assert first.read_bytes() == again.read_bytes()
    from_git_history(folder, tmp_path / "seed4", seed=4)
    assert taken(tmp_path / "seed4")[0] != taken(tmp_path / "whole")[0]


def test_the_last_positives_are_kept_to_whole_pages(tmp_path):
    commits = busy(60)
    for c in commits[1:]:
        c["files"] |= {"d/f0.txt": c["say"].encode(), "d/f1.txt": c["say"].encode()}
    folder = history(tmp_path / "r", commits)
    from_git_history(folder, tmp_path / "all")
    from_git_history(folder, tmp_path / "some", last=85)
    whole, some = taken(tmp_path / "all")[0], taken(tmp_path / "some")[0]
    labels = [sum(r["label"] for r in rows) for rows in some.values()]
    assert 85 <= sum(labels) < 85 + labels[0] and max(some) == 60
    strip = lambda rows: [(r["query"], r["timestamp"], r["label"]) for r in rows]  # noqa: E731
    assert all(strip(some[k]) == strip(whole[k]) for k in some)
    left = taken(tmp_path / "some")[2]["left_out"]
    assert left["earlier than the last positives"] == 60 - len(some)


def test_branches_are_one_history(tmp_path):
    """What a side branch creates exists for all; what a merge itself brings in is
    published with its first change."""
    more = [  # commits 32 to 37, counted from 1
        commit("on a side branch", {"side.txt": b"a"}, day=31),
        commit("on the main branch", {"d/f1.txt": b"b"}, day=32, parent=31),
        commit("merged", {"side.txt": b"a", "evil.txt": b"a"}, day=33, merge=32),
        commit("side is changed", {"side.txt": b"b"}, day=34),
        commit("evil is changed", {"evil.txt": b"b"}, day=35),
        commit("evil is changed again", {"evil.txt": b"c"}, day=36),
    ]
    from_git_history(history(tmp_path / "r", busy() + more), tmp_path / "out")
    pages, items, about = taken(tmp_path / "out")
    born = {item["title"]: item["created_at"] for item in items.values()}
    assert born["side txt"] == START + 31 * DAY and born["evil txt"] == START + 35 * DAY
    positives = {
        rows[0]["query"]: [items[r["item_id"]]["title"] for r in rows if r["label"]]
        for number, rows in pages.items()
        if number > 30
    }
    assert positives == {
        "on the main branch": ["f1 txt"],
        "side is changed": ["side txt"],
        "evil is changed again": ["evil txt"],
    }
    assert about["noted"] == {"files first seen when modified": 1}


def test_shallow_clones_and_loading(tmp_path):
    folder = history(tmp_path / "r", busy(60))
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth", "40", folder.as_uri(), str(shallow))
    report = from_git_history(shallow, tmp_path / "out")
    assert taken(tmp_path / "out")[2]["shallow"] and report.sessions == 39
    assert not report.leaks
    dataset = load(tmp_path / "out")
    assert len(dataset.items) == 12


ODD = st.text(st.characters(exclude_characters="\0/", codec="utf-8"), max_size=20)


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.tuples(ODD, ODD), min_size=9, max_size=9))
def test_odd_names(tmp_path_factory, pairs):
    paths = [f"{k}{a}/{k}{b}" for k, (a, b) in enumerate(pairs)]
    begin = commit("all begins", {p: b"unique%d" % k for k, p in enumerate(paths)})
    more = [
        commit(f"change number {day}", {paths[day % 9]: b"day%d" % day}, day=day)
        for day in range(1, 28)
    ]
    folder = tmp_path_factory.mktemp("odd")
    from_git_history(history(folder / "r", [begin, *more]), folder / "out")
    pages, items, _ = taken(folder / "out")

    def words(text: str) -> str:
        return " ".join("".join(c if c.isalnum() else " " for c in text).split())

    assert len(items) == 9 and len(pages) == 27
    for item in items.values():
        home, name = paths[int(item["content"].removeprefix("unique"))].split("/")
        if "@" not in home + name:  # may look like an address
            assert (item["title"], item["folder"]) == (words(name), words(home))
    for number, rows in pages.items():
        positive = next(items[r["item_id"]]["content"] for r in rows if r["label"])
        assert positive == f"unique{number % 9}" and len(rows) == 8


def test_names_that_are_not_utf8(tmp_path):
    begin = commit("all begins", {b"caf\xe9 \xff%d.txt" % k: b"a" for k in range(5)})
    more = [commit(f"change number {k}", {b"caf\xe9 \xff%d.txt" % (k % 5): b"%d" % k},
                   day=k) for k in range(25)]  # fmt: skip
    from_git_history(history(tmp_path / "r", [begin, *more]), tmp_path / "out")
    _, items, _ = taken(tmp_path / "out")
    assert [i["title"] for i in items.values()] == [f"café ÿ{k} txt" for k in range(5)]


def wrong(tmp_path, match, folder, **options):
    with pytest.raises(DataError, match=match) as error:
        from_git_history(folder, tmp_path / "out", **options)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_errors_are_one_line_with_a_remedy(tmp_path, monkeypatch):
    folder = history(tmp_path / "r", busy(30))
    (folder / "inside").mkdir()
    git(tmp_path, "init", "-q", "empty")
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth", "1", folder.as_uri(), str(shallow))
    wrong(tmp_path, "no such folder; give", tmp_path / "none")
    wrong(tmp_path, "give the folder that holds .git", tmp_path)
    wrong(tmp_path, "give the folder that holds .git", folder / "inside")
    wrong(tmp_path, "commit first", tmp_path / "empty")
    wrong(tmp_path, "0 of 1 commits.*git fetch --unshallow", shallow)
    wrong(tmp_path, "10 of 11 commits.*give a longer", folder, until="2017-07-24")
    wrong(tmp_path, "give a commit, or a date", folder, until="nowhere")
    wrong(tmp_path, "give a commit, or a date", folder, until="--all")
    wrong(tmp_path, "until: .*; write YYYY-MM-DD", folder, until="2017-02-31")
    wrong(tmp_path, "give a later date", folder, until="2001-01-01")
    wrong(tmp_path, "must be at least 1", folder, last=0)
    wrong(tmp_path, "must be at least 1", folder, most_files=0)
    git(folder, "config", "remote.origin.promisor", "true")
    wrong(tmp_path, "partial clone.*without --filter", folder)
    monkeypatch.setenv("PATH", str(tmp_path))
    wrong(tmp_path, "install git", folder)


def test_a_repository_that_lacks_an_object_is_named(tmp_path):
    folder = history(tmp_path / "r", busy(30))
    for pack in (folder / ".git/objects/pack").glob("*.pack"):
        pack.chmod(0o600)
        pack.write_bytes(pack.read_bytes()[:200])
    wrong(tmp_path, "git .* failed .*clone the repository anew|commit first", folder)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=9))
def test_the_fewest_dates_are_corrected(rows):
    times, usable = zip(*rows, strict=True)
    out, corrected = in_order(times, usable)
    assert out == sorted(out) and len(out) == len(times)
    good = [t for t, u in rows if u]
    longest = max(
        size
        for size in range(len(good) + 1)
        for kept in combinations(good, size)
        if list(kept) == sorted(kept)
    )
    assert corrected == len(good) - longest
    assert (
        sum(t == o for t, o, u in zip(times, out, usable, strict=True) if u) >= longest
    )


def test_drawing_goes_on_where_a_pool_is_empty(tmp_path, monkeypatch):
    """With no luck at all in the pools, every file that is left is found."""
    monkeypatch.setattr(git_walk, "TRIES", 0)
    from_git_history(history(tmp_path / "r", busy(30, files=6)), tmp_path / "out")
    assert {len(rows) for rows in taken(tmp_path / "out")[0].values()} == {6}
