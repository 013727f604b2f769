"""From files to batches: schema, loading, features, pages. Only here are files read.

Names are loaded when they are first used, so that pages need no encoder's library.
The health report is `lemur_mini.data.health.health`, a function in its module.
"""

from __future__ import annotations

from importlib import import_module

_HOME = {
    "Batch": "pages",
    "DataError": "schema",
    "Dataset": "loading",
    "Features": "features",
    "Health": "health",
    "PageStream": "streams",
    "Pages": "pages",
    "add_negatives": "importers.negatives",
    "from_amazon_reviews": "importers.amazon",
    "from_git_history": "importers.git_history",
    "from_huggingface": "importers.huggingface",
    "from_kuaisearch": "importers.kuaisearch",
    "from_microlens": "importers.positives",
    "from_movielens": "importers.movielens",
    "from_ninerec": "importers.positives",
    "from_pixelrec": "importers.positives",
    "from_qilin": "importers.qilin",
    "load": "loading",
    "make_features": "features",
    "make_tokenizer": "features",
}
__all__ = [*_HOME]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"lemur_mini.data has no {name}")
    return getattr(import_module(f"lemur_mini.data.{_HOME[name]}"), name)
