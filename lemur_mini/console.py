"""lemur-mini COMMAND: train, serve, convert, health and reproduce in one place."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from lemur_mini import __version__
from lemur_mini.command import OptionError, in_one_line, parse

USAGE = """lemur-mini COMMAND [OPTIONS], with --help after a COMMAND for its options

train      the id baseline and LEMUR on a folder: python -m lemur_mini
serve      an artefact or a run over HTTP: python -m lemur_mini.serving
convert    a log of another form into the schema
health     what a folder holds, what is not read, what leaks
reproduce  the paper's claims: python -m lemur_mini.reproduce
--version  the version"""
MODULES = {
    "train": "lemur_mini.__main__",
    "serve": "lemur_mini.serving.__main__",
    "reproduce": "lemur_mini.reproduce.__main__",
}

IMPORTERS = {kind: f"from_{kind}" for kind in ("movielens", "qilin", "kuaisearch")}
IMPORTERS |= {"git": "from_git_history"}
DRAWING = {kind: f"from_{kind}" for kind in ("microlens", "pixelrec", "ninerec")}
DRAWING |= {"amazon": "from_amazon_reviews", "table": "from_huggingface"}
Kind = Literal[(*IMPORTERS, *DRAWING)]  # the latter draw negatives


@dataclass(frozen=True)
class Folder:
    """Look at a data set before it is trained on."""

    folder: Annotated[str, Positional]
    """With items.parquet and impressions.parquet."""


@dataclass(frozen=True)
class Conversion:
    """Bring a log into the schema: MovieLens, Amazon Reviews, Qilin, KuaiSearch,
    MicroLens, PixelRec, NineRec, the history of a git repository, or any table."""

    kind: Annotated[Kind, Positional]
    """What the source is."""
    source: Annotated[str, Positional]
    """A folder or a file."""
    out: Annotated[Path, Positional]
    """The folder that is written."""
    category: str = ""
    """Of Amazon Reviews, such as All_Beauty."""
    columns: tuple[str, ...] = ()
    """Of a table: user_id=UID item_id=SKU timestamp=TIME, and so on."""
    negatives: int = 0
    """For each positive, where a log has no others."""
    options: tuple[str, ...] = ()
    """What an importer takes by name: of Qilin part=search, label=dwell, dwell_unit=s;
    of KuaiSearch label=is_clicked."""


def main(arguments: list[str] | None = None) -> int:
    """Hand over to a command. Returns its exit code; 2 where there is none."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if name == "--version":
        print(f"lemur-mini {__version__}")
        return 0
    if name in ("", "-h", "--help"):
        print(USAGE)
        return 0 if name else 2
    if name not in (*MODULES, "convert", "health"):
        print(f"lemur_mini: no command {name!r}; lemur-mini --help", file=sys.stderr)
        return 2
    sys.argv = [f"lemur-mini {name}", *rest]  # what results say they were made by
    if name in MODULES:
        return in_one_line(import_module(MODULES[name]).main)()
    return in_one_line(_convert if name == "convert" else _health)(rest)


def _health(arguments: list[str]) -> None:
    from lemur_mini.data.health import health

    print(health(parse(Folder, arguments, prog="lemur-mini health").folder))


def _convert(arguments: list[str]) -> None:
    from lemur_mini import data

    asked = parse(Conversion, arguments, prog="lemur-mini convert")
    given, more = [asked.source, asked.out], {}
    if asked.kind == "amazon":
        given.append(asked.category)
    if asked.kind == "table":
        given.append(_pairs("--columns", asked.columns))
    if asked.kind in DRAWING:
        more["negatives"] = asked.negatives
    importer = getattr(data, (IMPORTERS | DRAWING)[asked.kind])
    named = _pairs("--options", asked.options) if asked.options else {}
    texts = [
        k for k, v in signature(importer).parameters.items() if type(v.default) is str
    ]
    for name in named.keys() - set(texts):
        known = ", ".join(texts) or "none"
        raise OptionError(f"--options {name}: {asked.kind} takes {known} by name")
    print(importer(*given, **more, **named))


def _pairs(option: str, pairs: tuple[str, ...]) -> dict[str, str]:
    if not pairs or any("=" not in pair for pair in pairs):
        raise OptionError(f"{option} takes NAME=VALUE, such as user_id=uid")
    return dict(pair.split("=", 1) for pair in pairs)


if __name__ == "__main__":
    sys.exit(main())
