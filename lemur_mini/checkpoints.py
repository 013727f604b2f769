"""Checkpoints: one safetensors file with JSON in its header. Loading runs no code."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as as_bytes

from lemur_mini import finite
from lemur_mini.config import Config
from lemur_mini.data.fingerprint import Fingerprint, Mismatch
from lemur_mini.data.likeness import Likeness
from lemur_mini.data.match import Match
from lemur_mini.data.past import Past, matcher_of
from lemur_mini.files import FileError, as_json, one_line, under, write_atomically
from lemur_mini.memory_bank import NEVER
from lemur_mini.model import Lemur, Sizes
from lemur_mini.remap import fingerprint_tensors, for_data
from lemur_mini.training import Part, Run

FACTS = {"config", "sizes", "data", "seed", "total", "step", "seconds", "log"}
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
UNREAD = NEVER - 1


class CheckpointError(FileError):
    """A checkpoint that cannot be used; the message names file and remedy."""


def read_rows(tensors: dict[str, torch.Tensor], folder: Path, alone: bool) -> None:
    """Fill tensors, or this rank's parts of them, from a folder of safetensors that
    several ranks wrote, one file each. Raises ValueError where something is missing."""
    from torch.distributed import checkpoint

    if not any(folder.glob("*.safetensors")):
        raise ValueError("no file there")
    own = [x if alone else x.to_local() for x in tensors.values()]
    for part in own:
        part.fill_(math.nan if part.is_floating_point() else UNREAD)
    reader = checkpoint.HuggingFaceStorageReader(str(folder))
    with warnings.catch_warnings(action="ignore"):  # one process: that is meant
        try:
            checkpoint.load(tensors, storage_reader=reader, no_dist=alone)
        except checkpoint.CheckpointException as error:  # no Exception, of all things
            raise ValueError(str(error).splitlines()[-1]) from error
    for part in own:  # the reader does not ask whether all is there
        if (part.isnan() if part.is_floating_point() else part == UNREAD).any():
            raise ValueError("a file is missing")


def save(run: Run, path: Path, data: Fingerprint) -> None:
    """Write model, bank, optimiser, place in the stream, and what it was trained on."""
    write(path, facts_of(run, data), tensors_of(run, data))


def facts_of(run: Run, data: Fingerprint) -> dict:
    """What a checkpoint says beside its tensors."""
    return {
        "config": dataclasses.asdict(run.config),
        "sizes": dataclasses.asdict(run.model.sizes),
        "data": data.parts.get("data"),
        "parts": data.parts,
        "seed": run.seed,
        "total": run.total,
        "step": run.step,
        "seconds": run.seconds,
        "log": run.log,
        "floor": run.floor,
        "part": part_facts(run.part),
    }


def part_facts(part: Part | None) -> dict | None:
    """What a checkpoint says of the stream's part, beside the tensors `past.*`."""
    if part is None or part.past is None:
        return None
    facts, _ = part.past.state()
    return {"began": part.began, "sum": part.sum, "done": part.done, "past": facts}


def part_of(facts: dict, tensors: dict[str, torch.Tensor]) -> Part | None:
    """The part of a stream that a checkpoint was written in; None of a table, or of a
    checkpoint that is older than streams."""
    if not facts.get("part"):
        return None
    said = facts["part"]
    arrays = {k: v.numpy() for k, v in under("past.", tensors).items()}
    return Part(Past.of(said["past"], arrays), said["began"], said["sum"], said["done"])


def tensors_of(run: Run, data: Fingerprint) -> dict[str, torch.Tensor]:
    """Weights, buffers, the optimiser's moments and the ids of the data, by name, on
    the CPU."""
    tensors = {f"model.{k}": v for k, v in run.model.state_dict().items()}
    tensors |= fingerprint_tensors(data)
    for name, parameter in run.model.named_parameters():
        for moment, value in run.optimizer.state.get(parameter, {}).items():
            tensors[f"{moment}.{name}"] = value
    if run.part and run.part.past:
        arrays = run.part.past.state()[1]
        tensors |= {f"past.{k}": torch.from_numpy(v) for k, v in arrays.items()}
    return {k: v.detach().cpu().contiguous() for k, v in tensors.items()}


