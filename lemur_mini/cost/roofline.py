"""Where a training step's time goes, part by part, and how near each part comes to what
the machine could do: python -m lemur_mini.cost --scale classroom --parts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lemur_mini import losses
from lemur_mini.data.features import Features
from lemur_mini.data.pages import Batch
from lemur_mini.model import Lemur
from lemur_mini.training import Run

REPEATS = 5
# Operations that touch a few rows of their first argument, a table.
TABLES = ("index_select", "embedding", "index", "gather", "_embedding_bag",
          "_embedding_bag_forward_only")  # fmt: skip
IN_TABLE = ("index_copy_", "index_fill_")


def clock(device: torch.device) -> float:
    """Seconds. On the CPU those of this process, so that what else the machine does
    disturbs little; alone and with one thread they are those of the wall."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def medians(
    calls: dict[str, Callable], device: torch.device, repeats: int = REPEATS
) -> dict[str, float]:
    """Median seconds of every call: all once to warm up, then each in its turn, so
    that a slow minute of the machine falls on all alike."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            began = clock(device)
            call()
            if turn:
                taken[name].append(clock(device) - began)
    return {name: statistics.median(times) for name, times in taken.items()}


def machine(device: torch.device, precision: torch.dtype = torch.float32) -> dict:
    """The roof: GFLOP/s of a large matrix product, GB/s of a large copy."""
    n = 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device).to(precision) for _ in range(2))
    source = torch.zeros(2**24 if device.type == "cpu" else 2**28, device=device)
    target = torch.zeros_like(source)
    calls = {"matmul": lambda: a @ b, "copy": lambda: target.copy_(source)}
    taken = medians(calls, device)
    return {
        "gflops_per_second": 2 * n**3 / 1e9 / taken["matmul"],
        "gigabytes_per_second": 2 * source.nbytes / 1e9 / taken["copy"],
    }


class ByteCounter(TorchDispatchMode):
    """Bytes that operations read and write, each on its own, as if nothing were kept
    in a cache between two of them; `total` after the block. Views cost nothing."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not func.is_view and name != "detach":
            touched = [args[name in TABLES + IN_TABLE :], kwargs]
            touched += [] if name in IN_TABLE else [out] * (1 + (name in TABLES))
            tensors = tree_leaves(touched)
            self.total += sum(t.nbytes for t in tensors if isinstance(t, Tensor))
        return out


def split(
    model: Lemur, batch: Batch, features: Features, run: Run | None
) -> dict[str, Callable]:
    """The step's parts as calls that can run alone, each on inputs of its own:
    gradients end where a part ends. On the meta device the losses are left out, as
    autocast does not know it; without a run the optimiser."""
    (p, s), d = batch.item.shape, model.config.width
    device, groups, rows = batch.item.device, model.config.groups, batch.unique_items
    query = torch.randn(p, d, device=device, requires_grad=True)
    target = torch.randn(p, s, d, device=device, requires_grad=True)
    flat = [
        torch.randn(p * s, model.ranker.tokens.project[g].in_features, device=device)
        for g in groups
    ]
    flat = [x.requires_grad_() for x in flat]
    parts = {
        "encode": lambda: encode(model, batch, features),
        "bank": lambda: bank(model, batch, target.detach().view(-1, d)[: len(rows)]),
        "sequences": lambda: sequences(model, batch, query, target),
        "ranker": lambda: model.ranker(dict(zip(groups, flat, strict=True))),
    }
    if device.type != "meta":
        logit = torch.randn(p, s, device=device, requires_grad=True)
        parts["losses"] = lambda: loss(model, batch, query, target, logit)
    if run:
        parts["optimiser"] = lambda: optimise(run)
    return parts


def encode(model: Lemur, batch: Batch, features: Features) -> Tensor:
    """All distinct documents and queries of the batch."""
    if batch.item.is_meta:  # every document and query as long as the tokens are wide
        query = model.query_encoder(features.query_tokens, features.query_length)
        longest = features.tokens.shape[1]
        fresh = model.document_encoder(features, batch.unique_items, longest)
        return torch.cat([fresh, query])
    query, _ = model.encode_queries(batch, features)
    return torch.cat([model.encode(features, batch.unique_items), query])


def bank(model: Lemur, batch: Batch, fresh: Tensor) -> None:
    """Read the targets, write them, read the histories."""
    model.bank.read(batch.unique_items)
    model.bank.write(batch.unique_items, fresh, 0)
    model.history(batch, None)


def sequences(model: Lemur, batch: Batch, query: Tensor, target: Tensor) -> Tensor:
    """Id tables, LONGER, decoders and similarities."""
    user = model.ids["user"](batch.user + 1)
    item = model.ids["item"](batch.item + 1)
    known = torch.randn_like(target[:, :1]).expand(-1, batch.history.shape[1], -1)
    history = known.contiguous(), batch.history >= 0
    found = list(model.content(history, query, target, user=user, item=item).values())
    if "longer" in model.config.groups:
        watched = model.ids["item"](batch.history + 1)
        found.append(model.longer(item, user, watched, history[1]))
    return torch.cat(found, dim=-1)


def loss(
    model: Lemur, batch: Batch, query: Tensor, target: Tensor, logit: Tensor
) -> Tensor:
    """Cross-entropy and contrast."""
    click = losses.ctr(logit, batch.label, batch.mask)
    return click + model.contrastive_loss(batch, query, target, batch.mask)


def optimise(run: Run) -> None:
    """Clip and step, with the gradients that the parts before have left."""
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.config.clip)
    run.optimizer.step()


def by_part(parts: dict[str, Callable], device: torch.device, roof: dict) -> list[dict]:
    """FLOPs, bytes and, but for the meta device, seconds of every part, forward and
    backward, and `reached`: the roof's seconds for that work, of those measured."""
    lines = []
    for name, call in parts.items():
        forward, out = counted(call)
        work = {"forward": (call, forward)}
        if out is not None and out.requires_grad:
            seed = torch.ones_like(out)

            def both(call=call, seed=seed) -> None:
                call().backward(seed)

            total, _ = counted(both)
            backward = {key: total[key] - forward[key] for key in total}
            work["backward"] = both, backward
        taken = {}
        if device.type != "meta":
            taken = medians({way: call for way, (call, _) in work.items()}, device)
            if "backward" in taken:
                taken["backward"] -= taken["forward"]
        lines += [
            line(
                f"{name}, {way}" if len(work) > 1 else name, cost, taken.get(way), roof
            )
            for way, (_, cost) in work.items()
        ]
    return lines


def line(part: str, cost: dict, seconds: float | None, roof: dict) -> dict:
    """One part beside the roof."""
    if seconds is None:
        return {"part": part} | cost
    best = max(
        cost["gflops"] / roof["gflops_per_second"],
        cost["gigabytes"] / roof["gigabytes_per_second"],
    )
    return {"part": part} | cost | {"seconds": seconds, "reached": best / seconds}


def counted(call: Callable) -> tuple[dict[str, float], Tensor | None]:
    """GFLOPs and gigabytes of a call, and what it returns."""
    with ByteCounter() as moved, FlopCounterMode(display=False) as worked:
        out = call()
    flops = worked.get_total_flops()
    return {"gflops": flops / 1e9, "gigabytes": moved.total / 1e9}, out
