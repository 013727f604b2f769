"""What the course needs, and whether it is here: packages, memory, cores, time."""

from __future__ import annotations

import json
import os
import platform
import re
from importlib import metadata

from lemur_mini.errors import Mendable
from lemur_mini.files import RESULTS

INSTALL = (
    "pip install -e . in a copy of the repository (in a notebook: %pip install -e ..)"
)
GIGABYTE = 2**30


class MissingPackage(Mendable, ImportError):
    """A package that the course needs is not installed."""

    def __init__(self, name: str | None):
        super().__init__(f"there is no {name} here; install what is needed: {INSTALL}")


def packages() -> dict[str, str | None]:
    """Version of every package that the course needs, None where it is missing."""
    try:
        needed = metadata.requires("lemur-mini") or []
    except metadata.PackageNotFoundError:  # run from its folder, not installed
        needed = ["torch", "transformers", "datasets", "matplotlib", "jupyterlab"]
    names = [re.split(r"[^\w.-]", line)[0] for line in needed if "extra ==" not in line]
    return {name: version(name) for name in names}


def version(name: str) -> str | None:
    """Of an installed package; None of one that is not."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def memory() -> float | None:
    """Gigabytes of this machine; None where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIGABYTE
    except (AttributeError, OSError, ValueError):
        return None


def cores() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def costs() -> dict[str, dict]:
    """What every notebook took when it was built last: seconds, gigabytes, date."""
    path = RESULTS / "notebooks.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def report() -> tuple[str, bool]:
    """What is here, line by line, and whether it is enough for the course."""
    found, here = packages(), memory()
    missing = [name for name, number in found.items() if number is None]
    most = max((cost["gigabytes"] for cost in costs().values()), default=2.0)
    enough = here is None or here > 2 * most
    size = "unknown" if here is None else f"{here:.1f} GB"
    lines = [f"Python {platform.python_version()}, {platform.system()}"]
    lines += [f"{name:14} {number or 'MISSING'}" for name, number in found.items()]
    lines += [
        f"cores: {cores()}",
        f"memory: {size}; the largest notebook takes {most:.1f} GB",
    ]
    lines += minutes()
    lines += [f"missing: {', '.join(missing)}; {INSTALL}"] if missing else []
    lines += [] if enough else ["memory is short: close other notebooks' kernels"]
    lines += ["all is here"] if enough and not missing else []
    return "\n".join(lines), enough and not missing


def minutes() -> list[str]:
    """How long running takes, by the stored times of a processor like ours."""
    seconds = {name: cost["seconds"] for name, cost in costs().items()}
    if not seconds:
        return []
    longest = max(seconds, key=lambda name: seconds[name])
    return [
        f"running a notebook: {min(seconds.values()) / 60:.0f} to "
        f"{seconds[longest] / 60:.0f} minutes (longest: {longest}), all "
        f"{len(seconds)}: about {sum(seconds.values()) / 60:.0f}; reading and "
        "exercises: see the first lines of each",
    ]
