"""How a training is built, watched, kept and resumed on several ranks."""

from __future__ import annotations

from pathlib import Path

from lemur_mini import checkpoints
from lemur_mini.config import Config
from lemur_mini.data.fingerprint import Fingerprint
from lemur_mini.model import Sizes
from lemur_mini.parallel.model import DistributedLemur, averaging
from lemur_mini.parallel.ranks import Ranks
from lemur_mini.parallel.sharded_bank import ShardedBank, load_bank, save_bank
from lemur_mini.pipeline import OneProcess
from lemur_mini.training import Run


class RankProcess(OneProcess):
    """One of several ranks: what `pipeline.OneProcess` does, with the others."""

    stops_at_a_step = False

    def __init__(self, ranks: Ranks):
        self.ranks, self.shows_progress = ranks, not ranks.rank

    def build(self, config: Config, sizes: Sizes) -> DistributedLemur:
        """A model that shares its work out."""
        return DistributedLemur(config, sizes, self.ranks)

    def wrap(self, run: Run) -> Run:
        """Gradients and logged losses are averaged over ranks."""
        run.losses, run.average = averaging(run.model), self.ranks.mean
        return run

    def save(self, run: Run, path: Path, data: Fingerprint) -> None:
        """Rank 0 writes what all ranks hold alike; each writes its shard of a bank,
        into a folder beside the file that names it, so that both change at once."""
        facts = checkpoints.facts_of(run, data)
        tensors = checkpoints.tensors_of(run, data)
        if is_sharded(run):
            facts["bank"] = f"{path.stem}.bank-{run.step}"
            save_bank(run.model.bank, path.parent / facts["bank"])
        if not self.ranks.rank:
            checkpoints.write(path, facts, tensors)
        self.ranks.wait()

    def resume(self, path: Path, fresh: Run, data: Fingerprint) -> Run:
        """From a checkpoint of any number of ranks."""
        sharded = is_sharded(fresh)
        facts, tensors = checkpoints.read(path, whole=not sharded)
        run = checkpoints.restore(fresh, path, facts, tensors, data)
        if sharded and "bank" in facts:
            checkpoints.fill(run.model.bank, path, facts["bank"], load_bank)
        return run


def process_of(ranks: Ranks) -> OneProcess:
    """Of one rank alone: nothing to share."""
    return RankProcess(ranks) if ranks.size > 1 else OneProcess()


def is_sharded(run: Run) -> bool:
    """Whether every rank has rows of its own of the bank."""
    return isinstance(getattr(run.model, "bank", None), ShardedBank)
