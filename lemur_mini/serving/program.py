"""The ranker without Python: a program of rows and tokens to logits, in two formats.

It holds weights and bank, and needs no class of ours. What it does not hold is listed
in MISSING."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from lemur_mini.config import Config
from lemur_mini.data.errors import DataError
from lemur_mini.data.features import query_limit
from lemur_mini.data.pages import Batch
from lemur_mini.files import FileError, require_folder, write_atomically
from lemur_mini.memory_bank import NEVER
from lemur_mini.model import Lemur
from lemur_mini.sequence import CrossAttention

GRAPH, ONNX = "ranker.pt2", "ranker.onnx"
MOST_PAGES, MOST_SHOWN = 4096, 4096
MISSING = (
    "tokens: tokenizer.json turns a text into them, in any language with `tokenizers`",
    "rows: the ids of the artefact name users, queries and documents",
    "histories: an engine keeps what its users watch",
    "new documents: rows of the bank are fixed; export again when it has grown",
    "statistics and match: numbers that an engine counts itself, inputs of the program",
)


class Program(nn.Module):
    """A model as a function of tensors. All rows are int64, -1 where there is none.

    user, query: (P,) rows; item: (P, S) candidates; history: (P, L) watched documents,
    newest first. Where the model reads them, in this order: tokens (P, 1 + Lq) of the
    queries with cls in front, and length (P,); seen (P, K) and taken (P, K) bool;
    statistics and match (P, S, F). Returns logits (P, S); those of -1 mean nothing."""

    def __init__(self, model: Lemur):
        super().__init__()
        self.model = copy.deepcopy(model).cpu().eval()
        # a table that grew has room behind its rows, which is not to be written
        state = model.state_dict().items()
        own = {name: rows.cpu().clone() for name, rows in state}
        self.model.load_state_dict(own, assign=True)
        for part in self.model.modules():
            if isinstance(part, CrossAttention):
                part.absorbs = False  # one form for all lengths: the same numbers
        if "longer" in model.config.groups:
            self.model.watched = self._watched
        if model.config.has_content:  # bags of one row are a loop in ONNX
            self.model.bank.read = self._read
        self.names = inputs_of(model)

    def _read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        bank, index = self.model.bank, rows.clamp(min=0)
        found = (rows >= 0) & (bank.written[index] > NEVER)
        return F.embedding(index, bank.vectors) * found[..., None], found

    def _watched(self, batch: Batch) -> tuple[Tensor, Tensor]:
        rows = self.model.ids["item"](batch.history + 1)
        return self.model.longer.tokens(rows, batch.history >= 0)

    def forward(
        self, user: Tensor, query: Tensor, item: Tensor, history: Tensor, *more: Tensor
    ) -> Tensor:
        model, named = self.model, dict(zip(self.names[4:], more, strict=True))
        none = torch.zeros(0, dtype=torch.long)
        known = {k: v for k, v in named.items() if k not in ("tokens", "length")}
        batch = Batch(
            user, query, query, item, item, history, none, item, none, query, **known
        )
        asked = target = None
        if model.config.has_content:
            target = model.bank.read(item)[0]
            if "tokens" in named:
                asked = model.query_encoder(named["tokens"], named["length"])
                asked = model.running_norms["query"](asked)
            else:
                asked = model.feed_queries(batch)[0]
        return model.rank(batch, asked, target)


def inputs_of(model: Lemur) -> tuple[str, ...]:
    """Names of the program's inputs, in order."""
    config, names = model.config, ["user", "query", "item", "history"]
    if config.has_content and not model.sizes.feed:
        names += ["tokens", "length"]
    names += ["seen", "taken"] if config.history_seen else []
    return (*names, *config.dense)


def example(model: Lemur, pages: int = 2, shown: int = 3) -> tuple[Tensor, ...]:
    """Inputs of the right form."""
    config, sizes = model.config, model.sizes
    rows = torch.zeros(pages, dtype=torch.long)
    width = 1 + query_limit(config)
    known = {
        "user": rows,
        "query": rows.clone(),  # one tensor for two inputs would be traced as one
        "item": torch.zeros(pages, shown, dtype=torch.long),
        "history": torch.zeros(pages, config.history_long, dtype=torch.long),
        "tokens": torch.ones(pages, width, dtype=torch.long),
        "length": torch.full((pages,), width),
        "seen": torch.zeros(pages, config.history_seen, dtype=torch.long),
        "taken": torch.zeros(pages, config.history_seen, dtype=torch.bool),
        "statistics": torch.zeros(pages, shown, sizes.statistics),
        "match": torch.zeros(pages, shown, sizes.match),
    }
    return tuple(known[name] for name in inputs_of(model))


def sizes_of(config: Config, names: tuple[str, ...]) -> tuple[dict, ...]:
    """Which sizes of each input may vary, and between what."""
    p, s = Dim("pages", min=1, max=MOST_PAGES), Dim("shown", min=1, max=MOST_SHOWN)
    # more groups than the two shared tokens: the graph takes it that these differ
    least = max(3, -(-config.history_short // config.longer_merge))
    groups = Dim("groups", min=least, max=config.history_long // config.longer_merge)
    length = config.longer_merge * groups if config.longer_merge > 1 else groups
    two = {"item": s, "history": length, "statistics": s, "match": s}
    return tuple({0: p} | ({1: two[n]} if n in two else {}) for n in names)


def export_ranker(model: Lemur, folder: Path, onnx: bool = True) -> list[Path]:
    """Write the program as `ranker.pt2` (torch.export) and `ranker.onnx`: any number of
    pages and candidates, histories of `history_short` documents (three groups at
    least) up to the model's length, in groups of `longer_merge`. Returns the files.
    Raises DataError for a model that cannot be, FileError where nothing can be
    written."""
    require_folder(folder)
    if model.config.longer_inner:
        raise DataError("a model with longer_inner has no fixed graph to export")
    program, inputs = Program(model), example(model)
    sizes = sizes_of(model.config, program.names)
    form = (*sizes[:4], sizes[4:])
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        graph = torch.export.export(program, inputs, dynamic_shapes=form)
    written = [folder / GRAPH]
    write_atomically(written[0], lambda part: _save(graph, part))
    if onnx:
        written.append(folder / ONNX)
        write_atomically(written[1], lambda part: _save_onnx(graph, program, part))
    return written


def _save(graph, path: Path) -> None:
    with path.open("wb") as file:
        torch.export.save(graph, file)


def _save_onnx(graph, program: Program, path: Path) -> None:
    try:
        import onnxscript  # noqa: F401  what torch writes the format with
    except ModuleNotFoundError as error:
        raise FileError(
            f"{error.name} is not installed; pip install -c constraints.txt -e "
            '".[export]" brings it'
        ) from error
    with warnings.catch_warnings(action="ignore"):
        made = torch.onnx.export(
            graph,
            input_names=list(program.names),
            output_names=["logit"],
            verbose=False,
        )
    path.write_bytes(made.model_proto.SerializeToString())
