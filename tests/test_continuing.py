"""A log that grows: a stream in two parts, killed, continued, against one in one."""

import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from lemur_mini import checkpoints, continuing, pipeline, training
from lemur_mini.__main__ import main
from lemur_mini.checkpoints import CheckpointError
from lemur_mini.config import Config
from lemur_mini.continuing import begin, go_on
from lemur_mini.data.errors import DataError
from lemur_mini.data.fingerprint import Fingerprint as Parts
from lemur_mini.data.streams import PageStream
from lemur_mini.interrupts import Stopped
from lemur_mini.training import LogError

CPU = torch.device("cpu")
LOG, ITEMS = "impressions.parquet", "items.parquet"
HOUR = 3600  # the tiny platform's sessions are over at once


@pytest.fixture(scope="module")
def small(config) -> Config:
    """Saves often; samples and reads what was shown, as place and step say."""
    return config.replace(
        checkpoint_every=4,
        forward_share=0.6,
        backward_share=0.3,
        sampling_from=0.005,
        history_products=True,
        history_seen=6,
    )


@pytest.fixture(scope="module")
def folder(folder, tmp_path_factory) -> Path:
    """The beginning of the tiny platform: some twenty steps."""
    log = pq.read_table(folder / LOG).slice(0, 700)
    return write(tmp_path_factory.mktemp("short"), log, folder)


@pytest.fixture(scope="module")
def log(folder) -> pa.Table:
    return pq.read_table(folder / LOG)


