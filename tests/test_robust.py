"""Kills, full disks, damaged files, endless titles: nothing is lost or goes unsaid."""

import errno
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import traceback
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageFile
from safetensors.torch import save_file

from lemur_mini import checkpoints, files, pipeline, plots
from lemur_mini.__main__ import main
from lemur_mini.checkpoints import CheckpointError
from lemur_mini.data.features import UNREADABLE, decode, make_features, make_tokenizer
from lemur_mini.data.fingerprint import Fingerprint
from lemur_mini.data.loading import load
from lemur_mini.data.schema import DataError
from lemur_mini.reproduce import claims, runs
from lemur_mini.training import Run, make_model
from tests.conftest import CONFIG

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parent.parent
DATA = Fingerprint({"data": "0badcafe"})
FREQUENT = CONFIG.replace(checkpoint_every=1, forward_share=0.5, backward_share=0.25)
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs fork and its limits")


def write(folder: Path, items: dict, log: dict) -> Path:
    folder.mkdir(exist_ok=True)
    for name, columns in (("items", items), ("impressions", log)):
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder


def small_log(ids: list) -> dict:
    """Every item alone on a page, one a second, every other watched, by one user."""
    count = len(ids)
    return {
        "user_id": [0] * count,
        "query_id": list(range(count)),
        "query": [f"query {k}" for k in range(count)],
        "item_id": ids,
        "timestamp": list(range(count)),
        "label": [k % 2 for k in range(count)],
    }


@pytest.fixture
def run(prepared) -> Run:
    """A training that is about to begin."""
    return Run(make_model(CONFIG, prepared.sizes, 0, CPU), prepared.features, 0, 9)


@pytest.fixture
def saved(run, tmp_path) -> Path:
    checkpoints.save(run, tmp_path / "model.safetensors", DATA)
    return tmp_path / "model.safetensors"


def refusal(path: Path) -> str:
    """What `read` says of a checkpoint that it refuses: one line with its name."""
    with pytest.raises(CheckpointError) as error:
        checkpoints.read(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


# --- kill -9 -------------------------------------------------------------------------


def kill_often(folder: Path, out: Path, kills: int = 20) -> dict:
    """Train in forked children that are killed at random moments, and go on; from a
    process that never trained itself, since autograd does not survive a fork."""
    prepared = pipeline.prepare(folder, FREQUENT, CPU)
    until = int(prepared.pages.start[120])  # thirty steps

    def child(path: Path) -> int:
        if pid := os.fork():
            return pid
        try:
            pipeline.fit(prepared, FREQUENT, 0, until, path, resume=True)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    began = time.time()
    assert os.waitpid(child(out / "whole"), 0)[1] == 0
    took, path = time.time() - began, out / "killed"
    moments, steps, seen, parts = random.Random(0), [], 0, 0
    while len(steps) < kills:
        pid = child(path)
        time.sleep(moments.uniform(0, took / 4))
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        if status == 0:  # it was done before: begin again
            path.unlink()
            seen = 0
            continue
        assert os.WTERMSIG(status) == signal.SIGKILL
        parts += (out / "killed.part").is_file()
        before, seen = seen, checkpoints.read(path)[0]["step"] if path.exists() else 0
        assert seen >= before, "a checkpoint was lost"
        steps.append(seen)
    assert os.waitpid(child(path), 0)[1] == 0
    left = sorted(file.name for file in out.iterdir())
    return {"steps": steps, "parts": parts, "left": left, "took": took}


@linux
@pytest.mark.slow
def test_twenty_kills_change_nothing(folder, tmp_path):
    words = [sys.executable, "-m", "tests.test_robust", str(folder), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    steps = report["steps"]
    assert len(steps) == 20 and len({*steps}) > 3, steps  # kills came all along
    assert report["left"] == ["killed", "whole"]
    (facts, tensors), (wanted_facts, wanted) = (
        checkpoints.read(tmp_path / name) for name in ("killed", "whole")
    )
    assert facts | {"seconds": 0} == wanted_facts | {"seconds": 0}
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)


def test_what_a_killed_write_left_behind_is_in_nobodys_way(run, saved):
    part = saved.with_name(saved.name + ".part")
    part.write_bytes(saved.read_bytes()[:1000])
    assert checkpoints.read(saved)[0]["step"] == 0
    run.step = 3
    checkpoints.save(run, saved, DATA)
    assert checkpoints.read(saved)[0]["step"] == 3 and not part.exists()


# --- a full disk ---------------------------------------------------------------------

REMEDY = "); what stood there is kept: free some space or write elsewhere, then resume"


@linux
def test_a_write_beyond_the_limit_leaves_the_old_checkpoint(run, saved):
    """The kernel itself refuses the write, in the middle of the file."""
    import resource

    before, limits = saved.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    run.step = 3
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(CheckpointError) as error:
            checkpoints.save(run, saved, DATA)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    message = str(error.value)
    assert message.startswith(f"{saved}: cannot be written (") and "\n" not in message
    assert "File too large" in message and message.endswith(REMEDY)
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]


