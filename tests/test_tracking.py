"""What is told to those who watch a training: what its log is told, and no more."""

import importlib.util
import sys
import time
from types import ModuleType

import numpy as np
import pytest

from lemur_mini import pipeline, tracking
from lemur_mini.training import LOG_EVERY, train


@pytest.fixture
def untrained(prepared, config):
    from lemur_mini.training import Run, make_model

    model = make_model(config, prepared.sizes, 0, prepared.features.tokens.device)
    return Run(model, prepared.features, 0, 50)


def test_it_is_told_what_the_log_is_told(untrained, prepared, config):
    told = []
    index = np.arange(45 * config.batch_pages)
    run = train(untrained, prepared.pages, index, title=None, track=told.append)
    assert told == run.log
    assert [r["step"] for r in told] == list(range(0, run.step, LOG_EVERY))


def test_who_watches_changes_nothing(prepared, config):
    until = int(np.quantile(prepared.dataset.log.timestamp, 0.3))
    told = []
    one = pipeline.fit(prepared, config, 0, until, title=None, track=told.append)
    two = pipeline.fit(prepared, config, 0, until, title=None)
    assert told and one.log == two.log
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert (a == b).all()


class Writer:
    """As torch's SummaryWriter."""

    made: list = []

    def __init__(self, folder: str, purge_step: int):
        self.folder, self.purge, self.values, self.flushed = folder, purge_step, [], 0
        self.made.append(self)

    def add_scalar(self, name, value, step):
        self.values.append((name, value, step))

    def flush(self):
        self.flushed += 1


def test_tensorboard_gets_numbers_by_name_and_step(monkeypatch, tmp_path):
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    board = tracking.TensorBoard(tmp_path)
    board({"step": 40, "ctr": 0.5, "cached_cosine": None})
    board({"step": 60, "ctr": 0.25, "cached_cosine": 0.75})
    (writer,) = Writer.made
    assert (writer.folder, writer.purge, writer.flushed) == (str(tmp_path), 40, 2)
    wanted = [("ctr", 0.5, 40), ("ctr", 0.25, 60), ("cached_cosine", 0.75, 60)]
    assert writer.values == wanted


@pytest.mark.parametrize("there", [True, False])
def test_it_is_used_where_it_is_installed(monkeypatch, tmp_path, there):
    monkeypatch.setattr(tracking, "find_spec", lambda name: there or None)
    found = tracking.tracker(tmp_path)
    assert isinstance(found, tracking.TensorBoard) if there else found is None
    assert list(tmp_path.iterdir()) == []  # nothing before there is something to say


@pytest.mark.skipif(
    not importlib.util.find_spec("tensorboard"), reason="needs tensorboard"
)
def test_tensorboard_reads_it(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for begin, value in ((0, 0.5), (20, 0.25)):  # the second goes on at step 20
        board = tracking.TensorBoard(tmp_path)
        for step in range(begin, 60, 20):
            board({"step": step, "ctr": value})
        time.sleep(1.1)  # files are read in the order of the seconds in their names
    events = EventAccumulator(str(tmp_path)).Reload()
    found = [(e.step, e.value) for e in events.Scalars("ctr")]
    assert found == [(0, 0.5), (20, 0.25), (40, 0.25)]
