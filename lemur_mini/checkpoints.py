"""Checkpoints: one safetensors file with JSON in its header. Loading runs no code."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import zlib
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as as_bytes

from lemur_mini.config import Config
from lemur_mini.memory_bank import MemoryBank
from lemur_mini.model import Lemur, Sizes
from lemur_mini.sharded_bank import ShardedBank, load_bank, save_bank
from lemur_mini.training import Run

FACTS = {"config", "sizes", "data", "seed", "total", "step", "seconds", "log"}
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names file and remedy."""


def write_atomically(path: Path, write) -> None:
    """`write(temporary path)`, then put the file in place: whole or not at all.

    Raises CheckpointError where that fails (a full disk, no right to write); a file
    that stood there before is kept."""
    temporary = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: cannot be written ({_line(error)}); what stood there is kept: "
            "free some space or write elsewhere, then resume"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """A text in UTF-8, whole or not at all."""
    write_atomically(path, lambda part: part.write_text(text, "utf-8"))


def save(run: Run, path: Path, data: str) -> None:
    """Write model, bank, optimiser and place in the stream. data: its checksum.

    Rank 0 writes what all ranks hold alike; each writes its shard of a bank, into a
    folder beside the file that names it, so that both change at once."""
    tensors = {f"model.{k}": v for k, v in run.model.state_dict().items()}
    for name, parameter in run.model.named_parameters():
        for moment, value in run.optimizer.state.get(parameter, {}).items():
            tensors[f"{moment}.{name}"] = value
    facts = {
        "config": dataclasses.asdict(run.config),
        "sizes": dataclasses.asdict(run.model.sizes),
        "data": data,
        "seed": run.seed,
        "total": run.total,
        "step": run.step,
        "seconds": run.seconds,
        "log": run.log,
    }
    if sharded(run.model):
        facts["bank"] = f"{path.stem}.bank-{run.step}"
        save_bank(run.model.bank, path.parent / facts["bank"])
    if not run.model.ranks.rank:
        tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        _write(path, facts, tensors)
        for folder in path.parent.glob(f"{path.stem}.bank-*"):
            if folder.name != facts.get("bank"):
                shutil.rmtree(folder)
    run.model.ranks.wait()


def sharded(model: Lemur) -> bool:
    """Whether every rank has rows of its own of the bank."""
    return isinstance(getattr(model, "bank", None), ShardedBank)


def export(source: Path, path: Path) -> None:
    """A checkpoint without its optimiser and in half precision: to serve, to ship."""
    facts, tensors = read(source)
    kept = {k: v for k, v in tensors.items() if k.startswith("model.")}
    halved = {k: v.half() if v.dtype == torch.float32 else v for k, v in kept.items()}
    _write(path, facts, halved)


def _write(path: Path, facts: dict, tensors: dict[str, torch.Tensor]) -> None:
    checked = facts | {"checksum": _checksum(facts, tensors)}
    header = {"lemur_mini": json.dumps(checked)}
    # not `save_file`: killed, it leaves a file beside ours, each time another
    write_atomically(path, lambda part: part.write_bytes(as_bytes(tensors, header)))


def _checksum(facts: dict, tensors: dict[str, torch.Tensor]) -> int:
    """Of all that a checkpoint says: safetensors itself notices no flipped bit."""
    value = zlib.crc32(json.dumps(facts).encode())
    for name, tensor in sorted(tensors.items()):
        kind = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        value = zlib.crc32(kind.encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), value)
    return value


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def read(path: Path, whole: bool = True) -> tuple[dict, dict[str, torch.Tensor]]:
    """The facts and the tensors of a checkpoint: as written, finite, and with the
    `whole` of a sharded bank."""
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {})["lemur_mini"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        _check(facts, tensors)
        if whole and "bank" in facts:
            bank = MemoryBank(facts["sizes"]["documents"], facts["config"]["width"])
            fill(bank, path, facts.pop("bank"))
            tensors |= {f"model.bank.{k}": v for k, v in bank.state_dict().items()}
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no checkpoint there; train first") from None
    except (SafetensorError, KeyError, ValueError, OSError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: not a whole checkpoint ({_line(error)}); "
            "delete it and train again"
        ) from error
    return facts, tensors


def _check(facts: dict, tensors: dict[str, torch.Tensor]) -> None:
    if not isinstance(facts, dict) or not facts.keys() >= FACTS:
        raise ValueError("its header lacks what training writes")
    wanted = facts.pop("checksum", None)  # older files have none
    if wanted not in (None, _checksum(facts, tensors)):
        raise ValueError("its checksum is not that of its content")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} holds numbers that are not finite")


def fill(bank: MemoryBank, path: Path, name: str) -> None:
    """Read the bank that the checkpoint at `path` names, whole or this rank's rows."""
    try:
        load_bank(bank, path.parent / name)
    except ValueError as error:
        raise CheckpointError(
            f"{path.parent / name}: not a whole bank ({error}); delete {path.name} and "
            "train again"
        ) from error


def load_model(path: Path, device: torch.device | str = "cpu") -> Lemur:
    """The model of a checkpoint with its bank, ready to serve."""
    facts, tensors = read(path)
    try:
        model = Lemur(config_of(facts), Sizes(**facts["sizes"])).to(device)
        model.load_state_dict(_part(tensors, "model"))
    except (AttributeError, TypeError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: of another version ({_line(error)}); train again with this one"
        ) from error
    return model.eval()


def resume(path: Path, fresh: Run, data: str) -> Run:
    """Bring a fresh run to where the checkpoint was. Raises CheckpointError where the
    checkpoint is of another configuration, seed or data."""
    facts, tensors = read(path, whole=not sharded(fresh.model))
    there = facts["config"] | {k: facts[k] for k in ("data", "seed", "total")}
    here = json.loads(json.dumps(dataclasses.asdict(fresh.config)))
    here |= {"data": data, "seed": fresh.seed, "total": fresh.total}
    other = sorted(k for k in here if here[k] != there.get(k))
    if other:
        changes = ", ".join(f"{k} {there.get(k)} (now {here[k]})" for k in other[:3])
        raise CheckpointError(
            f"{path}: written with {changes}; use the same settings or another --out"
        )
    if facts["step"] and not _part(tensors, "exp_avg"):
        raise CheckpointError(
            f"{path}: exported without its optimiser, to serve; "
            "resume from a checkpoint of training"
        )
    fresh.model.load_state_dict(_part(tensors, "model"))
    if "bank" in facts:
        fill(fresh.model.bank, path, facts["bank"])
    for name, parameter in fresh.model.named_parameters():
        state = {m: tensors[f"{m}.{name}"] for m in MOMENTS if f"{m}.{name}" in tensors}
        if state:
            moved = {k: v.to(parameter.device) for k, v in state.items()}
            fresh.optimizer.state[parameter] = moved
    fresh.step, fresh.seconds, fresh.log = facts["step"], facts["seconds"], facts["log"]
    return fresh


def config_of(facts: dict) -> Config:
    """The configuration in a checkpoint's header; JSON has no tuples."""

    def tuples(value):
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    return Config(**{k: tuples(v) for k, v in facts["config"].items()})


def _part(tensors: dict, prefix: str) -> dict:
    start = prefix + "."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
