"""Two results side by side: where the first difference lies, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

TOLERANCE = 1e-4  # of a function's results, beside the largest of them


def plain(value: object) -> object:
    """A value in one of few types: dict, list, str, None, or a NumPy array."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset, range)):
        return flattened(value)
    if value is None or isinstance(value, str):
        return value
    return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)


def flattened(values: Sequence | set) -> object:
    """A list of numbers as an array; any other as a list of plain parts."""
    parts = [plain(part) for part in values]
    numbers = parts and all(isinstance(part, np.ndarray) for part in parts)
    if numbers and len({part.shape for part in parts}) == 1:
        return np.stack(parts)
    return parts


def same(found: object, wanted: object, tolerance: float, order: bool = True) -> bool:
    """Whether two answers say the same, in whatever types; without `order`, a list in
    another order does, too."""
    found, wanted = plain(found), plain(wanted)
    if isinstance(wanted, np.ndarray) and isinstance(found, np.ndarray):
        if not order:
            found, wanted = np.sort(found.ravel()), np.sort(wanted.ravel())
        return not difference(found, wanted, tolerance)
    if not order and isinstance(found, list) and isinstance(wanted, list):
        return sorted(map(str, found)) == sorted(map(str, wanted))
    if isinstance(found, list) and isinstance(wanted, list):
        pairs = zip(found, wanted, strict=False)
        alike = all(same(*pair, tolerance) for pair in pairs)
        return len(found) == len(wanted) and alike
    return type(found) is type(wanted) and found == wanted


def difference(found: object, wanted: object, tolerance: float = TOLERANCE) -> str:
    """What differs first, with its place; nothing where nothing does."""
    found, wanted = plain(found), plain(wanted)
    if not isinstance(found, np.ndarray) or not isinstance(wanted, np.ndarray):
        alike = type(found) is type(wanted) and found == wanted
        return "" if alike else f"there is {name_of(found)}, not {name_of(wanted)}"
    if found.shape != wanted.shape:
        return f"the shape is {found.shape}, not {wanted.shape}"
    if found.dtype.kind not in "biuf" or wanted.dtype.kind not in "biuf":
        return "" if (found == wanted).all() else "it is another text"
    if found.dtype.kind == "f" and wanted.dtype.kind == "b":
        return "there are numbers, not True and False"
    a, b = found.astype(float), wanted.astype(float)
    size = np.abs(b[np.isfinite(b)]).max(initial=0.0)  # of what should be there
    close = np.isclose(a, b, rtol=0, atol=tolerance * size + 1e-12, equal_nan=True)
    if close.all():
        return ""
    place = tuple(int(i) for i in np.argwhere(~close)[0])
    yes = wanted.dtype.kind == "b"
    pair = (bool(x[place]) if yes else shown(x[place]) for x in (a, b))
    return f"{where(place)}{' is not '.join(map(str, pair))}"


def where(place: tuple[int, ...]) -> str:
    """A place in an array as one reads it: "row 3, at [3, 0]: "."""
    if not place:
        return ""
    inside = f", at {list(place)}" if len(place) > 1 else ""
    return f"row {place[0]}{inside}: "


def shown(number: float) -> str:
    """A number of at most four digits."""
    return "no number" if math.isnan(number) else f"{number:.4g}"


def name_of(value: object) -> str:
    """What kind of thing something is."""
    if value is None:
        return "nothing"
    kinds = {np.ndarray: "a number or tensor", list: "a list", dict: "a dictionary"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def leaf(value: object) -> object:
    """An input for one call: a copy that collects a gradient of its own."""
    if isinstance(value, Tensor):
        copied = value.detach().clone()
        return copied.requires_grad_(copied.is_floating_point())
    return value


def gradients(result: object, leaves: dict[str, Tensor]) -> dict[str, object]:
    """Of a weighted sum of the results by every leaf, 0 where none flows.

    The weights differ from number to number: a plain sum hides what is swapped."""
    results = result if isinstance(result, (tuple, list)) else [result]
    wanted = [r for r in results if isinstance(r, Tensor) and r.requires_grad]
    if not wanted:
        return {f"the gradient by {name}": torch.zeros(()) for name in leaves}
    total = sum((r * weights(r)).sum() for r in wanted)
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {
        f"the gradient by {name}": torch.zeros_like(x) if g is None else g
        for (name, x), g in zip(leaves.items(), found, strict=True)
    }


def weights(result: Tensor) -> Tensor:
    """Fixed numbers of a tensor's shape."""
    places = torch.arange(result.numel(), device=result.device)
    return (1 + places % 7 + places / 10).view(result.shape).to(result.dtype)
