"""A tiny platform and a tiny model that all tests share. Nothing here takes long."""

import signal
from pathlib import Path

import datasets
import pytest
import torch

from lemur_mini import pipeline
from lemur_mini.config import Config
from lemur_mini.data.loading import Dataset, load
from lemur_mini.world.config import WorldConfig
from lemur_mini.world.export import export

torch.set_num_threads(1)  # more are slower for tensors this small

WORLD = WorldConfig(
    users=60, documents=120, sessions=300, days=30, page_size=8, cover_size=32
)
CONFIG = Config(
    scale="tiny",
    width=16,
    hidden=16,
    heads=2,
    query_layers=1,
    document_layers=1,
    vocabulary=1200,
    encode_tokens=800,
    history_long=8,
    history_short=3,
    id_width=8,
    token_width=16,
    mlp=(16, 8),
    longer_merge=2,
    longer_recent=2,
    page_size=8,
    batch_pages=4,
)


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c():
    """A shell starts what runs in the background deaf to Ctrl-C; tests of it hear."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory):
    """What `datasets` caches goes where pytest cleans up."""
    with pytest.MonkeyPatch.context() as patch:
        cache = str(tmp_path_factory.mktemp("cache"))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        yield


@pytest.fixture(scope="session")
def world() -> WorldConfig:
    """The tiny platform. Its pages have fewer than 8 documents where it lacks them."""
    return WORLD


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny data set on disk: read it, never write into it."""
    path = tmp_path_factory.mktemp("platform")
    export(path, WORLD)
    return path


@pytest.fixture(scope="session")
def dataset(folder: Path) -> Dataset:
    """The tiny data set, loaded and validated."""
    return load(folder)


@pytest.fixture(scope="session")
def config() -> Config:
    """A model that trains a step in milliseconds."""
    return CONFIG


@pytest.fixture(scope="session")
def prepared(folder: Path, config: Config) -> pipeline.Prepared:
    """Data set, tokenizer, features and pages of the tiny platform, on the CPU."""
    return pipeline.prepare(folder, config, torch.device("cpu"))
