"""What a training step costs, counted by torch on the real step."""

from __future__ import annotations

from torch.utils.flop_counter import FlopCounterMode

from lemur_mini.config import Config
from lemur_mini.pipeline import Prepared
from lemur_mini.training import Run, make_model, plan


def step_flops(prepared: Prepared, config: Config) -> dict[str, int]:
    """Floating-point operations of the last step of a training, forward and backward.

    At the last step the bank is full and sampling is on. Returns `total` and, of it,
    `document_encoder`, forward and backward."""
    features = prepared.features
    model = make_model(config, prepared.sizes, 0, features.tokens.device).train()
    if config.has_content:
        model.bank.written.zero_()  # all known; what they say costs nothing
    if config.two_stage:
        model.freeze(features)
    index = prepared.pages.between(None, prepared.dataset.test_start)[-config.pages :]
    run = Run(model, features, 0, total=2, step=1)
    batch = prepared.pages.batch(index, config.history_long).to(run.device)
    with FlopCounterMode(display=False) as counter:
        model.losses(batch, features, plan(run, batch)).total.backward()
    parts = counter.get_flop_counts()
    document = sum(parts.get("DocumentEncoder", {}).values())
    return {"total": counter.get_total_flops(), "document_encoder": document}