def said(capfd):
    """Lines of stderr that are no progress bars."""
    lines = re.split(r"[\r\n]+", capfd.readouterr().err)
    bar = re.compile("step/s|s/step")  # the latter on a machine that is slow
    return [line for line in lines if line.strip() and not bar.search(line)]


@pytest.mark.parametrize("writes", [0, 1, 3, 5])
def test_the_command_on_a_full_disk_says_one_line(
    folder, tmp_path, monkeypatch, capfd, writes
):
    """Full at the n-th file; what was whole before is kept and whole."""
    real, count = files.os.fsync, iter(range(1000))

    def fsync(handle: int) -> None:
        if next(count) >= writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(files.os, "fsync", fsync)
    out = tmp_path / "out"
    command = ["--data", str(folder), "--out", str(out), "--device", "cpu"]
    command += ["--config.checkpoint-every", "20", "--config.batch-pages", "4"]
    assert main(command) == 2
    (line,) = said(capfd)
    assert line.startswith(f"lemur_mini: {out}") and "free some space" in line
    assert "No space left on device" in line
    kept = [path for path in out.iterdir() if path.is_file()]  # not TensorBoard's
    assert all(checkpoints.read(path) for path in kept)
    assert bool(kept) == (writes > 2)  # two are probes of the folder


def test_a_folder_that_cannot_be_made_says_so(run, tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(CheckpointError, match="file.model: cannot be written"):
        checkpoints.save(run, tmp_path / "file" / "model", DATA)


def test_a_loss_that_is_not_finite_is_one_line(folder, tmp_path, monkeypatch, capfd):
    command = ["--data", str(folder), "--out", str(tmp_path / "o"), "--device", "cpu"]
    command += ["--config.learning-rate", "1e30", "--config.batch-pages", "4"]
    assert main(command) == 2
    (line,) = said(capfd)
    assert line.startswith("lemur_mini: ") and line.endswith("; lower learning_rate")


# --- damaged checkpoints and results -------------------------------------------------


def test_a_flipped_bit_anywhere_is_noticed(saved):
    facts, tensors = checkpoints.read(saved)
    raw, random_bits = saved.read_bytes(), random.Random(0)
    places = [random_bits.randrange(len(raw)) for _ in range(60)]
    places += [
        random_bits.randrange(int.from_bytes(raw[:8], "little")) for _ in "x" * 60
    ]
    refused = 0
    for place in places:
        flipped = bytearray(raw)
        flipped[place] ^= 1 << random_bits.randrange(8)
        saved.write_bytes(flipped)
        try:
            again, others = checkpoints.read(saved)
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error)
        else:  # such as 1e-3, now 1E-3
            assert again == facts and tensors.keys() == others.keys()
            assert all(tensors[name].equal(others[name]) for name in tensors)
    assert refused > 110


def test_weights_that_are_not_finite_are_refused(run, saved):
    with torch.no_grad():
        run.model.ids["user"].weight[2, 1] = float("nan")
    before = saved.read_bytes()
    with pytest.raises(FloatingPointError, match="model.ids.user.weight is not finite"):
        checkpoints.save(run, saved, DATA)
    assert saved.read_bytes() == before  # a good one is never replaced by a bad one
    nan = run.model.ids["user"].weight.detach()
    rewritten(saved, lambda _, tensors: tensors.update({"model.ids.user.weight": nan}))
    assert refusal(saved) == (
        "not a whole checkpoint (model.ids.user.weight holds numbers that are not "
        "finite); delete it and train again"
    )


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ({"lemur_mini": "{half"}, "Expecting property name"),
        ({"lemur_mini": "[1, 2]"}, "its header lacks what training writes"),
        ({"lemur_mini": '{"step": 3}'}, "its header lacks what training writes"),
        ({"lemur_mini": "[" * 100_000}, "maximum recursion depth exceeded"),
        ({"other": "x"}, "lemur_mini"),
        (None, "lemur_mini"),
    ],
)
def test_a_header_that_is_none_is_refused(saved, header, problem):
    save_file({"x": torch.ones(2)}, saved, header)
    message = refusal(saved)
    assert message.startswith("not a whole checkpoint (") and problem in message


