"""python -m lemur_mini.serving ARTEFACT_OR_RUN: answer requests over HTTP."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from lemur_mini import checkpoints
from lemur_mini.command import OptionError, in_one_line, parse
from lemur_mini.config import Config
from lemur_mini.devices import choose_device
from lemur_mini.files import DATA
from lemur_mini.preparation import prepare
from lemur_mini.serving.artefact import MODEL
from lemur_mini.serving.events import kept
from lemur_mini.serving.ranker import Ranker

TOKEN = "LEMUR_MINI_TOKEN"
RUN = "lemur.safetensors"


@dataclass(frozen=True)
class Options:
    """Serve a trained ranker: /rank, /retrieve, /watched, /documents, /health,
    /metrics, and /docs for people. LEMUR_MINI_TOKEN holds the token that requests have
    to bring, which every address but this machine's own needs."""

    path: Annotated[Path, tyro.conf.Positional]
    """An artefact (`save_pretrained`), a run of the main command, or a checkpoint."""
    data: str = str(DATA)
    """The data of a run or of a checkpoint; an artefact needs none."""
    host: str = "127.0.0.1"
    """Where it listens: this machine alone can reach it, unless you say otherwise."""
    port: int = 8000
    """0 takes a free one."""
    journal: Path | None = None
    """Where what was acknowledged is kept; if none, journal.jsonl beside the model."""
    redis: str | None = None
    """redis://host:port/db keeps the histories; if none, memory and the journal."""
    device: str = "cpu"
    """cpu, cuda, mps or auto."""


@in_one_line
def main(arguments: list[str] | None = None) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    options = parse(Options, arguments, prog="python -m lemur_mini.serving")
    gate, server, journals = _parts()
    gate.require_token(options.host, token := os.environ.get(TOKEN))
    path, ranker = open_ranker(options)
    journal = journals.Journal(options.journal or path.parent / "journal.jsonl")
    try:
        taken = journals.replay(journal.read(), ranker, events=not options.redis)
        if taken:
            print(", ".join(f"{n:,} {what}" for what, n in taken.items()), "replayed")
        app = server.make_app(ranker, journal, token)
        with server.listen(options.host, options.port) as listening:
            print(f"serving on {server.address_of(listening)}", flush=True)
            server.server_of(app).run([listening])
    finally:
        journal.close()


def _parts():
    try:
        from lemur_mini.serving import gate, journal, server
    except ModuleNotFoundError as error:
        raise OptionError(
            f"{error.name} is not installed; pip install -c constraints.txt -e "
            '".[serve]" brings it'
        ) from error
    return gate, server, journal


def open_ranker(options: Options) -> tuple[Path, Ranker]:
    """The file of the model, and the ranker. Raises CheckpointError, DataError."""
    device, path = choose_device(options.device), options.path
    if path.is_dir():
        path = path / (MODEL if (path / MODEL).is_file() else RUN)
    facts = checkpoints.read_facts(path)
    config = checkpoints.config_of(facts)
    if "serving" in facts:
        store = _store(options, config)
        folder = path.parent
        return path, Ranker.from_pretrained(folder, histories=store, device=device)
    prepared = prepare(options.data, config, device, checkpoints.read_matcher(path))
    return path, Ranker.load(path, prepared, _store(options, config))


def _store(options: Options, config: Config):
    if options.redis is None:
        return None
    from lemur_mini.serving.redis_store import InRedis

    return InRedis(options.redis, *kept(config))


if __name__ == "__main__":
    sys.exit(main())
