"""A data set made ready for models, and whether it can be trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from lemur_mini.config import (
    CONTEXT,
    DENSE,
    ENCODED,
    FEED_CHANGES,
    OURS,
    SCALES,
    SEARCH_CHANGES,
    Config,
)
from lemur_mini.data.context import Context
from lemur_mini.data.features import (
    Features,
    make_features,
    make_tokenizer,
    order_fields,
)
from lemur_mini.data.fingerprint import Fingerprint, fingerprint
from lemur_mini.data.likeness import Likeness, likeness
from lemur_mini.data.loading import Dataset, load, only
from lemur_mini.data.match import Match, match
from lemur_mini.data.pages import Pages
from lemur_mini.data.schema import DataError
from lemur_mini.data.statistics import statistics
from lemur_mini.model import Sizes


@dataclass(frozen=True)
class Prepared:
    """A data set with all that models need of it, made once."""

    dataset: Dataset
    tokenizer: PreTrainedTokenizerFast
    features: Features
    pages: Pages
    sizes: Sizes
    fingerprint: Fingerprint
    matcher: Match | Likeness | None = None  # scores pairs that the log does not hold

    @property
    def checksum(self) -> str:
        """Of log, texts and images, for the provenance of results."""
        return self.fingerprint.parts["data"]


def prepare(
    source: Dataset | str | Path,
    config: Config,
    device: torch.device,
    learnt: Match | Likeness | None = None,
) -> Prepared:
    """Load, validate and tensorise a data set, or the one that is loaded. learnt: of a
    run, by whose weights `match` is made, and not by the data's own."""
    dataset = source if isinstance(source, Dataset) else load(source)
    tokenizer = make_tokenizer(dataset, config)
    features = make_features(dataset, config, tokenizer)
    names = order_fields(dataset, config)
    pages = Pages(dataset.log, config.page_size, seen=config.history_seen)
    pages.dense, matcher = dense_features(
        dataset, config.groups, pages, features.images.numpy(), learnt
    )
    context = with_context(dataset, pages)
    sizes = Sizes(
        users=len(dataset.users),
        documents=len(dataset.items),
        queries=len(dataset.queries),
        vocabulary=len(tokenizer),
        fields=len(dataset.texts),
        feed=dataset.is_feed,
        kinds=context.kinds if context else (),
        **{name: numbers.shape[1] for name, numbers in pages.dense.items()},
    )
    marks = fingerprint(dataset, features, tokenizer, names).reading(pages.dense)
    if context:
        scales = {"context_scales": context.checksum}
        marks = replace(marks, parts=marks.parts | scales)
    return Prepared(
        dataset=dataset,
        tokenizer=tokenizer,
        features=features.to(device),
        pages=pages,
        sizes=sizes,
        fingerprint=marks,
        matcher=matcher,
    )


def with_context(dataset: Dataset, pages: Pages) -> Context | None:
    """Put the group `context` into the pages, where the log has such columns; how they
    are read."""
    if not dataset.context:
        return None
    context = Context.of(dataset)
    pages.dense[CONTEXT] = context.read(dataset)
    return context


def dense_features(
    dataset: Dataset,
    groups: tuple[str, ...],
    pages: Pages,
    images: np.ndarray,
    learnt: Match | Likeness | None = None,
) -> tuple[dict[str, np.ndarray], Match | Likeness | None]:
    """Those of `statistics` and `match` that are asked for, (I, F) of all impressions,
    and the scorer of `match`: of words and query, or, in a feed, of the pages'
    histories. images: (N, 3, H, W) uint8; learnt: as of `prepare`."""
    dense, matcher = {}, None
    if "statistics" in groups:
        dense["statistics"] = statistics(dataset)
    if "match" in groups:
        parts = (dataset, pages, images) if dataset.is_feed else (dataset,)
        matcher, dense["match"] = (likeness if dataset.is_feed else match)(
            *parts, learnt=learnt
        )
    return dense, matcher