def export(source: Path, path: Path) -> None:
    """A checkpoint without its optimiser and in half precision: to serve, to ship."""
    facts, tensors = read(source)
    kept = {k: v for k, v in tensors.items() if k.startswith(("model.", "data."))}
    whole = ("model.dense.",)  # mean squares, of which small differences count
    halved = {
        k: v.half() if v.dtype == torch.float32 and not k.startswith(whole) else v
        for k, v in kept.items()
    }
    write(path, facts | {"part": None}, halved)


def write(path: Path, facts: dict, tensors: dict[str, torch.Tensor]) -> None:
    """Write a checkpoint, whole or not at all. Where `facts` name rows, they lie in a
    folder of that name beside the file; folders that no file names any more are
    removed. Raises CheckpointError, and FloatingPointError for what is no number:
    a good checkpoint is never replaced by a bad one."""
    finite.require_tensors(tensors, path)
    facts = json.loads(as_json(facts))
    checked = facts | {"checksum": _checksum(facts, tensors)}
    header = {"lemur_mini": json.dumps(checked)}
    try:  # not `save_file`: killed, it leaves a file beside ours, each time another
        write_atomically(path, lambda part: part.write_bytes(as_bytes(tensors, header)))
    except FileError as error:
        raise CheckpointError(f"{error}, then resume") from error
    _remove_rows(path, facts.get("rows", {}).get("folder"))


def remove(path: Path) -> None:
    """Remove a checkpoint, and rows of it that lie beside."""
    path.unlink(missing_ok=True)
    _remove_rows(path)


def _remove_rows(path: Path, but: str | None = None) -> None:
    for folder in path.parent.glob(f"{path.stem}.rows-*"):
        if folder.name != but:
            shutil.rmtree(folder, ignore_errors=True)  # another rank may be first


def _checksum(facts: dict, tensors: dict[str, torch.Tensor]) -> int:
    """Of all that a checkpoint says: safetensors itself notices no flipped bit."""
    value = zlib.crc32(json.dumps(facts).encode())
    for name, tensor in sorted(tensors.items()):
        kind = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        value = zlib.crc32(kind.encode(), value)
        if tensor.numel():
            value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), value)
    return value


def read(path: Path, whole: bool = True) -> tuple[dict, dict[str, torch.Tensor]]:
    """The facts and the tensors of a checkpoint: as written, finite, and with the
    `whole` of what ranks cut by rows."""
    with _explained(path):
        with safe_open(path, "pt") as file:
            facts = _header(file)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        _check(facts, tensors)
        if whole and "rows" in facts:
            rows = facts.pop("rows")
            parts = {
                name: torch.empty(shape, dtype=getattr(torch, kind))
                for name, (shape, kind) in rows["shapes"].items()
            }
            with whole_rows(path, rows["folder"]) as folder:
                read_rows(parts, folder, alone=True)
            tensors |= {f"model.{name}": part for name, part in parts.items()}
    return facts, tensors


def read_facts(path: Path) -> dict:
    """What a checkpoint says beside its tensors, which are not read."""
    with _explained(path), safe_open(path, "pt") as file:
        return _header(file)


def read_matcher(path: Path) -> Match | Likeness | None:
    """What weighs the `match` of a run that is kept, without the rest."""
    with _explained(path), safe_open(path, "pt") as file:
        said = _header(file).get("part") or {"past": {}}
        names = [n for n in file.keys() if n.startswith("past.match.")]  # noqa: SIM118
        arrays = {n: file.get_tensor(n).numpy() for n in names}
        return matcher_of(said["past"], under("past.", arrays))


