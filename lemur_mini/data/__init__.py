"""From files to batches: schema, loading, features, pages. Only here are files read."""

from lemur_mini.data.amazon import from_amazon_reviews
from lemur_mini.data.features import Features, make_features, make_tokenizer
from lemur_mini.data.loading import Dataset, load
from lemur_mini.data.movielens import from_movielens
from lemur_mini.data.negatives import add_negatives
from lemur_mini.data.pages import Batch, Pages
from lemur_mini.data.report import Health, health
from lemur_mini.data.schema import DataError
from lemur_mini.data.sources import from_huggingface
from lemur_mini.data.stream import PageStream

__all__ = [
    "Batch",
    "DataError",
    "Dataset",
    "Features",
    "Health",
    "PageStream",
    "Pages",
    "add_negatives",
    "from_amazon_reviews",
    "from_huggingface",
    "from_movielens",
    "health",
    "load",
    "make_features",
    "make_tokenizer",
]