def with_documents(
    prepared: Prepared, documents: list[dict], config: Config
) -> Prepared:
    """The same with more documents at the end of the catalogue, in a copy; pages and
    checksum stay those of the log. Raises DataError."""
    old = prepared.dataset
    new = only(old, documents)
    features = make_features(new, config, prepared.tokenizer)
    dataset = replace(
        old,
        items=np.concatenate([old.items, new.items]),
        texts={name: [*old.texts[name], *new.texts[name]] for name in old.texts},
        images=[*old.images, *new.images],
        created=old.created
        if old.created is None
        else np.concatenate([old.created, new.created]),
    )
    return replace(
        prepared,
        dataset=dataset,
        features=prepared.features.extended(features),
        matcher=prepared.matcher
        and prepared.matcher.extended(new.texts, features.images.cpu().numpy()),
        sizes=replace(prepared.sizes, documents=len(dataset.items)),
    )


def config_for(config: Config, dataset: Dataset) -> Config:
    """The configuration for this kind of data. With the group `context`, where the log
    has such columns and dense features are read. A feed has settings of its own, and so
    has a search log with numbers, where the reader has left the scale's. A small feed
    samples nothing: a document is to be encoded ENCODED times in the pass, at random
    times, however often it is shown."""
    if dataset.context and set(DENSE) & set(config.groups):
        groups = dict.fromkeys((*config.groups, CONTEXT))
        config = config.replace(groups=tuple(groups))
    if not dataset.is_feed:
        return for_search(config)
    shown = len(dataset.log.item) / max(len(dataset.items), 1)
    return for_feed(config, round(min(1.0, ENCODED / shown), 2))


def for_feed(config: Config, share: float = 1.0) -> Config:
    """The configuration as a feed takes it; share: of the documents of a batch that
    are encoded."""
    shares = {"forward_share": share, "backward_share": share}
    return with_usual_changed(config, FEED_CHANGES | shares)


def for_search(config: Config) -> Config:
    """The configuration as a search log takes it: a change where content stands beside
    numbers."""
    both = config.has_content and config.dense
    return with_usual_changed(config, SEARCH_CHANGES) if both else config


def with_usual_changed(config: Config, changes: dict) -> Config:
    """These changes, where the reader has left the scale's own settings."""
    usual = SCALES.get(config.scale, config)
    left = {k: v for k, v in changes.items() if getattr(config, k) == getattr(usual, k)}
    return config.replace(**left)


def variant(config: Config, changes: dict) -> Config:
    """The configuration with these changes; where they name the groups, those of dense
    features stay: the id baseline sees the same numbers."""
    changed = config.replace(**changes)
    groups = dict.fromkeys((*changed.groups, *config.dense))
    return changed.replace(groups=tuple(groups))


def with_dense(config: Config) -> Config:
    """The same configuration with the groups of dense features."""
    return config.replace(groups=tuple(dict.fromkeys((*config.groups, *DENSE))))


def with_ours(config: Config) -> Config:
    """The paper's form with what we add to it."""
    return with_usual_changed(config, OURS)


def require_period(
    prepared: Prepared, start: int | None, end: int | None, use: str
) -> None:
    """Raise DataError unless there are impressions in [start, end), of both labels:
    found before the first step of training, not by a division after the last."""
    log = prepared.dataset.log
    low = 0 if start is None else np.searchsorted(log.timestamp, start)
    high = None if end is None else np.searchsorted(log.timestamp, end)
    label = log.label[low:high]
    where = f"{prepared.dataset.name}: the period to {use}"
    if not len(label):
        raise DataError(
            f"{where} has no impressions; choose valid_start and test_start in "
            f"dataset.json within {log.timestamp[0]} to {log.timestamp[-1]}"
        )
    if label.min() == label.max():
        raise DataError(
            f"{where} has {len(label)} impressions, and all labels are {label[0]}; "
            "with positives alone, lemur_mini.data.add_negatives draws the others"
        )
