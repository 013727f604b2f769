"""Costs: parts add up, bytes are what they are, no loop over ids, benchmarks exist."""

import ast
import importlib
import inspect
import json
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lemur_mini import memory_bank, model
from lemur_mini.config import SCALES
from lemur_mini.cost import accounting, roofline
from lemur_mini.reproduce import tables
from lemur_mini.training import Run, make_model, step_options, train_step
from tests.benchmarks import operations
from tests.benchmarks.operations import Operations

CPU = torch.device("cpu")
NAMES = importlib.import_module("tests.benchmarks.__main__").NAMES


def test_bytes_of_a_product_a_gather_and_a_view():
    a, b = torch.zeros(8, 4), torch.zeros(4, 16)
    with roofline.ByteCounter() as moved:
        a.view(4, 8).T  # noqa: B018
        a @ b
    assert moved.total == 4 * (8 * 4 + 4 * 16 + 8 * 16)
    table, rows = torch.zeros(1000, 4), torch.arange(3)
    with roofline.ByteCounter() as moved:
        table.index_select(0, rows)
    assert moved.total == 4 * (2 * 3 * 4) + 8 * 3  # not the table's thousand rows
    with roofline.ByteCounter() as moved:
        table.index_copy_(0, rows, torch.zeros(3, 4))
    assert moved.total == 4 * (2 * 3 * 4) + 8 * 3


@pytest.fixture
def started(config, prepared):
    """A run on the tiny platform with a full bank, and its last batch."""
    lemur = make_model(config, prepared.sizes, 0, CPU).train()
    lemur.bank.written.zero_()
    index = prepared.pages.between(None, prepared.dataset.test_start)[
        -config.batch_pages :
    ]
    batch = prepared.pages.batch(index, config.history_long)
    return Run(lemur, prepared.features, 0, total=10_001, step=1), batch


def test_parts_add_up_to_the_step(started):
    """Taken apart, the step does the same work: nothing is left out, nothing twice."""
    run, batch = started
    split = roofline.split(run.model, batch, run.features, run)
    roof = {"gflops_per_second": 1.0, "gigabytes_per_second": 1.0}
    lines = roofline.by_part(split, CPU, roof)
    with FlopCounterMode(display=False) as whole:
        planned = step_options(run, batch)
        run.model.losses(batch, run.features, planned).total.backward()
    parts = sum(line["gflops"] for line in lines)
    assert parts == pytest.approx(whole.get_total_flops() / 1e9, rel=0.02)
    assert all(line["seconds"] > 0 for line in lines if "backward" not in line["part"])
    best = max(lines[0]["gflops"], lines[0]["gigabytes"])
    assert lines[0]["reached"] == pytest.approx(best / lines[0]["seconds"])


@pytest.mark.slow
def test_parts_of_the_paper_scale_add_up_to_its_table(capsys):
    accounting.main(["--scale", "paper", "--parts", "--json"])
    found = json.loads(capsys.readouterr().out)
    total = sum(line["gflops"] for line in found["parts"])
    counted = accounting.count(SCALES["paper"])["gflops"]["none"]
    assert total == pytest.approx(counted, rel=0.01)
    accounting.print_parts(found)
    assert "encode, backward" in capsys.readouterr().out


def test_a_read_is_one_pass_and_loops_over_no_ids():
    """No Python loop in what a step does with ids; the encoder's goes over chunks."""
    for thing in (
        memory_bank.MemoryBank.read,
        memory_bank.MemoryBank.write,
        model.Lemur.encode_and_write,
        model.Lemur.history,
        model.Lemur.encode_queries,
        model.Lemur.losses,
    ):
        tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(thing)))
        loops = (ast.For, ast.While, ast.comprehension)
        assert not any(isinstance(node, loops) for node in ast.walk(tree)), thing


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_can_run_and_has_goals_that_read(name):
    assert callable(importlib.import_module(f"tests.benchmarks.{name}").main)
    path = tables.RESULTS / "cost" / f"{name}.json"
    if not path.is_file():
        pytest.skip("no result yet: it needs a GPU, or the peers installed")
    stored = json.loads(path.read_text("utf-8"))
    assert stored["command"].startswith(f"python -m tests.benchmarks.{name}")
    assert {"device", "date", "versions", "facts"} <= set(stored)
    for row in stored["rows"]:
        assert tables.met(row["measured"], row["goal"]) in ("", "met", "missed")


@pytest.mark.parametrize(
    ("value", "goal", "verdict"),
    [(1.3, "<= 1.3", "met"), (1.31, "<= 1.3", "missed"), (99, ">= 100", "missed"),
     (100, ">= 100", "met"), (5, "", ""), (None, "<= 20", "")],
)  # fmt: skip
def test_verdicts_of_goals(value, goal, verdict):
    assert tables.met(value, goal) == verdict


@pytest.mark.parametrize(
    ("pages", "p", "q", "wanted"),
    [
        (4, 1.0, 1.0, ["tolist"]),  # lengths of what is encoded, for all chunks at once
        (16, 1.0, 1.0, ["tolist"]),
        # sampling: how many the bank lacks; lengths of a second pass if there is one
        (4, 0.2, 0.2, ["_local_scalar_dense", "tolist"]),
        (4, 0.5, 0.2, ["_local_scalar_dense", "tolist", "tolist"]),
    ],
)
def test_a_step_waits_for_lengths_alone(config, prepared, pages, p, q, wanted):
    """However many documents or chunks there are. Distinct queries and documents are
    found before the batch is on its device; padding and negatives weigh 0."""
    used = config.replace(
        batch_pages=pages, forward_share=p, backward_share=q, encode_tokens=200
    )
    lemur = make_model(used, prepared.sizes, 0, CPU).train()
    lemur.bank.written.zero_()
    batch = prepared.pages.batch(np.arange(pages) + 100, used.history_long)
    lengths = prepared.features.length[batch.unique_items].sort().values.tolist()
    chunks = len(model.chunk_ends(lengths, used.encode_tokens))
    assert chunks > 1 and (chunks > 3) == (pages == 16)
    with Operations() as found:
        train_step(Run(lemur, prepared.features, 0, total=101, step=1), batch)
    assert found.waits == Counter(wanted)


def test_operations_of_a_step_do_not_grow_with_its_pages(config, prepared):
    """What a budget of tokens cuts is one chunk, however many documents there are."""
    used = config.replace(encode_tokens=10**6)
    few, many = (
        operations.measure(prepared, used.replace(batch_pages=pages), 100)
        for pages in (4, 64)
    )
    assert many.done.total() < 1.1 * few.done.total()
    assert many.waits == few.waits == {"tolist": 1}
    cut = operations.measure(prepared, used.replace(encode_tokens=200), 100)
    assert cut.done.total() > many.done.total()