def test_a_folder_is_no_checkpoint(tmp_path):
    assert refusal(tmp_path).startswith("not a whole checkpoint (")


def rewritten(path: Path, change) -> None:
    """Changes facts and tensors, as another version would write them: no checksum."""
    facts, tensors = checkpoints.read(path)
    change(facts, tensors)
    save_file(tensors, path, {"lemur_mini": json.dumps(facts)})


def test_files_without_a_checksum_are_still_read(saved):
    rewritten(saved, lambda facts, tensors: facts.update(step=5))
    assert checkpoints.read(saved)[0]["step"] == 5
    checkpoints.load_model(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda facts, tensors: facts["config"].update(unheard_of=1),
        lambda facts, tensors: facts["sizes"].pop("users"),
        lambda facts, tensors: facts["sizes"].update(users=7),
        lambda facts, tensors: tensors.pop("model.ids.user.weight"),
        lambda facts, tensors: facts.update(config=[]),
    ],
)
def test_a_checkpoint_of_another_version_is_refused(saved, change):
    rewritten(saved, change)
    with pytest.raises(CheckpointError, match="of another version") as error:
        checkpoints.load_model(saved)
    message = str(error.value)
    assert message.endswith("; train again with this one") and "\n" not in message


def test_an_export_serves_and_resumes_nothing(prepared, tmp_path):
    path, shipped = tmp_path / "model", tmp_path / "shipped"
    until = int(prepared.pages.start[8])
    trained = pipeline.fit(prepared, CONFIG, 0, until, path)
    checkpoints.export(path, shipped)
    assert checkpoints.load_model(shipped).config == CONFIG
    fresh = Run(
        make_model(CONFIG, prepared.sizes, 0, CPU), prepared.features, 0, trained.total
    )
    with pytest.raises(CheckpointError, match="exported without its optimiser"):
        checkpoints.resume(shipped, fresh, prepared.fingerprint)
    assert checkpoints.resume(path, fresh, prepared.fingerprint).step == trained.step


@pytest.mark.parametrize("text", ["", '{"config": {"se', "[]", "{}", "null"])
def test_a_half_written_result_is_run_again_and_named(tmp_path, text):
    path = runs.result_path(tmp_path, "lemur", 0)
    path.write_text(text)
    assert not runs.is_done(path, CONFIG, "0badcafe")
    with pytest.raises(DataError) as error:
        claims.load(tmp_path)
    assert str(error.value).startswith(f"{path}: not a whole result (")
    assert str(error.value).endswith("; delete it, and it is run again")


# --- pictures ------------------------------------------------------------------------


