"""Where files are, how they are written, and where a result comes from."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import sysconfig
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from lemur_mini.errors import Mendable

ROOT = Path(__file__).resolve().parent.parent
# in a clone beside the package; a wheel installs it under its environment's share/
WHEEL = Path(sysconfig.get_path("data")) / "share" / "lemur_mini" / "data"
DATA = ROOT / "data" if (ROOT / "data" / "items.parquet").is_file() else WHEEL
RESULTS = DATA / "results"
PACKAGES = ("lemur-mini", "torch", "torchvision", "transformers", "datasets", "numpy")


class FileError(Mendable, ValueError):
    """A file that cannot be read or written; the message names it and the remedy."""


def one_line(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def write_atomically(path: Path, write) -> None:
    """`write(temporary path)`, then put the file in place: whole or not at all.

    Raises FileError where that fails (a full disk, no right to write); a file that
    stood there before is kept."""
    temporary = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise FileError(
            f"{path}: cannot be written ({one_line(error)}); what stood there is kept: "
            "free some space or write elsewhere"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """A text in UTF-8, whole or not at all."""
    write_atomically(path, lambda part: part.write_text(text, "utf-8"))


def as_json(value, indent: int | None = None) -> str:
    """Strict JSON, compact where there is no indent. A number that is NaN or infinite
    becomes null: a measure that has no value, whose count stands beside it."""
    marks = (",", ":") if indent is None else None
    return json.dumps(_plain(value), indent=indent, separators=marks, allow_nan=False)


def _plain(value):
    """Numbers, lists and dictionaries of numpy as Python's own; NaN as None."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    lost = isinstance(value, float) and not math.isfinite(value)
    return None if lost else value


def write_json(path: Path, value, indent: int | None = 1) -> None:
    """`as_json` and a line's end, whole or not at all. Raises FileError."""
    write_text_atomically(path, as_json(value, indent) + "\n")


def under(start: str, values: dict) -> dict:
    """Of named parts of a file those whose name begins so, named by the rest."""
    return {k.removeprefix(start): v for k, v in values.items() if k.startswith(start)}


def require_folder(folder: Path) -> None:
    """Make a folder that results will be written to, and write to it now: found before
    hours of training, not after them. Raises FileError."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(4096))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise FileError(
            f"{folder}: nothing can be written there ({one_line(error)}); give another "
            "folder, or free some space"
        ) from error


def device_name(device: torch.device) -> str:
    """The device with what it is, and the threads on a CPU."""
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    return f"{device.type}, {platform.machine()}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    return {"python": platform.python_version()} | {p: version(p) for p in PACKAGES}


def provenance(command: str, device: torch.device) -> dict:
    """Where a result comes from: what was run, when, on what, with which versions."""
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "device": device_name(device),
        "versions": versions(),
    }
