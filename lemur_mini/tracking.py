"""A training that is watched while it goes on: in TensorBoard, or by whoever asks."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Protocol


class Tracker(Protocol):
    """Is told what the training log is told, between steps: the step, losses, and how
    the bank does, None where there is nothing to say. What it raises ends the
    training."""

    def __call__(self, record: dict) -> None: ...


class TensorBoard:
    """Writes for `tensorboard --logdir FOLDER`. A training that goes on after a stop
    takes the place of the steps that were lost."""

    def __init__(self, folder: Path):
        self.folder, self.writer = folder, None

    def __call__(self, record: dict) -> None:
        step = record["step"]
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter  # seconds to import

            self.writer = SummaryWriter(str(self.folder), purge_step=step)
        for name, value in record.items():
            if name != "step" and value is not None:
                self.writer.add_scalar(name, value, step)
        self.writer.flush()


def tracker(folder: Path) -> Tracker | None:
    """TensorBoard in this folder, where it is installed."""
    return TensorBoard(folder) if find_spec("tensorboard") else None
