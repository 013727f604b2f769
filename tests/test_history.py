"""Histories: what was shown and not watched, and padding that no batch needs."""

from __future__ import annotations

import numpy as np
import torch

from lemur_mini import pipeline
from lemur_mini.config import Config
from lemur_mini.data.pages import Pages
from lemur_mini.training import Run, make_model, step_options

MORE = {
    "history_products": True,
    "history_wide": True,
    "history_seen": 40,
    "sqdc_head": True,
}


def test_what_was_shown_is_a_loop_over_the_log_before_the_page(prepared):
    log, pages = prepared.dataset.log, Pages(prepared.dataset.log, 8, seen=40)
    index = np.arange(len(pages))[:: len(pages) // 9]
    batch = pages.batch(index, 16)
    for place, page in enumerate(index):
        before = (log.user == pages.user[page]) & (log.timestamp < pages.since[page])
        rows = np.flatnonzero(before)[::-1][:40]
        there = batch.seen[place] >= 0
        assert there.sum() == len(rows) and there[: len(rows)].all()
        assert batch.seen[place][there].tolist() == log.item[rows].tolist()
        taken = batch.taken[place]
        assert taken[there].tolist() == (log.label[rows] == 1).tolist()
        assert not taken[~there].any()


def step(prepared: pipeline.Prepared, config: Config, crop: bool):
    """Loss and gradients of one step, on an early batch, where histories are short."""
    model = make_model(config, prepared.sizes, 0, torch.device("cpu")).train()
    model.publish(prepared.features)
    run = Run(model, prepared.features, 0, total=10)
    index = np.arange(8, 24)
    pages = Pages(prepared.dataset.log, 8, seen=config.history_seen)
    batch = pages.batch(index, config.history_long)
    if crop:
        full, batch = batch, batch.cropped(config.longer_merge)
        assert batch.history.shape[1] < full.history.shape[1]
    loss = model.losses(batch, prepared.features, step_options(run, batch)).total
    loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return loss, grads


def test_a_cropped_batch_gives_the_same_loss_and_gradients(prepared, config):
    config = config.replace(history_long=64, sqdc_weight=0.02, **MORE)
    (one, full), (other, cropped) = (step(prepared, config, x) for x in (False, True))
    assert torch.allclose(one, other)
    assert full.keys() == cropped.keys()
    for name, grad in full.items():
        assert torch.allclose(grad, cropped[name], atol=1e-5), name


def test_new_parts_start_as_what_they_add_to(prepared, config):
    """The contrast's head begins as the identity."""
    model = make_model(config.replace(**MORE), prepared.sizes, 0, torch.device("cpu"))
    assert torch.equal(model.head.weight, torch.eye(config.width))
