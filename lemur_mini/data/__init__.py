"""From files to batches: schema, loading, features, pages. Only here are files read."""

from lemur_mini.data.features import Features, make_features, make_tokenizer
from lemur_mini.data.loading import Dataset, load
from lemur_mini.data.pages import Batch, Pages
from lemur_mini.data.schema import DataError
from lemur_mini.data.stream import PageStream

__all__ = [
    "Batch",
    "DataError",
    "Dataset",
    "Features",
    "PageStream",
    "Pages",
    "load",
    "make_features",
    "make_tokenizer",
]
