"""lemur_mini: LEMUR (arXiv 2511.10962), small and complete.

Names are loaded when they are first used: `import lemur_mini` alone takes no second.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

_HOME = {
    "Config": "config",
    "Lemur": "model",
    "MemoryBank": "memory_bank",
    "Pages": "data.pages",
    "Dataset": "data.loading",
    "DataError": "data.schema",
    "load": "data.loading",
    "prepare": "pipeline",
    "train": "pipeline",
    "evaluate": "pipeline",
    "Ranker": "serving.ranker",
}
__all__ = [*_HOME]

try:
    __version__ = version("lemur-mini")
except PackageNotFoundError:  # a folder of sources that nobody installed
    __version__ = "0"


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"lemur_mini has no {name}; it has {', '.join(__all__)}")
    return getattr(import_module(f"lemur_mini.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
