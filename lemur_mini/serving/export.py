"""What an engine outside Python serves from: the query tower and the bank, in files."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lemur_mini.checkpoints import CheckpointError
from lemur_mini.data.features import query_limit
from lemur_mini.data.schema import DataError
from lemur_mini.files import as_json, require_folder, write_text_atomically
from lemur_mini.memory_bank import NEVER
from lemur_mini.serving.ranker import Ranker

TOWER, BANK, IDS, TOKENIZER = (
    "query_tower.pt2",
    "bank.safetensors",
    "ids.json",
    "tokenizer.json",
)
COUNTS = "statistics.safetensors"  # `Counts.of_arrays` reads them, and goes on
COUNTED = "statistics_ids.json"  # user_id and item_id of the rows in their keys


class QueryTower(nn.Module):
    """Tokens (B, Lq) int64 and lengths (B,) to query vectors (B, D) of length one."""

    def __init__(self, ranker: Ranker):
        super().__init__()
        self.encoder = ranker.model.query_encoder
        self.norm = ranker.model.running_norms["query"]

    def forward(self, tokens: Tensor, length: Tensor) -> Tensor:
        return F.normalize(self.norm(self.encoder(tokens, length)), dim=-1)


def export_engine(ranker: Ranker, folder: Path) -> None:
    """Write four files: the query tower as a graph of ATen operators (torch.export, any
    batch size, tokens padded to `query_limit` and cls), every vector of the bank,
    scaled to length one (`vectors`: (M, D) float32, safetensors), the item_ids of its
    rows, and the tokenizer; two more where the ranker reads statistics: all that is
    counted, and of whom. The nearest rows by dot product are `Ranker.retrieve`.
    Raises DataError where there is no query tower, FileError where none can be put."""
    model, known = ranker.model.cpu().eval(), ranker.known
    if known.feed or not model.config.has_content:
        raise DataError("no query tower to export: a feed, or a model of ids alone")
    require_folder(folder)
    width = 1 + query_limit(model.config)
    example = (torch.ones(2, width, dtype=torch.long), torch.full((2,), width))
    batch = torch.export.Dim("batch", min=1, max=4096)
    graph = torch.export.export(
        QueryTower(ranker).eval(), example, dynamic_shapes=({0: batch}, {0: batch})
    )
    torch.export.save(graph, folder / TOWER)
    rows = torch.nonzero(model.bank.written > NEVER).squeeze(1)
    vectors = F.normalize(model.bank.vectors[rows], dim=-1)
    save_file({"vectors": vectors.contiguous()}, folder / BANK)
    write_text_atomically(folder / IDS, as_json(ranker.ids_of(rows.tolist())))
    known.tokenizer.backend_tokenizer.save(str(folder / TOKENIZER))
    if "statistics" in model.config.groups:
        _export_counts(ranker, folder)


def _export_counts(ranker: Ranker, folder: Path) -> None:
    counts, names = ranker.numbers.counts.arrays(), ranker.known.names
    save_file({k: torch.tensor(v) for k, v in counts.items()}, folder / COUNTS)
    ids = {"users": names["users"], "items": names["items"]}
    write_text_atomically(folder / COUNTED, as_json(ids))


def load_program(path: Path) -> nn.Module:
    """An exported program: the query tower, or the whole ranker (`program`). Raises
    CheckpointError for a file that is none.

    A .pt2 file is a zip archive of JSON and raw tensors, but `torch.export.load` also
    unpickles: example inputs always, weights and constants where the archive says so;
    and a pickle can run any code. Ours holds plain tensors only, and an archive that
    holds more is refused before it is loaded. That is no proof against every forged
    file: load what you trust. The other three files cannot run anything."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = [n for n in archive.namelist() if _runs_code(n, archive.read(n))]
    except (zipfile.BadZipFile, OSError) as error:
        raise CheckpointError(f"{path}: no exported program ({error})") from error
    if bad:
        problem = f"{path}: {bad[0]} may run code when it is loaded"
        raise CheckpointError(
            f"{problem}; export it again with lemur_mini.serving.export"
        )
    return torch.export.load(path).module()


load_tower = load_program


def _runs_code(name: str, content: bytes) -> bool:
    if name.endswith("config.json"):
        entries = json.loads(content).get("config", {}).values()
        return any(entry.get("use_pickle") for entry in entries)
    if name.endswith(".pt"):
        try:
            torch.load(io.BytesIO(content), weights_only=True)
        except Exception:  # whatever it is, it is no plain tensor
            return True
    return any(part in name for part in ("custom_obj", "opaque", "aotinductor"))


def load_bank(folder: Path) -> tuple[Tensor, list]:
    """Vectors (M, D) and the item_id of each."""
    ids = json.loads((folder / IDS).read_text("utf-8"))
    return load_file(folder / BANK)["vectors"], ids
