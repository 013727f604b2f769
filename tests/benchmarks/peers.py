"""LEMUR beside public peers on the same batches, in turn: impressions per second, and
AUC on test days after the same samples. Needs an extra: pip install -e ".[peers]".

pytorch-widedeep from 1.6 on has DIN, but asks for numpy below 2 and cannot stand beside
our versions. 1.5 can: ids, text (a Transformer) and image (convolutions) of the target,
trained end to end, without the history. torch-rechub's DIN sees ids and the history."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemur_mini.config import CLASSROOM
from lemur_mini.cost.roofline import clock
from lemur_mini.data.pages import Batch
from lemur_mini.evaluation import auc
from lemur_mini.pipeline import Prepared
from lemur_mini.training import Run, make_model, train_step
from tests.benchmarks.common import CPU, prepare, row, store

PACKAGES = {"pytorch_widedeep": "pytorch-widedeep", "torch_rechub": "torch-rechub"}
STEPS, WARM, TEST_PAGES = 100, 5, 400
WIDTH = CLASSROOM.id_width


class Widedeep(nn.Module):
    """ids in a table each and an MLP, the target's text and its cover; one head."""

    def __init__(self, prepared: Prepared):
        from pytorch_widedeep.models import TabMlp, Transformer, Vision, WideDeep

        super().__init__()
        sizes, self.features = prepared.sizes, prepared.features
        counts = {"user": sizes.users, "item": sizes.documents, "query": sizes.queries}
        inputs = [(name, count + 1, WIDTH) for name, count in counts.items()]
        places = {name: place for place, name in enumerate(counts)}
        length = self.features.tokens.shape[1]
        text = {"input_dim": CLASSROOM.hidden, "n_heads": CLASSROOM.heads}
        text |= {"n_blocks": CLASSROOM.document_layers, "ff_factor": 2}
        self.model = WideDeep(
            deeptabular=TabMlp(places, cat_embed_input=inputs),
            deeptext=Transformer(sizes.vocabulary, length, **text),
            deepimage=Vision(channel_sizes=[64, 64], kernel_sizes=[7, 3],
                             strides=[2, 1]),
        )  # fmt: skip

    def forward(self, batch: Batch) -> Tensor:
        """Logits of the batch's impressions, in the order of `batch.mask`."""
        user, item, query, _ = columns(batch)
        ids = torch.stack([user, item, query], dim=1) + 1
        parts = {"deeptabular": ids, "deeptext": self.features.tokens[item].long()}
        parts["deepimage"] = self.features.images[item].float() / 255
        return self.model(parts).squeeze(1)


class RechubDin(nn.Module):
    """DIN of torch-rechub: target attention over the ids of the history."""

    def __init__(self, prepared: Prepared):
        from torch_rechub.basic.features import SequenceFeature, SparseFeature
        from torch_rechub.models.ranking import DIN

        super().__init__()
        sizes = prepared.sizes
        target = SparseFeature("item", sizes.documents + 1, WIDTH)
        history = SequenceFeature(
            "history", sizes.documents + 1, WIDTH, "concat", shared_with="item"
        )
        self.model = DIN(
            features=[
                SparseFeature("user", sizes.users + 1, WIDTH),
                SparseFeature("query", sizes.queries + 1, WIDTH),
            ],
            history_features=[history],
            target_features=[target],
            mlp_params={"dims": list(CLASSROOM.mlp)},
            attention_mlp_params={"dims": [32]},
        )

    def forward(self, batch: Batch) -> Tensor:
        """Logits of the batch's impressions, in the order of `batch.mask`."""
        names = "user", "item", "query", "history"
        ids = {n: x + 1 for n, x in zip(names, columns(batch), strict=True)}
        return torch.logit(self.model(ids), eps=1e-6)  # it returns probabilities


def columns(batch: Batch) -> tuple[Tensor, ...]:
    """User, item, query (B,) and history (B, L) of every impression: peers take no
    pages."""
    place = batch.mask.nonzero()[:, 0]
    item = batch.item[batch.mask]
    return batch.user[place], item, batch.query[place], batch.history[place]


def peer(model: nn.Module) -> tuple[Callable, Callable]:
    """One step with Adam at its usual rate, and scores of a batch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(batch: Batch) -> None:
        model.train()
        loss = F.binary_cross_entropy_with_logits(model(batch), batch.label[batch.mask])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def score(batch: Batch) -> Tensor:
        return model.eval()(batch)

    return step, score


def ours(prepared: Prepared) -> tuple[Callable, Callable]:
    """LEMUR: what the command trains, of which only the first steps are made."""
    model = make_model(CLASSROOM, prepared.sizes, 0, CPU)
    run = Run(model, prepared.features, 0, total=STEPS)

    def step(batch: Batch) -> None:
        model.train()
        train_step(run, batch)

    @torch.no_grad()
    def score(batch: Batch) -> Tensor:
        model.eval().publish(prepared.features, batch.unique_items)
        return model(batch, prepared.features)[batch.mask]

    return step, score


def measure(prepared: Prepared, models: dict[str, tuple]) -> dict[str, dict]:
    """Train all on the same batches in turn, then score the same test pages."""
    pages, taken = prepared.pages, {name: [] for name in models}
    index = pages.between(None, prepared.dataset.test_start)[
        : STEPS * CLASSROOM.batch_pages
    ]
    for batch in pages.stream(index, CLASSROOM.batch_pages, CLASSROOM.history_long):
        for name, (step, _) in models.items():
            began = clock(CPU)
            step(batch)
            taken[name].append((clock(CPU) - began) / int(batch.mask.sum()))
    found = {}
    index = pages.between(prepared.dataset.test_start, None)[:TEST_PAGES]
    test = list(pages.stream(index, CLASSROOM.batch_pages, CLASSROOM.history_long))
    label = torch.cat([batch.label[batch.mask] for batch in test]).numpy()
    for name, (_, score) in models.items():
        scores = np.concatenate([score(batch).numpy() for batch in test])
        found[name] = {
            "impressions_per_second": 1 / statistics.median(taken[name][WARM:]),
            "auc": auc(label, scores),
        }
    return found


def main() -> None:
    """Those that are installed; none of them: a message, and no result."""
    there = [name for name in PACKAGES if importlib.util.find_spec(name)]
    for name in sorted(set(PACKAGES) - set(there)):
        print(f"{PACKAGES[name]} is not installed; pip install -e '.[peers]' adds it")
    if not there:
        return
    prepared, models = prepare(CLASSROOM), {}
    models["LEMUR"] = ours(prepared)
    torch.manual_seed(0)
    if "pytorch_widedeep" in there:
        models["pytorch-widedeep (ids, text, image)"] = peer(Widedeep(prepared))
    if "torch_rechub" in there:
        models["torch-rechub DIN (ids, history)"] = peer(RechubDin(prepared))
    found, rows = measure(prepared, models), []
    for name, values in found.items():
        speed = values["impressions_per_second"]
        rows.append(row(f"{name}: impressions per second of training", speed))
        rows.append(row(f"{name}: AUC after {STEPS} batches", values["auc"]))
    installed = {PACKAGES[name]: version(PACKAGES[name]) for name in there}
    store("peers", rows, found | {"peers": installed, "test_pages": TEST_PAGES})


if __name__ == "__main__":
    main()
