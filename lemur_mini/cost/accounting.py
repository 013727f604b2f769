"""What a training step costs, counted by torch on the real step.

python -m lemur_mini.cost --scale paper --json counts parameters and FLOPs of the
paper's five rows (section 4) on the meta device: shapes alone, nothing is computed.
With --parts: FLOPs, bytes and seconds of one step on the shipped data, part by part,
beside what this machine can do; the paper's scale is counted, not run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lemur_mini import files, pipeline
from lemur_mini.config import BASELINE_CHANGES, SCALES, Config
from lemur_mini.cost import roofline
from lemur_mini.data.features import Features
from lemur_mini.data.pages import Batch
from lemur_mini.devices import autocast, choose_device
from lemur_mini.files import DATA
from lemur_mini.longer import Longer
from lemur_mini.model import Lemur, Sizes
from lemur_mini.pipeline import Prepared
from lemur_mini.sequence import CrossAttention
from lemur_mini.training import Run, make_model, step_options

FIELDS = 4  # text fields of a document
MEAN_TOKENS = {"query": 4, "document": 115}  # paper, section 2; cls and sep counted
SHARES = {"none": (1, 1), "p100_q20": (1, 0.2), "p20_q20": (0.2, 0.2)}
SHARES["p10_q10"] = (0.1, 0.1)
PAPER = {  # its own table: parameters in millions, GFLOPs of a step of 2,048
    "params": {"baseline": 92, "lemur": 139},
    "gflops": {"baseline": 1673, "none": 4303, "p100_q20": 3232}
    | {"p20_q20": 2439, "p10_q10": 2262},
}


def step_flops(
    prepared: Prepared,
    config: Config,
    build: Callable[[Config, Sizes], Lemur] = Lemur,
) -> dict[str, int]:
    """Floating-point operations of the last step of a training, forward and backward.

    At the last step the bank is full and sampling is on. Returns `total` and, of it,
    `document_encoder`, forward and backward."""
    features = prepared.features
    device = features.tokens.device
    model = make_model(config, prepared.sizes, 0, device, build).train()
    if config.has_content:
        model.bank.written.zero_()  # all known; what they say costs nothing
    if config.two_stage:
        model.freeze(features)
    index = prepared.pages.between(None, prepared.dataset.test_start)[
        -config.batch_pages :
    ]
    run = Run(model, features, 0, total=2, step=1)
    batch = prepared.pages.batch(index, config.history_long).to(run.device)
    with FlopCounterMode(display=False) as counter:
        model.losses(batch, features, step_options(run, batch)).total.backward()
    parts = counter.get_flop_counts()
    document = sum(parts.get("DocumentEncoder", {}).values())
    return {"total": counter.get_total_flops(), "document_encoder": document}


def on_meta(config: Config) -> tuple[Lemur, Batch, Features]:
    """A model of these sizes, a full batch and its features: shapes without numbers."""
    p, s, history = config.batch_pages, config.page_size, config.history_long
    documents, length = p * s, MEAN_TOKENS["document"]
    with torch.device("meta"):
        model = Lemur(config, Sizes(1, documents, 1, config.vocabulary, FIELDS))
        for part in model.modules():  # the paper's step is counted as it is printed
            if isinstance(part, CrossAttention):
                part.absorbs = False
            if isinstance(part, Longer):
                part.looks_up = False
        rows = torch.zeros(documents, dtype=torch.long)
        page = rows[:p]
        text = torch.zeros(documents, length, dtype=torch.int32)
        query = torch.zeros(p, 1 + MEAN_TOKENS["query"], dtype=torch.int32)
        size = config.image_size
        image = torch.zeros(documents, 3, size, size, dtype=torch.uint8)
        features = Features(text, text, text, rows, image, rows > 0, query, page)
        place = torch.zeros(p, s, dtype=torch.long)
        past = torch.zeros(p, history, dtype=torch.long)
        label = torch.zeros(p, s)
        batch = Batch(page, page, page, place, label, past, rows, place, page, page)
    return model, batch, features


def flops(call) -> int:
    """Floating-point operations of `call()`, and of the backward pass where it returns
    something that carries a gradient."""
    with FlopCounterMode(display=False) as counter:
        out: Tensor = call()
        if out.requires_grad:
            out.sum().backward()
    return counter.get_total_flops()


def ranker_flops(model: Lemur, batch: Batch) -> int:
    """All but the encoders: ids, LONGER, decoders, similarities, ranker."""
    if not model.config.has_content:
        return flops(lambda: model.rank(batch, None, None))
    (p, s), d = batch.item.shape, model.config.width
    query = torch.zeros(p, d, device="meta", requires_grad=True)
    target = torch.zeros(p, s, d, device="meta", requires_grad=True)
    return flops(lambda: model.rank(batch, query, target))


def count(config: Config) -> dict[str, dict[str, float]]:
    """Parameters (millions) and GFLOPs of one step with no document twice, of the id
    baseline and of LEMUR with each way of sampling.

    Id tables are left out, as they depend on the data; the texts' are counted."""
    plain, batch, _ = on_meta(config.replace(**BASELINE_CHANGES))
    lemur, _, features = on_meta(config)
    rows, length = batch.unique_items, MEAN_TOKENS["document"]

    def encode(share: float) -> Tensor:
        return lemur.document_encoder(
            features, rows[: round(share * len(rows))], length
        )

    asked = features.query_tokens, features.query_length
    rest = ranker_flops(lemur, batch) + flops(lambda: lemur.query_encoder(*asked))
    gflops = {"baseline": ranker_flops(plain, batch)}
    for name, (forward, backward) in SHARES.items():
        gflops[name] = rest + flops(lambda share=backward: encode(share))
        if forward > backward:
            with torch.no_grad():
                gflops[name] += flops(lambda share=forward - backward: encode(share))
    return {
        "params": {"baseline": dense(plain), "lemur": dense(lemur)},
        "gflops": {name: value / 1e9 for name, value in gflops.items()},
    }


