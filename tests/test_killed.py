"""kill -9 of `--continue` at random moments: the same command finishes, as if never."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lemur_mini import checkpoints, continuing
from lemur_mini.preparation import with_dense

KILLS = 3
LOG, ITEMS = "impressions.parquet", "items.parquet"
# the command itself, which says every step that it has done, and waits for a sign
# before the next, so that it cannot end while nobody looks
COMMAND = """
import sys
from lemur_mini import training
from lemur_mini.__main__ import main
step = training.train_step
def told(run, batch):
    record = step(run, batch)
    print("step", run.step, flush=True)
    sys.stdin.read(1)
    return record
training.train_step = told
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def days(folder, tmp_path) -> tuple[Path, Path]:
    """The tiny platform's first days, and those after them."""
    log, out = pq.read_table(folder / LOG), (tmp_path / "first", tmp_path / "second")
    for path, part in zip(out, (log.slice(0, 300), log.slice(300, 500)), strict=True):
        path.mkdir()
        pq.write_table(part, path / LOG)
        shutil.copy(folder / ITEMS, path)
    return out


def run(out: Path, data: Path, **pipes) -> subprocess.Popen:
    """`python -m lemur_mini --continue OUT --data DATA`."""
    command = [sys.executable, "-c", COMMAND, "--continue", str(out)]
    command += ["--data", str(data), "--device", "cpu"]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        **pipes,
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_at_any_moment_the_same_command_finishes(days, config, tmp_path):
    """It saves after every step, so that many moments lie within a write."""
    rng, (first, second) = np.random.default_rng(), days
    more = {"history_products": True, "history_seen": 4, "checkpoint_every": 1}
    settings = with_dense(config).replace(**more)
    out, cpu = tmp_path / "killed", torch.device("cpu")
    continuing.begin(first, settings, 0, cpu, out)
    shutil.copytree(out, tmp_path / "never")
    continuing.go_on(tmp_path / "never", second, cpu)
    whole, wanted = checkpoints.read(tmp_path / "never" / continuing.NAME)
    begun, _ = checkpoints.read(out / continuing.NAME)
    kept, part = (out / continuing.NAME).read_bytes(), continuing.part_file(out)
    moments, done = [], begun["step"]
    for _ in range(KILLS):
        process = run(out, second, stdin=subprocess.PIPE)
        some = (whole["step"] - done) // 2
        process.stdin.write("." * some)
        process.stdin.flush()
        steps = int(rng.integers(2, some)) if moments else 0  # at first, at its start
        for _ in range(steps):
            assert process.stdout.readline().startswith("step ")
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        process.stdin.close()
        assert (out / continuing.NAME).read_bytes() == kept  # yesterday's still serves
        if part.is_file():  # whole, whenever it was
            before, done = done, checkpoints.read(part)[0]["step"]
            assert before <= done
        moments.append(done)
    process = run(out, second, stdin=subprocess.DEVNULL)
    lines = process.stdout.readlines()
    process.stdout.close()
    assert process.wait() == 0
    assert lines[0] == f"step {done + 1}\n" and done > begun["step"]
    facts, found = checkpoints.read(out / continuing.NAME)
    assert facts["step"] == whole["step"] and found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert not part.is_file()
    left = {path.name for path in out.iterdir()} - {"tensorboard"}
    assert left == {continuing.NAME, continuing.TOKENIZER}