def _header(file) -> dict:
    facts = json.loads((file.metadata() or {})["lemur_mini"])
    if not isinstance(facts, dict) or not facts.keys() >= FACTS:
        raise ValueError("its header lacks what training writes")
    return facts


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What goes wrong while a checkpoint is read, as a CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no checkpoint there; train first") from None
    except (SafetensorError, KeyError, ValueError, OSError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: not a whole checkpoint ({one_line(error)}); "
            "delete it and train again"
        ) from error


def _check(facts: dict, tensors: dict[str, torch.Tensor]) -> None:
    wanted = facts.pop("checksum", None)  # older files have none
    if wanted not in (None, _checksum(facts, tensors)):
        raise ValueError("its checksum is not that of its content")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} holds numbers that are not finite")


@contextmanager
def whole_rows(path: Path, name: str) -> Iterator[Path]:
    """The folder of rows that the checkpoint at `path` names; what goes wrong while it
    is read, as a CheckpointError."""
    try:
        yield path.parent / name
    except ValueError as error:
        raise CheckpointError(
            f"{path.parent / name}: not all rows ({error}); delete {path.name} and "
            "train again"
        ) from error


def load_model(
    path: Path,
    device: torch.device | str = "cpu",
    data: Fingerprint | None = None,
) -> Lemur:
    """The model of a checkpoint with its bank, ready to serve: with the rows of the
    data set it was trained on or, given the fingerprint of another, with the rows of
    that (see `remap.for_data`). Raises CheckpointError where the two do not belong
    together."""
    return build(path, *read(path), device, data)


def build(
    path: Path,
    facts: dict,
    tensors: dict[str, torch.Tensor],
    device: torch.device | str = "cpu",
    data: Fingerprint | None = None,
) -> Lemur:
    """`load_model` of what was read of the checkpoint at `path`."""
    try:
        config, sizes = config_of(facts), Sizes(**facts["sizes"])
        if data is not None:
            sizes, tensors = for_data(facts, tensors, data)
        model = Lemur(config, sizes).to(device)
        model.load_state_dict(under("model.", tensors))
    except Mismatch as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (AttributeError, TypeError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: of another version ({one_line(error)}); train again with this one"
        ) from error
    return model.eval()


def resume(path: Path, fresh: Run, data: Fingerprint) -> Run:
    """Bring a fresh run to where the checkpoint was. Raises CheckpointError where the
    checkpoint is of another configuration, seed or data."""
    return restore(fresh, path, *read(path), data)


def restore(run: Run, path: Path, facts: dict, tensors: dict, data: Fingerprint) -> Run:
    """Put what was read of the checkpoint at `path` into a fresh run. Nothing is mapped
    here: only the same rows in the same order go on where it stopped."""
    there = facts["config"] | {k: facts[k] for k in ("seed", "total")}
    there |= facts.get("parts", {"data": facts["data"]})
    here = json.loads(json.dumps(dataclasses.asdict(run.config)))
    here |= {"seed": run.seed, "total": run.total} | data.parts
    other = sorted(k for k in here if here[k] != there.get(k))
    if other:
        changes = ", ".join(f"{k} {there.get(k)} (now {here[k]})" for k in other[:3])
        raise CheckpointError(
            f"{path}: written with {changes}; use the same settings or another --out"
        )
    if facts["step"] and not under("exp_avg.", tensors):
        raise CheckpointError(
            f"{path}: exported without its optimiser, to serve; "
            "resume from a checkpoint of training"
        )
    run.model.load_state_dict(under("model.", tensors))
    for name, parameter in run.model.named_parameters():
        state = {m: tensors[f"{m}.{name}"] for m in MOMENTS if f"{m}.{name}" in tensors}
        if state:
            moved = {k: v.to(parameter.device) for k, v in state.items()}
            run.optimizer.state[parameter] = moved
    run.step, run.seconds, run.log = facts["step"], facts["seconds"], facts["log"]
    return run


def config_of(facts: dict) -> Config:
    """The configuration in a checkpoint's header; JSON has no tuples."""

    def tuples(value):
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    stored = Config.known(facts["config"])
    return Config(**{k: tuples(v) for k, v in stored.items()})