@pytest.fixture(scope="module")
def border(folder, small) -> int:
    """The time of a session before which whole batches end, and which no session
    crosses."""
    pages = PageStream(folder, small.page_size, small.history_long, HOUR)
    starts, ends = [], []
    for block in pages._blocks():
        starts += block.start.tolist()
        ends += block.log.timestamp[block.rows.max(axis=1)].tolist()
    starts, ends = np.array(starts), np.maximum.accumulate(ends)
    whole = np.arange(small.batch_pages, len(starts), small.batch_pages)
    good = whole[ends[whole - 1] < starts[whole]]
    return int(starts[good[len(good) // 3]])


def write(folder: Path, log: pa.Table, items: pa.Table | Path | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(log, folder / LOG)
    if isinstance(items, Path):
        (folder / ITEMS).write_bytes((items / ITEMS).read_bytes())
    elif items is not None:
        pq.write_table(items, folder / ITEMS)
    return folder


@pytest.fixture(scope="module")
def days(folder, log, border, tmp_path_factory) -> tuple[Path, Path]:
    """The log before the border with all items, and that after it without any."""
    path, old = tmp_path_factory.mktemp("days"), pc.less(log["timestamp"], border)
    first = write(path / "first", log.filter(old), folder)
    return first, write(path / "second", log.filter(pc.invert(old)))


def tensors(out: Path, prefix: str = "model.") -> dict[str, Tensor]:
    found = checkpoints.read(out / continuing.NAME)[1]
    return {k: v for k, v in found.items() if k.startswith(prefix)}


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def start(folder: Path, config: Config, out: Path, **more):
    return begin(folder, config, 0, CPU, out, longest=HOUR, **more)


def proceed(out: Path, folder, **more):
    return go_on(out, folder, CPU, longest=HOUR, **more)


@pytest.fixture(scope="module")
def tokenized(folder, small, tmp_path_factory) -> Path:
    """One run over all days; its tokenizer."""
    out = tmp_path_factory.mktemp("whole")
    start(folder, small, out)
    return out


@pytest.fixture(scope="module")
def first(days, small, tokenized, tmp_path_factory) -> Path:
    """A run over the first days, with the tokenizer of the whole."""
    words = (tokenized / continuing.TOKENIZER).read_bytes()
    (days[0] / continuing.TOKENIZER).write_bytes(words)
    out = tmp_path_factory.mktemp("first")
    start(days[0], small, out)
    return out


@pytest.fixture
def begun(first, tmp_path) -> Path:
    """A copy of it, to go on with."""
    return Path(shutil.copytree(first, tmp_path / "run"))


def test_a_run_in_two_halves_equals_one(days, begun, tokenized):
    before = tensors(begun)
    run = proceed(begun, days[1])
    assert run.step == checkpoints.read(tokenized / continuing.NAME)[0]["step"]
    assert differing(tensors(begun), tensors(tokenized)) == []
    for prefix in ("exp_avg", "past", "data"):
        assert differing(tensors(begun, prefix), tensors(tokenized, prefix)) == []
    assert differing(before, tensors(begun)) != []


class Killed(BaseException):
    """Nothing is written any more, as after kill -9."""


def die_at(monkeypatch, step: int) -> None:
    """When this step is about to run."""
    original = training.train_step

    def dying(run, batch):
        if run.step == step:
            raise Killed
        return original(run, batch)

    monkeypatch.setattr(training, "train_step", dying)


@pytest.mark.parametrize("after", [1, 6, 11])
def test_killed_at_any_step_nothing_is_lost(days, begun, tokenized, monkeypatch, after):
    step = checkpoints.read(begun / continuing.NAME)[0]["step"]
    kept = (begun / continuing.NAME).read_bytes()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, step + after)
        proceed(begun, days[1])
    assert (begun / continuing.NAME).read_bytes() == kept  # yesterday's still serves
    part = continuing.part_file(begun)
    assert part.is_file() == (after > 4)
    if part.is_file():
        at = checkpoints.read(part)[0]["step"]
        assert step + after - 4 <= at <= step + after
    proceed(begun, days[1])
    assert differing(tensors(begun, ""), tensors(tokenized, "")) == []
    assert not part.is_file()


def test_killed_after_the_end_was_written(days, begun, tokenized, monkeypatch):
    """What is left of the part is not taken up again."""
    step = checkpoints.read(begun / continuing.NAME)[0]["step"]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, step + 6)
        proceed(begun, days[1])
    left = continuing.part_file(begun).read_bytes()
    proceed(begun, days[1])
    continuing.part_file(begun).write_bytes(left)
    with pytest.raises(DataError, match="all before .* has been seen"):
        proceed(begun, days[1])
    assert differing(tensors(begun, ""), tensors(tokenized, "")) == []


def test_killed_at_the_beginning(days, folder, small, tokenized, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, 9)
        start(folder, small, tmp_path)
    assert not (tmp_path / continuing.NAME).is_file()
    proceed(tmp_path, folder)
    assert differing(tensors(tmp_path, ""), tensors(tokenized, "")) == []


def test_told_to_stop_it_keeps_its_last_step(days, begun, tokenized, monkeypatch):
    original = training.train_step

    def interrupted(run, batch):
        if run.step % 4 == 3:
            signal.raise_signal(signal.SIGINT)
        return original(run, batch)

    with monkeypatch.context() as patch, pytest.raises(Stopped) as stopped:
        patch.setattr(training, "train_step", interrupted)
        proceed(begun, days[1])
    assert stopped.value.saved == continuing.part_file(begun)
    proceed(begun, days[1])
    assert differing(tensors(begun), tensors(tokenized)) == []


def test_old_and_new_days_in_one_folder(folder, begun, tokenized):
    proceed(begun, folder)
    assert differing(tensors(begun), tensors(tokenized)) == []


def test_another_log_is_not_taken_for_the_one_it_was_stopped_in(
    days, begun, tmp_path, monkeypatch
):
    step = checkpoints.read(begun / continuing.NAME)[0]["step"]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, step + 6)
        proceed(begun, days[1])
    other = pq.read_table(days[1] / LOG)
    label = pa.array(1 - other["label"].to_numpy())
    place = other.column_names.index("label")
    for table in (other.set_column(place, "label", label), other.slice(0, 40)):
        write(tmp_path / "other", table)
        with pytest.raises(LogError, match="trained on other rows than this log holds"):
            proceed(begun, tmp_path / "other")


def halves(log: pa.Table, border: int) -> tuple[pa.Table, pa.Table]:
    old = pc.less(log["timestamp"], border)
    return log.filter(old), log.filter(pc.invert(old))


def test_new_documents_get_rows_and_old_ones_their_content(
    folder, log, small, border, tokenized, tmp_path
):
    """The first catalogue holds what was shown so far, the second what is new."""
    old, new = halves(log, border)
    items = pq.read_table(folder / ITEMS)
    shown = pc.is_in(items["item_id"], old["item_id"].combine_chunks())
    parts = items.filter(shown), items.filter(pc.invert(shown))
    first = write(tmp_path / "first", old, parts[0])
    words = (tokenized / continuing.TOKENIZER).read_bytes()
    (first / continuing.TOKENIZER).write_bytes(words)
    one = write(tmp_path / "one", log, pa.concat_tables(parts))
    (one / continuing.TOKENIZER).write_bytes(words)
    # else the size of a table shows, in the last bit of a norm
    plain = small.replace(clip=1e9)
    start(first, plain, tmp_path / "run")
    proceed(tmp_path / "run", write(tmp_path / "second", new, parts[1]))
    start(one, plain, tmp_path / "whole")
    assert len(parts[1]) > 5
    assert differing(tensors(tmp_path / "run"), tensors(tmp_path / "whole")) == []


def test_moments_of_new_rows_begin_at_zero(days, begun, config):
    facts, found = checkpoints.read(begun / continuing.NAME)
    model = checkpoints.load_model(begun / continuing.NAME)
    run = training.Run(model, None, 0, 1)
    checkpoints.restore(
        run, begun, facts | {"seed": 0, "total": 1}, found, Parts(facts["parts"])
    )
    old = model.ids["user"].weight
    size = len(old)
    run.grow(users=size + 9)
    new = model.ids["user"].weight
    assert len(new) == size + 10 and torch.equal(new[:size], old)
    assert torch.equal(new[size:], old[:1].expand(10, -1))
    assert any(
        p is new for group in run.optimizer.param_groups for p in group["params"]
    )
    for name in ("exp_avg", "exp_avg_sq"):
        moment = run.optimizer.state[new][name]
        assert torch.equal(moment[:size], found[f"{name}.ids.user.weight"])
        assert not moment[size:].any()


def test_a_run_that_was_trained_on_a_table_goes_on(folder, config, tmp_path):
    """Its rate goes on at a tenth; its users keep their rows, histories go on."""
    pipeline.train(folder, config, device="cpu", checkpoint=tmp_path / continuing.NAME)
    prepared = pipeline.prepare(folder, config, CPU)
    words = prepared.tokenizer.backend_tokenizer.to_str()
    (tmp_path / continuing.TOKENIZER).write_text(words, "utf-8")
    facts, before = checkpoints.read(tmp_path / continuing.NAME)
    run = proceed(tmp_path, folder)
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(
        0.1 * config.learning_rate * config.id_lr_multiplier
    )
    rest = prepared.pages.cut_at(prepared.dataset.test_start)
    index = rest.between(prepared.dataset.test_start, None)
    assert run.step == facts["step"] + -(-len(index) // config.batch_pages)
    checkpoints.load_model(tmp_path / continuing.NAME, data=prepared.fingerprint)
    pages = PageStream(
        folder,
        config.page_size,
        config.history_long,
        past=checkpoints.part_of(facts, before).past,
        known=prepared.fingerprint.names,
        items=prepared.dataset.items,
    )
    for found, low in zip(pages.stream(4), range(0, len(index), 4), strict=True):
        wanted = rest.batch(index[low : low + 4], config.history_long)
        assert torch.equal(found.history, wanted.history)
        assert torch.equal(found.user, wanted.user)
        assert torch.equal(found.query, wanted.query)


# --- what does not belong together ---------------------------------------------------


def refused(out: Path, match: str, call, error=(DataError, CheckpointError)) -> None:
    """One line, and nothing is written or left."""
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(error, match=match) as said:
        call()
    assert len(str(said.value).splitlines()) == 1
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_a_log_that_ends_before_the_run(days, begun):
    refused(begun, "all before .* give the days after", lambda: proceed(begun, days[0]))


def test_another_tokenizer(days, begun, tmp_path, folder, config):
    other = pipeline.prepare(folder, config.replace(vocabulary=600), CPU).tokenizer
    new = write(tmp_path / "new", pq.read_table(days[1] / LOG))
    words = other.backend_tokenizer.to_str()
    (new / continuing.TOKENIZER).write_text(words, "utf-8")
    refused(begun, "another tokenizer than the run", lambda: proceed(begun, new))
    (begun / continuing.TOKENIZER).unlink()
    refused(begun, "tokenizer.json: not found", lambda: proceed(begun, days[1]))


@pytest.mark.parametrize("column", ["user_id", "query_id", "item_id"])
def test_ids_of_another_type(days, begun, tmp_path, column):
    table = pq.read_table(days[1] / LOG)
    place, text = table.column_names.index(column), table[column].cast(pa.string())
    new = write(tmp_path / "new", table.set_column(place, column, text))
    refused(begun, f"{column}.*(one type|is not in)", lambda: proceed(begun, new))


def test_a_search_run_and_a_feed(days, begun, tmp_path):
    table = pq.read_table(days[1] / LOG)
    names = ["session_id" if n == "query_id" else n for n in table.column_names]
    feed = write(tmp_path / "new", table.rename_columns(names).drop_columns("query"))
    refused(begun, "kind search .now feed", lambda: proceed(begun, feed))


def test_other_text_fields(days, begun, tmp_path, folder):
    items = pq.read_table(folder / ITEMS).drop_columns("title")
    new = write(tmp_path / "new", pq.read_table(days[1] / LOG), items)
    refused(begun, "text fields are .* before", lambda: proceed(begun, new))


def test_a_document_that_is_another_one_now(days, begun, tmp_path, folder):
    items = pq.read_table(folder / ITEMS)
    titles = pa.array(["quite another title"] * len(items))
    items = items.set_column(items.column_names.index("title"), "title", titles)
    new = write(tmp_path / "new", pq.read_table(days[1] / LOG), items)
    refused(begun, "has another text or picture", lambda: proceed(begun, new))


def test_another_configuration_from_the_command_line(days, begun, capsys):
    arguments = ["--continue", str(begun), "--data", str(days[1]), "--device", "cpu"]
    kept = (begun / continuing.NAME).read_bytes()
    assert main([*arguments, "--config.width", "48"]) == 2
    assert "trained with width 16 (now 48)" in capsys.readouterr().err
    assert (begun / continuing.NAME).read_bytes() == kept
    for own in (["--numbers", "on"], ["--seed", "3"], ["--stream"]):
        assert main([*arguments, *own]) == 2
        said = capsys.readouterr().err
        assert f"keeps the {own[0][2:]} of the run; leave {own[0]} out" in said
    assert (begun / continuing.NAME).read_bytes() == kept
    assert main(arguments) == 0
    assert "lemur.safetensors" in capsys.readouterr().out


def test_what_is_no_run(days, folder, small, tmp_path):
    match = "no checkpoint there; train first"
    refused(tmp_path, match, lambda: proceed(tmp_path, days[1]))
    stages = small.replace(two_stage=1)
    refused(tmp_path, "two_stage needs many", lambda: start(folder, stages, tmp_path))
