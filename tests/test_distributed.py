"""Several ranks do what one does: real processes, joined by gloo."""

import dataclasses
import json
import multiprocessing
import os
import re
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow.parquet import read_table, write_table
from torch import Tensor

from lemur_mini import checkpoints, continuing, pipeline, training
from lemur_mini.checkpoints import CheckpointError
from lemur_mini.config import BASELINE, Config
from lemur_mini.data.schema import IMPRESSIONS, ITEMS
from lemur_mini.memory_bank import NEVER
from lemur_mini.parallel import ranks
from lemur_mini.parallel.process import RankProcess, process_of, scaled
from lemur_mini.parallel.ranks import ALONE, RankError, Ranks
from lemur_mini.parallel.sharded import Sharded
from lemur_mini.pipeline import Prepared
from lemur_mini.training import Run, make_model, train_step

CPU = torch.device("cpu")
CLOSE = {"rtol": 1e-3, "atol": 2e-6}
SLACK = {"rtol": 0.0, "atol": 2e-4}  # after some steps; one step of the ids is 1e-2


# --- helpers -------------------------------------------------------------------------


def free_port() -> str:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return str(place.getsockname()[1])


def rank_of(path, rank: int, size: int, port: str, sharded: bool, job, arguments):
    """What one process does: join the others, do the job, keep what it gives."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_RANK": str(rank)}
    os.environ.update(place, RANK=str(rank), WORLD_SIZE=str(size))
    torch.set_num_threads(1)
    mine, _ = ranks.join(CPU, sharded)
    with mine.together():
        torch.save(job(mine, *arguments), path / f"{rank}.pt")


def together(path, size: int, job, *arguments, sharded: bool = False) -> list:
    """What `job(ranks, *arguments)` gives on each of `size` ranks."""
    path = path / f"{job.__name__}-{size}-{sharded}"
    path.mkdir(exist_ok=True)
    linux = sys.platform == "linux"  # forking imports nothing again
    context = multiprocessing.get_context("fork" if linux else "spawn")
    port, started = free_port(), []
    for rank in range(size):
        parts = (path, rank, size, port, sharded, job, arguments)
        started.append(context.Process(target=rank_of, args=parts))
        started[-1].start()
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0] * size
    return [torch.load(path / f"{rank}.pt") for rank in range(size)]


def whole_bank(model) -> dict[str, Tensor]:
    rows = torch.arange(model.sizes.documents)
    pair = model.bank.fetch(rows, model.bank.vectors, model.bank.written)
    return dict(zip(("vectors", "written"), pair, strict=True))


def whole_tables(model) -> dict[str, Tensor]:
    """Of ids that learn sparsely: weights and sums, wherever their rows are."""
    out = {}
    for name, table in model.ids.items():
        if table.sparse:
            pair = table.weight.data, table.squares
            if isinstance(table, Sharded):
                pair = table.fetch(torch.arange(table.total), *pair)
            out |= {f"{name}.weight": pair[0], f"{name}.squares": pair[1]}
    return {name: part.clone() for name, part in out.items()}


def state(run: Run) -> dict:
    """All that must be the same on one rank and on many."""
    tables = whole_tables(run.model)
    named = [p for p in run.model.named_parameters() if not (tables and "ids." in p[0])]
    out = {
        "weights": {k: v.detach().clone() for k, v in run.model.state_dict().items()},
        "gradients": {k: v.grad.clone() for k, v in named if v.grad is not None},
    }
    if tables:
        out["weights"] = {
            k: v for k, v in out["weights"].items() if not k.startswith("ids.")
        } | tables
    if run.config.has_content:
        out["bank"] = whole_bank(run.model)
        out["weights"] = {
            k: v for k, v in out["weights"].items() if not k.startswith("bank.")
        }
    return out


def steps(ranks: Ranks, prepared: Prepared, variants: dict, index) -> dict:
    """Losses, gradients, weights and bank after each of some steps, by variant."""
    out = {}
    for name, (config, feed) in variants.items():
        sizes = replace(prepared.sizes, feed=feed)
        process = process_of(ranks)
        model = make_model(config, sizes, 0, CPU, process.build).train()
        run = process.wrap(Run(model, prepared.features, 0, total=9))
        out[name] = []
        for pages in index:
            run.losses, losses = caught(run.losses)
            batch = prepared.pages.batch(np.asarray(pages), config.history_long)
            train_step(run, batch)
            shown = torch.stack(
                [getattr(losses[0], k) for k in ("total", "ctr", "sqdc")]
            )
            out[name].append(state(run) | {"losses": ranks.mean(shown.detach())})
    return out


def caught(call):
    """The same function, and the list of what it returns."""
    kept = []
    call = getattr(call, "plain", call)

    def catching(*arguments):
        kept.append(call(*arguments))
        return kept[-1]

    catching.plain = call
    return catching, kept


# --- parts, without other processes ---------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
def test_every_thing_belongs_to_one_rank(count):
    things, found = list(range(count)), []
    for rank in range(3):
        mine = things[Ranks(rank, 3).own(count)]
        assert len(mine) >= 1  # one to fill in where there are fewer than ranks
        found += mine if rank < count else []
    assert sorted(found) == things


def test_weighted_parts_of_ranks_make_the_mean_over_all():
    mask = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)) > 0.4
    loss = torch.randn(5, 4)
    total = 0.0
    for rank in range(7):
        ranks = Ranks(rank, 7)
        own = ranks.own(5)
        part = loss[own][mask[own]].sum() / mask.sum()
        total += ranks.weight(5) * part / 7
    torch.testing.assert_close(total, loss[mask].mean())


def test_alone_nothing_is_done_to_anything():
    x = torch.randn(3, 2)
    assert ALONE.gather(x, 3) is x and x[ALONE.own(3)].data_ptr() == x.data_ptr()
    assert ALONE.weight(3) == 1.0 and torch.equal(ALONE.mean(x), x)


def test_more_ranks_than_gpus_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RankError, match="a GPU for every rank, and here are 1; start"):
        ranks.join(torch.device("cuda"))
    with pytest.raises(RankError, match="--device cpu"):
        ranks.join(torch.device("mps"))


# --- N ranks do what one does --------------------------------------------------------

VARIANTS = {
    "full": {},
    "half": dict(forward_share=0.5, backward_share=0.5),
    "p over q": dict(forward_share=0.8, backward_share=0.3),
    "baseline": dict(groups=BASELINE),
    "history gradient": dict(history_gradient=True),
    "cic, experts": dict(cic_weight=0.1, experts=2, expert_l1=0.1),
    "positives": dict(sqdc_negatives="positives", stop_gradient=True),
    "adagrad": dict(id_optimizer="adagrad", cic_weight=0.1),
    "adagrad, ids": dict(id_optimizer="adagrad", groups=BASELINE),
    "feed": dict(
        feed_query="pooled", feed_contrast="positives", id_dropout=0.3, sqdc_head=True
    ),
}
FEW = ("full", "half", "baseline", "feed", "adagrad")
INDEX = [range(7), range(7, 14), range(14, 16)]  # the last: fewer pages than four ranks


@pytest.fixture(scope="module")
def stepped(prepared, config, tmp_path_factory):
    """`steps` on some ranks, each combination once."""

    @cache
    def run(size: int, sharded: bool = False, names: tuple = tuple(VARIANTS)) -> list:
        variants = {n: (config.replace(**VARIANTS[n]), n == "feed") for n in names}
        arguments = prepared, variants, INDEX
        if size == 1:
            return [steps(ALONE, *arguments)]
        path = tmp_path_factory.mktemp("ranks")
        return together(path, size, steps, *arguments, sharded=sharded)

    return run


def assert_same_step(one: dict, many: dict, first: bool) -> None:
    torch.testing.assert_close(many["losses"], one["losses"], rtol=1e-5, atol=1e-5)
    assert many["gradients"].keys() == one["gradients"].keys()
    close = CLOSE if first else SLACK
    torch.testing.assert_close(many["gradients"], one["gradients"], **close)
    torch.testing.assert_close(many["weights"], one["weights"], **SLACK)
    if "bank" in one:
        torch.testing.assert_close(
            many["bank"]["vectors"], one["bank"]["vectors"], **SLACK
        )
        assert torch.equal(many["bank"]["written"], one["bank"]["written"])


@pytest.mark.slow
@pytest.mark.parametrize(("size", "names"), [(2, tuple(VARIANTS)), (4, FEW)])
def test_steps_on_many_ranks_are_those_on_one(stepped, size, names):
    [one], many = stepped(1), stepped(size, names=names)
    for name in names:
        for step, wanted in enumerate(one[name]):
            assert_same_step(wanted, many[0][name][step], step == 0)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "names"), [(2, tuple(VARIANTS)), (4, FEW)])
def test_all_ranks_hold_the_same_after_every_step(stepped, size, names):
    first, *others = stepped(size, names=names)
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_a_sharded_bank_gives_exactly_what_a_whole_one_gives(stepped, size):
    whole = stepped(size, names=tuple(VARIANTS) if size == 2 else FEW)[0]
    shard = stepped(size, True, FEW)[0]
    for name in FEW:
        torch.testing.assert_close(shard[name], whole[name], rtol=0, atol=0)


# --- the parts on several ranks ------------------------------------------------------


def shares(ranks: Ranks, prepared: Prepared, config: Config) -> dict:
    """Which documents a rank encodes in one step, and what a grown bank holds."""
    build = process_of(ranks).build
    model, rows = make_model(config, prepared.sizes, 0, CPU, build).train(), []
    original = model.document_encoder.forward
    model.document_encoder.forward = lambda features, part, longest: (
        rows.append(part) or original(features, part, longest)
    )
    run = Run(model, prepared.features, 0, total=9)
    batch = prepared.pages.batch(np.arange(12), config.history_long)
    train_step(run, batch)
    before, held = whole_bank(model), len(model.bank.vectors)
    tables = [whole_tables(model)]
    for more in (5, 6):
        model.ids["item"].grow(model.sizes.documents + more)
        tables.append(whole_tables(model))
    model.bank.grow(model.sizes.documents + 5)
    grown = replace(model.sizes, documents=model.sizes.documents + 5)
    model.sizes = grown
    age = model.bank.age(batch.unique_items, 3), model.bank.coverage(batch.history)
    return {"rows": torch.cat(rows), "held": held, "before": before} | {
        "unique": batch.unique_items,
        "grown": whole_bank(model),
        "age": age,
        "tables": tables,
    }


@pytest.fixture(scope="module")
def shared(prepared, config, tmp_path_factory):
    path = tmp_path_factory.mktemp("shares")
    config = config.replace(id_optimizer="adagrad")
    return together(path, 4, shares, prepared, config, sharded=True)


@pytest.mark.slow
def test_no_document_is_encoded_twice_and_shares_are_alike(shared, prepared):
    rows = torch.cat([part["rows"] for part in shared])
    assert torch.equal(rows.sort().values, shared[0]["unique"])
    length = prepared.features.length
    tokens = [length[part["rows"]].sum() for part in shared]
    assert max(tokens) - min(tokens) <= length[rows].max()


@pytest.mark.slow
def test_a_sharded_bank_grows_and_knows_age_and_coverage(shared, prepared):
    count = prepared.sizes.documents
    assert [part["held"] for part in shared] == [count // 4] * 4
    for part in shared:
        assert torch.equal(part["grown"]["vectors"][:count], part["before"]["vectors"])
        assert (part["grown"]["written"][count:] == NEVER).all()
        age, coverage = part["age"]
        assert (age == 3).all() and len(age) == len(part["unique"])
        assert coverage == shared[0]["age"][1]


@pytest.mark.slow
def test_a_sharded_table_grows_by_rows_like_the_unknown(shared, prepared):
    for part in shared:
        first, *grown = (each["item.weight"] for each in part["tables"])
        for more, weight in zip((4, 5), grown, strict=True):  # row 0 is the unknown
            assert torch.equal(weight, torch.cat([first, first[:1].expand(more, -1)]))
        sums = part["tables"][-1]["item.squares"]
        assert (sums[: len(first)] > 0).any() and not sums[len(first) :].any()


def test_a_batch_that_grows_with_ranks_and_its_rate(config):
    found = scaled(config.replace(batch_pages=4, learning_rate=0.01), 4)
    assert (found.batch_pages, found.learning_rate) == (16, 0.02)
    assert scaled(config, 1) == config


# --- checkpoints ---------------------------------------------------------------------

UNTIL = 36  # pages: nine steps of four


def fit(ranks: Ranks, prepared: Prepared, config: Config, path=None, stop=None) -> dict:
    """Train, from the checkpoint at `path` where there is one, and stop before a step.
    What the run ends with, and its scores of later pages."""

    class Stopped(Exception):
        pass

    def step(run, batch):
        if run.step == stop:
            raise Stopped
        return train_step(run, batch)

    with pytest.MonkeyPatch.context() as patch, suppress(Stopped):
        patch.setattr(training, "train_step", step)
        until = int(prepared.pages.start[UNTIL])
        run = pipeline.fit(
            prepared,
            config,
            0,
            until,
            path,
            path is not None,
            process=process_of(ranks),
        )
        index = np.arange(UNTIL, UNTIL + 6)
        score = training.predict(run.model, prepared.features, prepared.pages, index)[1]
        log = [row["ctr"] for row in run.log]
        return state(run) | {"score": torch.from_numpy(score), "log": log}
    return {}


def sampled(config: Config) -> Config:
    return config.replace(forward_share=0.6, backward_share=0.4, checkpoint_every=3)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["replicated", "sharded", "tables"])
def test_a_checkpoint_goes_on_on_other_numbers_of_ranks(
    prepared, config, tmp_path, form
):
    config, path = sampled(config), tmp_path / "model.safetensors"
    if form == "tables":
        config = config.replace(id_optimizer="adagrad")
    wanted = fit(ALONE, prepared, config)
    sharded = form == "sharded"
    together(tmp_path, 4, fit, prepared, config, path, 5, sharded=sharded)
    assert checkpoints.read(path)[0]["step"] == 3
    found = together(tmp_path, 2, fit, prepared, config, path, 8, sharded=sharded)
    assert found == [{}, {}] and checkpoints.read(path)[0]["step"] == 6
    last = fit(ALONE, prepared, config, path)  # sharded or not: one rank takes it whole
    names = {"model.safetensors", *(f"fit-{n}-{sharded}" for n in (2, 4))}
    assert {entry.name for entry in tmp_path.iterdir()} == names
    assert last["log"] == pytest.approx(wanted["log"], abs=1e-5)
    torch.testing.assert_close(last["score"], wanted["score"], rtol=0, atol=1e-4)
    torch.testing.assert_close(last["bank"], wanted["bank"], rtol=0, atol=2e-3)


def saved_shards(ranks: Ranks, prepared: Prepared, config: Config, path) -> dict:
    """Train and save on some ranks; the same once more, from what was saved."""
    until = int(prepared.pages.start[UNTIL])
    arguments = prepared, config, 0, until, path
    process = process_of(ranks)
    run = pipeline.fit(*arguments, process=process)
    again = pipeline.fit(*arguments, resume=True, process=process)
    return {"first": state(run), "again": state(again)}


@pytest.mark.slow
def test_a_sharded_checkpoint_is_safetensors_without_pickle(prepared, config, tmp_path):
    path = tmp_path / "model.safetensors"
    found = together(tmp_path, 3, saved_shards, prepared, config, path, sharded=True)
    first, again = found[0]["first"], found[0]["again"]
    for part in ("weights", "bank"):
        torch.testing.assert_close(again[part], first[part], rtol=0, atol=0)
    [folder] = tmp_path.glob("model.rows-*")
    files = sorted(folder.iterdir())
    assert len(files) == 3
    rows = 0
    for file in files:  # length, JSON header, then the tensors' bytes and no more
        content = file.read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        del header["__metadata__"]
        ends = max(entry["data_offsets"][1] for entry in header.values())
        assert len(content) == 8 + size + ends
        rows += header["bank.vectors"]["shape"][0]
    assert rows == prepared.sizes.documents
    model = checkpoints.load_model(path)
    torch.testing.assert_close(whole_bank(model), first["bank"], rtol=0, atol=0)
    checkpoints.export(path, tmp_path / "small.safetensors")
    whole = files[1].read_bytes()
    for damage in (whole[:-9], whole[:20], b""):
        files[1].write_bytes(damage)
        with pytest.raises(CheckpointError, match="not all rows .*train again$"):
            checkpoints.load_model(path)
    files[1].unlink()
    with pytest.raises(CheckpointError, match="not all rows .*train again$"):
        checkpoints.load_model(path)
    shutil.rmtree(folder)
    checkpoints.load_model(tmp_path / "small.safetensors")
    with pytest.raises(CheckpointError, match="no file there"):
        checkpoints.load_model(path)


# --- a stream that ranks read together -----------------------------------------------


def streamed(ranks: Ranks, folders: list[Path], config: Config, out: Path) -> dict:
    """Begin on the first folder, go on with the others; batches, weights and bank."""
    told, original = [], training.train_step

    def step(run, batch):
        told.append({k: v for k, v in vars(batch).items() if v is not None})
        return original(run, batch)

    more = {"process": process_of(ranks), "deal": ranks.deal(), "longest": 3600}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_step", step)
        run = continuing.begin(folders[0], config, 0, CPU, out, chunk=150, **more)
        for folder in folders[1:]:
            run = continuing.go_on(out, folder, CPU, chunk=150, **more)
    return {
        "batches": told,
        "tables": whole_tables(run.model),
        "bank": whole_bank(run.model),
        "counts": dataclasses.asdict(run.model.sizes),
    }


@pytest.fixture(scope="module")
def days(folder, tmp_path_factory) -> list[Path]:
    """The first days of the tiny platform: two folders."""
    path, log = tmp_path_factory.mktemp("days"), read_table(folder / IMPRESSIONS)
    for name, low, high in (("one", 0, 400), ("two", 400, 700)):
        (path / name).mkdir()
        write_table(log.slice(low, high - low), path / name / IMPRESSIONS)
        shutil.copy(folder / ITEMS, path / name / ITEMS)
    return [path / "one", path / "two"]


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_a_stream_that_ranks_read_together_is_that_of_one(
    days, config, tmp_path, sharded
):
    groups = (*config.groups, "statistics", "match")
    config = config.replace(id_optimizer="adagrad", groups=groups)
    one = streamed(ALONE, days, config, tmp_path / "one")
    arguments = days, config, tmp_path / "two"
    found = together(tmp_path, 2, streamed, *arguments, sharded=sharded)
    for many in found:
        for wanted, batch in zip(one["batches"], many["batches"], strict=True):
            assert wanted.keys() == batch.keys()
            assert all(torch.equal(wanted[k], batch[k]) for k in wanted)
        assert many["counts"] == one["counts"]
        torch.testing.assert_close(many["tables"], one["tables"], **SLACK)
        torch.testing.assert_close(many["bank"], one["bank"], rtol=0, atol=2e-3)
    assert sorted(p.name for p in (tmp_path / "two").glob("*part*")) == []
    model = checkpoints.load_model(tmp_path / "two" / continuing.NAME)
    torch.testing.assert_close(whole_tables(model), found[0]["tables"], rtol=0, atol=0)


def test_a_stream_of_dense_tables_is_refused_on_several_ranks(days, config, tmp_path):
    process = RankProcess(Ranks(0, 2))
    with pytest.raises(RankError, match="begin it with --config.id-optimizer adagrad"):
        continuing.begin(days[0], config, 0, CPU, tmp_path, process=process)


# --- the command under torchrun ------------------------------------------------------

KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from conftest import CONFIG
from lemur_mini import __main__, training
__main__.SCALES["classroom"] = CONFIG.replace(checkpoint_every=3)
original = training.train_step
def step(run, batch):
    if run.step == 5 and run.config.has_content and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return original(run, batch)
training.train_step = step
sys.exit(__main__.main())
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows kills in other ways")
def test_a_killed_rank_ends_the_run_and_its_checkpoint_goes_on(
    prepared, config, folder, tmp_path
):
    script, out = tmp_path / "killed.py", tmp_path / "out"
    script.write_text(KILLED.format(tests=str(Path(__file__).parent)), "utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", free_port(), str(script), "--device", "cpu"]
    command += ["--data", str(folder), "--out", str(out), "--numbers", "off"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if "lemur_mini: " in line]
    assert len(said) == 1, done.stderr
    assert re.fullmatch(
        r"lemur_mini: a rank is gone \(.+\); --resume goes on from the last "
        r"checkpoint, on any number of ranks",
        said[0],
    )
    assert done.stdout.count("reading ") == 1  # rank 0 alone prints
    path, config = out / "lemur.safetensors", config.replace(checkpoint_every=3)
    assert checkpoints.read(path)[0]["step"] == 3
    until = prepared.dataset.test_start
    wanted = pipeline.fit(prepared, config, 0, until)
    found = pipeline.fit(prepared, config, 0, until, path, True)
    assert [r["ctr"] for r in found.log] == pytest.approx(
        [r["ctr"] for r in wanted.log], abs=1e-5
    )
    torch.testing.assert_close(
        whole_bank(found.model), whole_bank(wanted.model), rtol=0, atol=5e-3
    )
