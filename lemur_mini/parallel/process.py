"""How a training is built, watched, kept and resumed on several ranks."""

from __future__ import annotations

from pathlib import Path

from lemur_mini import checkpoints
from lemur_mini.config import Config
from lemur_mini.data.fingerprint import Fingerprint
from lemur_mini.model import Sizes
from lemur_mini.parallel.model import DistributedLemur, averaging
from lemur_mini.parallel.ranks import RankError, Ranks
from lemur_mini.parallel.sharded import load_rows, save_rows, shapes_of, shards_of
from lemur_mini.pipeline import OneProcess
from lemur_mini.training import Run


class RankProcess(OneProcess):
    """One of several ranks: what `pipeline.OneProcess` does, with the others."""

    stops_at_a_step = False

    def __init__(self, ranks: Ranks):
        self.ranks, self.leads = ranks, not ranks.rank

    def build(self, config: Config, sizes: Sizes) -> DistributedLemur:
        """A model that shares its work out."""
        return DistributedLemur(config, sizes, self.ranks)

    def wrap(self, run: Run) -> Run:
        """Gradients and logged losses are averaged over ranks."""
        run.losses, run.average = averaging(run.model), self.ranks.mean
        run.over_ranks = self.ranks.sum
        return run

    def require_growth(self, config: Config) -> None:
        if config.id_optimizer != "adagrad":
            raise RankError(
                "tables of ids grow with a stream, and on several ranks only those "
                "that are cut by rows can: begin it with --config.id-optimizer "
                "adagrad, or leave torchrun out"
            )

    def save(self, run: Run, path: Path, data: Fingerprint) -> None:
        """Rank 0 writes what all ranks hold alike; each writes its rows of what is cut,
        into a folder beside the file that names it, so that both change at once."""
        facts = checkpoints.facts_of(run, data)
        tensors = checkpoints.tensors_of(run, data)
        if shards := shards_of(run.model):
            folder = f"{path.stem}.rows-{run.step}"
            facts["rows"] = {"folder": folder, "shapes": shapes_of(shards)}
            save_rows(shards, path.parent / folder, self.ranks)
        if not self.ranks.rank:
            checkpoints.write(path, facts, tensors)
        self.ranks.wait()

    def resume(self, path: Path, fresh: Run, data: Fingerprint) -> Run:
        """From a checkpoint of any number of ranks."""
        shards = shards_of(fresh.model)
        facts, tensors = checkpoints.read(path, whole=False)
        rows = facts.get("rows")
        if rows and set(rows["shapes"]) != set(shapes_of(shards)):
            facts, tensors = checkpoints.read(path)  # the bank was cut, and is not now
            rows = None
        run = checkpoints.restore(fresh, path, facts, tensors, data)
        if rows:
            with checkpoints.whole_rows(path, rows["folder"]) as folder:
                load_rows(shards, folder)
        return run


def process_of(ranks: Ranks) -> OneProcess:
    """Of one rank alone: nothing to share."""
    return RankProcess(ranks) if ranks.size > 1 else OneProcess()


def scaled(config: Config, ranks: int) -> Config:
    """The same training with a batch that grows with the ranks, so that each keeps its
    work: fewer steps, and a rate that is the square root of their number as large.
    # our choice: the rule for Adam (Malladi and others, arXiv 2205.10287), whose step
    does not grow with the gradient; tried in data/results/trials-platform.json."""
    return config.replace(
        batch_pages=config.batch_pages * ranks,
        learning_rate=config.learning_rate * ranks**0.5,
    )
