"""Parts that students wrote: kept as small files, and put where the module's stand."""

from __future__ import annotations

import inspect
import os
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from lemur_mini import losses, ranker, sequence, training
from lemur_mini.memory_bank import MemoryBank

VARIABLE = "LEMUR_MINI_PARTS"  # names another folder, or none where it is empty
NAMES = (
    "attention",
    "sqdc",
    "mix",
    "per_token_feed_forward",
    "read",
    "write",
    "decoder_layer",
    "similarities",
    "train_step",
)
HEAD = """import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lemur_mini import losses, training
from lemur_mini.memory_bank import NEVER

"""


def folder() -> Path:
    """Where parts are kept: my_parts beside the notebooks."""
    return Path(os.environ.get(VARIABLE, "my_parts"))


def wanted() -> bool:
    """Whether parts are kept: not where notebooks are built and tested, whose outputs
    must not depend on what was solved before."""
    return os.environ.get(VARIABLE) != ""


def keep(functions: dict[str, Callable]) -> list[Callable]:
    """Write functions to a file each, under the names of parts; returns what these
    files give. Raises OSError where there is no source or nothing can be written."""
    folder().mkdir(parents=True, exist_ok=True)
    for name, function in functions.items():
        source = textwrap.dedent(inspect.getsource(function))
        text = f"{HEAD}\n{source}\n\n{name} = {function.__name__}\n"
        (folder() / f"{name}.py").write_text(text, "utf-8")
    return [load(name) for name in functions]


def forget(names: tuple[str, ...]) -> None:
    """Remove what is kept under these names."""
    for name in names:
        (folder() / f"{name}.py").unlink(missing_ok=True)


def load(name: str) -> Callable:
    """The part of a file that `keep` wrote."""
    path, scope = folder() / f"{name}.py", {}
    exec(compile(path.read_text("utf-8"), str(path), "exec"), scope)
    return scope[name]


def parts() -> dict[str, Callable]:
    """All parts that are kept, by name."""
    kept = [name for name in NAMES if (folder() / f"{name}.py").is_file()]
    return {name: load(name) for name in kept if wanted()}


@contextmanager
def in_place(parts: dict[str, Callable]) -> Iterator[None]:
    """While it lasts, these parts do the work of the module's."""
    with ExitStack() as stack:
        for name, part in parts.items():
            owner, attribute, adapt = PLACES[name]
            stack.enter_context(patch.object(owner, attribute, adapt(part)))
        yield


def as_attention(theirs: Callable) -> Callable:
    """In the shape of PyTorch's."""

    def attention(q, k, v, attn_mask=None, dropout_p=0.0, scale=None, **_) -> Tensor:
        if attn_mask is None:
            attn_mask = torch.ones(1, 1, 1, k.shape[-2], dtype=torch.bool)
        if scale is not None:  # theirs divides by the square root of the width
            q = q * (scale * q.shape[-1] ** 0.5)
        return theirs(q, k, v, attn_mask)

    return attention


def as_sqdc(theirs: Callable) -> Callable:
    """Of what is no padding; other forms of the loss stay the module's."""
    ours = losses.sqdc

    def sqdc(q, d, label, qid, temperature, valid=None, own=None, **other) -> Tensor:
        usual = other.get("session_mask", True), other.get("negatives", "all")
        if usual != (True, "all") or (own is not None and len(own) < len(d)):
            return ours(q, d, label, qid, temperature, valid=valid, own=own, **other)
        real = slice(None) if valid is None else valid
        return theirs(q[real], d[real], label[real], qid[real], temperature)

    return sqdc


def as_layer(theirs: Callable) -> Callable:
    """The printed form stays the module's."""
    ours = sequence.DecoderLayer.forward

    def forward(self, query, history, mask) -> Tensor:
        return (ours if self.literal else theirs)(self, query, history, mask)

    return forward


def as_feed_forward(theirs: Callable) -> Callable:
    """With the layer's weights."""

    def forward(self, x: Tensor) -> Tensor:
        up, down = self.up, self.down
        return theirs(x, up.weight, up.bias, down.weight, down.bias)

    return forward


def as_cosines(theirs: Callable) -> Callable:
    """The half that is in order of time; the module sorts."""

    def cosines(target, history, mask) -> Tensor:
        return theirs(target, history, mask)[..., : history.shape[1]]

    return staticmethod(cosines)  # type: ignore[return-value]


PLACES: dict[str, tuple[object, str, Callable]] = {
    "attention": (torch.nn.functional, "scaled_dot_product_attention", as_attention),
    "sqdc": (losses, "sqdc", as_sqdc),
    "mix": (ranker, "mix", lambda theirs: theirs),
    "per_token_feed_forward": (ranker.PerTokenFeedForward, "forward", as_feed_forward),
    "read": (MemoryBank, "read", torch.no_grad()),
    "write": (MemoryBank, "write", torch.no_grad()),
    "decoder_layer": (sequence.DecoderLayer, "forward", as_layer),
    "similarities": (sequence.SimilarityModule, "cosines", as_cosines),
    "train_step": (training, "train_step", lambda theirs: theirs),
}
