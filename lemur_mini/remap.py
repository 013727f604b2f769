"""A checkpoint's tensors for another data set: rows follow their ids."""

from __future__ import annotations

import dataclasses
import json
import zlib

import numpy as np
import torch
from torch import Tensor

from lemur_mini.data.fingerprint import NAMES, Fingerprint, Mismatch
from lemur_mini.memory_bank import NEVER
from lemur_mini.model import Sizes

TABLES = {"users": "user", "items": "item", "queries": "query"}


def fingerprint_tensors(data: Fingerprint) -> dict[str, Tensor]:
    """Names and content of a data set as tensors of a checkpoint."""
    packed = {f"data.{name}": pack(data.names[name]) for name in NAMES}
    return packed | {"data.content": torch.from_numpy(data.content.view(np.int32))}


def fingerprint_of(facts: dict, tensors: dict[str, Tensor]) -> Fingerprint:
    """What a checkpoint was trained on. Raises Mismatch where it does not say."""
    try:
        names = {name: unpack(tensors[f"data.{name}"]) for name in NAMES}
        content = tensors["data.content"].numpy().view(np.uint32)
        return Fingerprint(facts["parts"], names, content)
    except (KeyError, ValueError, zlib.error) as error:
        raise Mismatch("does not say what it was trained on; train again") from error


def pack(names: list) -> Tensor:
    """Ids or texts as a tensor of bytes, for a file of tensors."""
    raw = zlib.compress(json.dumps(names).encode(), 9)
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8)


def unpack(packed: Tensor) -> list:
    """What `pack` took."""
    return json.loads(zlib.decompress(packed.numpy().tobytes()))


def for_data(
    facts: dict, tensors: dict[str, Tensor], data: Fingerprint
) -> tuple[Sizes, dict[str, Tensor]]:
    """Sizes and tensors of the same model for `data`: every user, item and query keeps
    what was learnt of its id, wherever it stands now; what training never saw gets the
    unknown's row, and the bank lacks it until it is published. Raises Mismatch."""
    rows = fingerprint_of(facts, tensors).rows_of(data)
    out = dict(tensors)
    for name, table in TABLES.items():
        place = np.concatenate([[0], rows[name] + 1])  # -1, the unknown, is row 0
        for key in (f"model.ids.{table}.weight", f"model.ids.{table}.squares"):
            if key in tensors:  # only tables that learn sparsely have sums of squares
                out[key] = tensors[key][torch.from_numpy(place)]
    if "model.bank.written" in tensors:
        items = torch.from_numpy(rows["items"])
        known = items >= 0
        for key in ("model.bank.vectors", "model.bank.written"):
            out[key] = tensors[key][items.clamp(min=0)]
        out["model.bank.vectors"][~known] = 0
        out["model.bank.written"][~known] = NEVER
    counts = [len(data.names[name]) for name in NAMES]
    users, documents, queries = counts
    sizes = dataclasses.replace(
        Sizes(**facts["sizes"]), users=users, documents=documents, queries=queries
    )
    return sizes, out