def dense(model: nn.Module) -> float:
    """Millions of parameters outside the id tables."""
    named = model.named_parameters()
    return sum(p.numel() for name, p in named if not name.startswith("ids.")) / 1e6


def parts_of(config: Config, prepared: Prepared) -> dict:
    """Every part of the last training step, with the bank full, beside the roof."""
    features = prepared.features
    device = features.tokens.device
    model = make_model(config, prepared.sizes, 0, device).train()
    model.bank.written.zero_()
    index = prepared.pages.between(None, prepared.dataset.test_start)[
        -config.batch_pages :
    ]
    batch = prepared.pages.batch(index, config.history_long).to(device)
    run = Run(model, features, 0, total=1)
    with autocast(config, device):
        half = config.precision == "bf16"
        roof = roofline.machine(device, torch.bfloat16 if half else torch.float32)
        split = roofline.split(model, batch, features, run)
        lines = roofline.by_part(split, device, roof)
    facts = {
        "scale": config.scale,
        "pages": config.batch_pages,
        "page": config.page_size,
    }
    return facts | {
        "device": files.device_name(device),
        "roof": roof,
        "parts": lines,
    }


def parts(scale: str, device: torch.device) -> dict:
    """FLOPs, bytes and seconds of one step by part; see `roofline.by_part`."""
    config = SCALES[scale]
    if scale == "paper":
        model, batch, features = on_meta(config)
        split = roofline.split(model, batch, features, None)
        lines = roofline.by_part(split, torch.device("meta"), {})
        facts = {"scale": scale, "pages": config.batch_pages, "page": config.page_size}
        return facts | {"device": "meta, counted", "roof": None, "parts": lines}
    if device.type == "cpu":
        torch.set_num_threads(1)
        few = {"batch_pages": 16, "precision": "fp32"}  # of 256: what a CPU can bear
        config = config.replace(**few) if scale == "gpu" else config
    return parts_of(config, pipeline.prepare(DATA, config, device))


def print_parts(found: dict) -> None:
    """The roof, and a line a part."""
    size = f"{found['pages']} pages of {found['page']}"
    print(f"{found['scale']}, {size}, {found['device']}")
    if roof := found["roof"]:
        print("roof: " + ", ".join(f"{v:.0f} {k}" for k, v in roof.items()))
    for line in found["parts"]:
        text = f"{line['part']:20}{line['gflops']:11.2f} GFLOP"
        text += f"{line['gigabytes']:9.3f} GB"
        if "seconds" in line:
            text += (
                f"{line['seconds'] * 1e3:9.1f} ms, {line['reached']:4.0%} of the roof"
            )
        print(text)


def main(arguments: list[str] | None = None) -> None:
    """Print the counts of a scale; at the paper's, beside its own table."""
    parser = argparse.ArgumentParser(
        prog="python -m lemur_mini.cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scale", default="paper", choices=SCALES)
    parser.add_argument("--parts", action="store_true", help="one step, part by part")
    parser.add_argument("--device", default="cpu", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(arguments)
    if options.parts:
        found = parts(options.scale, choose_device(options.device))
        print(json.dumps(found)) if options.json else print_parts(found)
        return
    counted = count(SCALES[options.scale])
    if options.json:
        print(json.dumps(counted))
        return
    for what, values in counted.items():
        for name, value in values.items():
            own = PAPER[what][name]
            beside = f"   paper {own:6}  {value / own - 1:+.1%}"
            print(
                f"{what:7} {name:9} {value:8.1f}{beside * (options.scale == 'paper')}"
            )
