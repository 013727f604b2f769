"""A log that grows: begin on a stream, go on with tomorrow's days, lose nothing.

One file holds a run, `RUN/lemur.safetensors`, and it always is the end of some day: a
part that is being learnt is kept beside it, in `lemur.part.safetensors`, every
`checkpoint_every` steps. Whoever is killed goes on from there by the same command.

The rule of the learning rate: a run that begins on a stream warms up over
`warm_up` x STREAM_STEPS steps and then keeps its rate, since nobody knows its end. A
run that was trained on a table, whose rate has fallen to zero, goes on at CONTINUED of
it. # our choice, both.

A stream read in two parts gives the weights that one run over both gives, bit by bit,
where the first part fills its last batch and no session lasts over its end: that batch
would be filled from tomorrow, and such a session is cut. What is made once of the
first FIRST impressions (the tokenizer, the weights of `match`: see `data.numbers`) has
to find as many in the first part. Where the catalogue has grown
in between, the size of a table still shows: in the last bit of the gradient's norm
where that is clipped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from lemur_mini import checkpoints, training
from lemur_mini.checkpoints import CheckpointError
from lemur_mini.config import Config
from lemur_mini.data.catalogue import Catalogue, source_of
from lemur_mini.data.errors import DataError
from lemur_mini.data.features import (
    make_tokenizer,
    saved_tokenizer,
    train_tokenizer,
)
from lemur_mini.data.fingerprint import Fingerprint, read_as
from lemur_mini.data.joins import group_of
from lemur_mini.data.match import joined
from lemur_mini.data.numbers import Numbers
from lemur_mini.data.past import Past, kept
from lemur_mini.data.schema import IMPRESSIONS, ITEMS, LOGGED
from lemur_mini.data.sources import rows_of, tables_of
from lemur_mini.data.store import Store
from lemur_mini.data.streams import PageStream
from lemur_mini.files import write_text_atomically
from lemur_mini.interrupts import Stopped
from lemur_mini.memory_bank import NEVER
from lemur_mini.model import Sizes
from lemur_mini.pipeline import ALONE, KeptRun, OneProcess
from lemur_mini.preparation import for_feed, for_search
from lemur_mini.remap import fingerprint_of
from lemur_mini.tracking import Tracker
from lemur_mini.training import Part, Run, make_model

NAME = "lemur.safetensors"
TOKENIZER = "tokenizer.json"
STREAM_STEPS = 2000  # shares of a run without an end are of so many steps
CONTINUED = 0.1  # of the learning rate
SLOTS = 16_384  # documents and queries whose features are kept
FIRST = 100_000  # impressions, of whose texts tokenizer and match are made


class Streaming(OneProcess):
    """How the training of a stream is kept: with the names that it has met by then."""

    def __init__(
        self,
        stream: PageStream,
        store: Store,
        parts: dict[str, str],
        process: OneProcess = ALONE,
    ):
        self.stream, self.store, self.parts = stream, store, parts
        self.process, self.stops_at_a_step = process, process.stops_at_a_step

    def save(self, run: Run, path: Path, data: Fingerprint | None = None) -> None:
        """Write a checkpoint."""
        sizes, names = run.model.sizes, self.stream
        known = {
            "users": names.users.names[: sizes.users],
            "items": self.store.catalogue.ids,
            "queries": names.queries.names[: sizes.queries],
        }
        data = Fingerprint(self.parts, known, self.store.content)
        self.process.save(run, path, data)


def begin(
    source,
    config: Config,
    seed: int,
    device: torch.device,
    out: Path,
    slots: int = SLOTS,
    track: Tracker | None = None,
    process: OneProcess = ALONE,
    **stream,
) -> Run:
    """Train on a stream from its beginning to its end, so far, and keep the run in a
    folder. source: as `PageStream` takes it; stream: settings of it. Raises what it
    raises, DataError for what a stream has not."""
    items, log = tables_of(source)
    catalogue = Catalogue()
    if (out / NAME).is_file():
        raise DataError(f"{out / NAME}: a run is there; give another --out")
    if items is None or log is None:
        raise DataError(f"{source}: no {ITEMS} and {IMPRESSIONS}, nor parts of them")
    catalogue.add(items, *folder_of(source))
    feed = is_feed(log)
    config = for_stream(config, feed)
    process.require_growth(config)
    past = Past.empty(*kept(config))
    past.sources = list(map(str, folder_of(source)))
    numbers, first = Numbers(catalogue, config.image_size), first_rows(log)
    shown = documents_of(first, catalogue)
    numbers.begin(past, config.groups, shown, feed)
    pages = make_stream(source, config, numbers, past, **stream)
    if feed:
        pages.queries.take([""])
    tokenizer = first_tokenizer(source, first, shown, numbers, config)
    store = Store(catalogue, pages.queries.names, config, tokenizer, device, slots)
    fields = len(catalogue.fields)
    sizes = Sizes(0, 0, 0, vocabulary=len(tokenizer), fields=fields, feed=feed)
    for name, of in (("statistics", past.statistics), ("match", past.matcher)):
        sizes = replace(sizes, **{name: len(of.names) if of else 0})
    # rows grow: all start alike
    model = make_model(config, sizes, seed, device, process.build)
    run = process.wrap(Run(model, store, seed, STREAM_STEPS, floor=1.0))
    run.part = Part(past, done=False)
    parts = read_as(tokenizer, store.names, config.image_size, feed)
    if process.leads:
        words = tokenizer.backend_tokenizer.to_str(pretty=True)
        write_text_atomically(out / TOKENIZER, words)
    return learn(run, pages, {"data": "stream"} | parts, out, track, process)


def go_on(
    out: Path,
    source,
    device: torch.device,
    wanted: dict | None = None,
    slots: int = SLOTS,
    track: Tracker | None = None,
    process: OneProcess = ALONE,
    **stream,
) -> Run:
    """Train the run in a folder on the days of a log that it has not seen. Known ids
    keep their rows, new ones get the unknown's, the tokenizer stays. wanted: fields of
    the configuration that the run must have. Raises CheckpointError or DataError, with
    nothing changed, where run and log do not belong together."""
    path, (facts, tensors) = last_of(out)
    config, part, names = checked(path, facts, tensors, wanted or {})
    process.require_growth(config)
    tokenizer = kept_tokenizer(out, source, config, facts["parts"]["tokenizer"])
    catalogue = Catalogue()
    catalogue.know(names.names["items"])
    for folder in dict.fromkeys([*part.past.sources, *map(str, folder_of(source))]):
        items, where = source_of(folder)
        if items:
            catalogue.add(items, where)
            part.past.sources = list(dict.fromkeys([*part.past.sources, folder]))
    if isinstance(source, tuple) and source[0] is not None:
        catalogue.add(source[0])
    known = {k: names.names[k][:n] for k, n in part.past.known.items()}
    numbers = Numbers(catalogue, config.image_size)
    numbers.grow(part.past)
    pages = make_stream(source, config, numbers, part.past, known=known, **stream)
    store = Store(catalogue, pages.queries.names, config, tokenizer, device, slots)
    store.content[: len(names.content)] = names.content
    require_alike(facts["parts"], store, config, is_feed(pages.log))
    model = process.build(config, Sizes(**facts["sizes"])).to(device)
    floor = max(facts.get("floor", 0.0), CONTINUED)
    run = process.wrap(Run(model, store, facts["seed"], facts["total"], floor=floor))
    checkpoints.restore(run, path, facts, tensors, Fingerprint(facts["parts"]))
    run.part = part
    if part.done:
        run.part = Part(part.past, run.step, done=False)
        if config.has_content:  # a stream in one piece never saw these
            model.bank.forget(torch.from_numpy(part.past.published))
    return learn(run, pages, facts["parts"], out, track, process)


def learn(
    run: Run,
    pages: PageStream,
    parts: dict[str, str],
    out: Path,
    track: Tracker | None,
    process: OneProcess,
) -> Run:
    """Train on what is to come of the part, then give every document a vector, then
    let the result take the place of the day before."""
    store = run.features
    run.grow(documents=len(store.catalogue))
    kept = KeptRun(part_file(out), None, Streaming(pages, store, parts, process))
    title = "stream" if process.leads else None
    with kept.listening() as ears:
        training.train(
            run, pages, None, kept.save, title, lambda: ears.told, track=track
        )
        if ears.told:
            kept.save(run)
            raise Stopped(ears.told, kept.path)
        past = pages.after
        if run.config.has_content:
            bank, every = run.model.bank, torch.arange(len(store.catalogue))
            (written,) = bank.fetch(every.to(bank.written.device), bank.written)
            (lacking,) = torch.nonzero(written == NEVER, as_tuple=True)
            run.model.eval().publish(store)
            past.published = lacking.cpu().numpy()
        run.part = Part(past, run.step)
        kept.process.save(run, out / NAME)
        checkpoints.remove(part_file(out))
    return run


def part_file(out: Path) -> Path:
    """Where a part is kept while it is being learnt."""
    return out / "lemur.part.safetensors"


def last_of(out: Path) -> tuple[Path, tuple[dict, dict]]:
    """Where the run in a folder is: in the middle of a part, or at the end of one. What
    is left of a part whose end was written is none. Raises CheckpointError."""
    path, part = out / NAME, part_file(out)
    if not part.is_file():
        return path, checkpoints.read(path)
    facts, tensors = checkpoints.read(part)
    whole = checkpoints.read(path) if path.is_file() else None
    step = whole[0]["step"] if whole else 0
    if (facts.get("part") or {}).get("began") == step:
        return part, (facts, tensors)
    return path, whole or checkpoints.read(path)


def checked(
    path: Path, facts: dict, tensors: dict, wanted: dict
) -> tuple[Config, Part, Fingerprint]:
    """The configuration of a run, its part, and its names, where it can go on."""
    part = checkpoints.part_of(facts, tensors)
    if part is None:
        problem = "is no run that was trained to its end, with its optimiser"
        raise CheckpointError(
            f"{path}: {problem}; finish it with --resume, or train it again"
        )
    config = checkpoints.config_of(facts)
    for name, value in wanted.items():
        if getattr(config, name) != value:
            problem = f"trained with {name} {getattr(config, name)} (now {value})"
            raise CheckpointError(f"{path}: {problem}; leave it out, or train again")
    past = part.past
    for name, there in (("statistics", past.statistics), ("match", past.matcher)):
        if name in config.groups and there is None:
            problem = f"has not kept its {name}, as runs do since streams have them"
            raise CheckpointError(f"{path}: {problem}; train it again")
    require_one_pass(config)
    return config, part, fingerprint_of(facts, tensors)


def for_stream(config: Config, feed: bool) -> Config:
    """The configuration for a stream, of a feed or of a search log. Raises
    DataError for what a stream has not."""
    require_one_pass(config)
    return for_feed(config) if feed else for_search(config)


def require_one_pass(config: Config) -> None:
    """Raise DataError for what a stream has not."""
    if config.two_stage:
        raise DataError(
            "two_stage needs many passes, a stream has one; train with 0 of them"
        )


def make_stream(source, config: Config, numbers: Numbers, past, **more):
    """The pages of a source as this configuration reads them."""
    return PageStream(
        source,
        config.page_size,
        config.history_long,
        seen=config.history_seen,
        past=past,
        items=np.array(numbers.catalogue.ids),
        numbers=numbers,
        **more,
    )


def folder_of(source) -> list[Path]:
    """The folder of a source, if it is one."""
    return [] if isinstance(source, tuple) else [Path(source).resolve()]


def is_feed(log) -> bool:
    """Whether the sessions of a log have no queries."""
    return len(group_of(next(rows_of(log, 1, LOGGED)))) == 1


def first_tokenizer(source, first, shown, numbers: Numbers, config: Config):
    """Beside the data, or of what the first impressions show."""
    for folder in folder_of(source):
        if (folder / TOKENIZER).is_file():
            return saved_tokenizer(folder / TOKENIZER)
    if config.pretrained:
        return make_tokenizer(None, config)
    return train_tokenizer(first_texts(first, shown, numbers), config)


def first_rows(log) -> pa.Table:
    """The first impressions."""
    return next(rows_of(log, FIRST, LOGGED))


def documents_of(table: pa.Table, catalogue: Catalogue) -> np.ndarray:
    """Rows of the documents that these impressions show."""
    row = {name: number for number, name in enumerate(catalogue.ids)}
    shown = {row[i] for i in table["item_id"].unique().to_pylist() if i in row}
    return np.array(sorted(shown), np.int64)


def first_texts(table, shown: np.ndarray, numbers: Numbers) -> Iterator[str]:
    """Texts of the documents and queries that these impressions show."""
    for part in np.array_split(shown, 1 + len(shown) // 1024):
        yield from joined(numbers.texts(part))
    if "query" in table.column_names:
        yield from (text or "" for text in table["query"].unique().to_pylist())


def kept_tokenizer(out: Path, source, config: Config, wanted: str):
    """That of the run. Raises DataError where it is lost or the data has another."""
    if config.pretrained:
        return make_tokenizer(None, config)
    if not (out / TOKENIZER).is_file():
        raise DataError(f"{out / TOKENIZER}: not found; put that of the run there")
    places = [folder / TOKENIZER for folder in (out, *folder_of(source))]
    for path in filter(Path.is_file, places):
        tokenizer = saved_tokenizer(path)
        if read_as(tokenizer, [], 0, False)["tokenizer"] != wanted:
            raise DataError(
                f"{path}: another tokenizer than the run was trained with; remove it, "
                "or train again"
            )
    return saved_tokenizer(out / TOKENIZER)


def require_alike(parts: dict, store: Store, config: Config, feed: bool) -> None:
    """New days are read as the days before were. Raises DataError."""
    now = read_as(store.tokenizer, store.names, config.image_size, feed)
    for name in ("fields", "kind"):
        if now[name] != parts[name] and (name == "kind" or store.catalogue.shelves):
            raise DataError(
                f"the run was trained with {name} {parts[name]} (now {now[name]}); "
                "write the new days as the days before, or train again"
            )