def chunk(name: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(name + content)
    return len(content).to_bytes(4, "big") + name + content + crc.to_bytes(4, "big")


def bomb(width: int, height: int) -> bytes:
    """A PNG of zeros: whole, valid, and a thousand times smaller than its pixels."""
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    rows = zlib.compress(bytes(1 << 20), 9)
    head = chunk(b"IHDR", size + bytes([8, 2, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [7_100, 9_600, 50_000])
def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch, side):
    raw = bomb(side, side)
    assert len(raw) < 2000 and Image.open(io.BytesIO(bomb(100, 100))).size == (100, 100)
    monkeypatch.setattr(
        ImageFile.ImageFile, "load", lambda self: pytest.fail("was decoded")
    )
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as some programs set it
    with pytest.raises(ValueError, match=f"{side} x {side} pixels are too many"):
        decode(raw, 32)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes among the files")
def test_a_pipe_or_a_device_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("pipe", "/dev/zero", "."):
        with pytest.raises(UNREADABLE, match="is no file"):
            decode(path, 32, tmp_path)


# --- text, ids, columns --------------------------------------------------------------


def test_titles_of_100_kb_cost_no_time(tmp_path, config):
    """Letters without a space between: what byte pairs are slowest with."""
    letters = np.random.default_rng(0).choice([*"abcdefghij"], (6, 100_000))
    items = {"item_id": [*range(6)], "title": ["".join(row) for row in letters]}
    items["title"][5] = "🦊" * 25_000
    dataset = load(write(tmp_path / "long", items, small_log([*range(6)])))
    began = time.process_time()
    features = make_features(dataset, config, make_tokenizer(dataset, config))
    assert time.process_time() - began < 6  # it was 17 s for them whole
    assert features.length.max() <= 1 + dict(config.field_tokens)["title"]


def test_right_to_left_text_and_emoji_train_like_any_other(tmp_path, config):
    words = [
        "שלום עולם",
        "مرحبا بالعالم",
        "👩‍👩‍👧 🦊🍞",
        "\u202eabc\u202c",
        "naïve 日本語",
    ]
    items = {"item_id": [*range(5)], "title": words}
    log = small_log([*range(5)]) | {"query": words[::-1]}
    prepared = pipeline.prepare(write(tmp_path / "any", items, log), config, CPU)
    rows = {tuple(row) for row in prepared.features.tokens.tolist()}
    assert len(rows) == 5 and len(set(map(tuple, prepared.features.query_tokens))) == 5
    unknown = prepared.tokenizer.unk_token_id
    assert not (prepared.features.tokens == unknown).any(1)[:3].all()
    run = pipeline.fit(prepared, config, 0, prepared.dataset.test_start)
    assert all(p.isfinite().all() for p in run.model.parameters())


def test_ids_are_only_names(tmp_path, config):
    """Numbers, negative numbers or strings: the same log, the same training."""
    names = [lambda k: k, lambda k: -(7**k), "item-{}".format, lambda k: 2**63 - 1 - k]
    logs, weights = [], []
    for place, name in enumerate(names):
        ids = [name(k) for k in range(4)]
        items = {"item_id": ids, "title": ["bread", "levain", "crumb", ""]}
        log = small_log([ids[k] for k in (0, 1, 0, 2, 3, 1)])
        log |= {key: [name(k % 3) for k in range(6)] for key in ("user_id",)}
        log["query_id"] = [name(k) for k in range(6)]
        prepared = pipeline.prepare(
            write(tmp_path / str(place), items, log), config, CPU
        )
        assert prepared.dataset.items.tolist() == ids
        logs.append(prepared.checksum)
        run = pipeline.fit(prepared, config, 0, prepared.dataset.test_start)
        weights.append(run.model.ids["item"].weight)
    assert len(set(logs)) == 1
    assert all(weight.equal(weights[0]) for weight in weights)


def test_more_columns_are_text_or_counted(tmp_path):
    items = {
        "item_id": [0, 1],
        "headline": ["a", None],
        "year": [1999, 2000],
        "created_at": ["2020-01-01", "2021-01-01"],  # never a text to learn from
        "img": [b"\xff\xd8", b"y"],  # not called `image`
    }
    log = small_log([0, 1]) | {"rating": [4, 5], "comment": ["good", "bad"]}
    dataset = load(write(tmp_path / "more", items, log))
    assert list(dataset.texts) == ["headline"]
    assert {k for k in dataset.counts if k.startswith("ignored")} == {
        "ignored column year: type int64: only texts are read",
        "ignored column img: bytes that are not UTF-8",
        "ignored column rating: no column of the schema",
        "ignored column comment: no column of the schema",
    }
    assert dataset.images == [None, None] and dataset.counts["missing image"] == 2


def test_dates_finer_than_a_microsecond_are_times(tmp_path):
    """As pandas writes them: all their digits that float64 holds are kept."""
    log = small_log([0, 1, 2])
    times = [1_700_000_000_123_456_789 + 10**9 * k for k in range(3)]
    log["timestamp"] = pa.array(times, pa.timestamp("ns"))
    dataset = load(write(tmp_path / "ns", {"item_id": [0, 1, 2]}, log))
    assert dataset.log.timestamp.tolist() == [t / 1e9 for t in times]


def test_markup_in_a_caption_is_only_text():
    """Dollars are no formula, and nothing in a title can stop or change a figure."""
    captions = ["$x_", r"$\frac{", "<script>alert(1)</script>", "100 $ and 200 $"]
    figure = plots.covers([None] * 4, captions, r"$\undefined$")
    figure.canvas.draw()
    assert [axes.get_title() for axes in figure.axes] == captions


if __name__ == "__main__":
    print(json.dumps(kill_often(Path(sys.argv[1]), Path(sys.argv[2]))))
