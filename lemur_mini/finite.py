"""Whether a score, a loss or a weight is a number: decided here and nowhere else."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

REMEDY = "the model has diverged; lower learning_rate"


def require(values: np.ndarray, what: str) -> np.ndarray:
    """The same values. Raises FloatingPointError, naming the first place, where one of
    them is NaN or infinite: any measure of those would follow the order of rows."""
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise FloatingPointError(
            f"{bad.size} of {np.size(values)} {what} are not finite, the first in "
            f"place {bad[0]}; {REMEDY}"
        )
    return values


def require_tensors(tensors: dict[str, Tensor], path) -> None:
    """Raises FloatingPointError where a tensor that is about to be written at `path`
    holds a number that is not finite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise FloatingPointError(
                f"{path}: {name} is not finite and is not written; what stood there is "
                f"kept; {REMEDY}"
            )


class Watch:
    """Scalars of the last step that have to be numbers.

    A CPU looks at them at once. A GPU copies them in its own time, and the host looks
    during the next step, when it has waited for this one anyway, or before a save."""

    def __init__(self):
        self.step, self.values, self.done = 0, None, None

    def note(self, step: int, **values: Tensor) -> None:
        """Look at these when they are known. step: the first is 1, as in a checkpoint
        and on the progress bar."""
        scalars = torch.stack([value.detach().float() for value in values.values()])
        on_gpu = scalars.device.type == "cuda"
        host = torch.empty_like(scalars, device="cpu", pin_memory=on_gpu)
        host.copy_(scalars, non_blocking=on_gpu)
        # as numpy: torch would count a look at host memory as a wait for the device
        self.step, self.values = step, (list(values), host.numpy())
        self.done = torch.cuda.Event() if on_gpu else None
        if on_gpu:
            self.done.record()
        else:
            self.check()

    def check(self) -> None:
        """Raises FloatingPointError, naming the step and what is no number in it."""
        if self.done is not None:
            self.done.synchronize()
        names, values = self.values or ([], [])
        self.values = None
        for name, value in zip(names, values, strict=True):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the {name} is not finite at step {self.step}; the last "
                    f"checkpoint is kept; {REMEDY}"
                )
