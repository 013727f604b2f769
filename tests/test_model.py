"""The whole model on one batch: encode, write, read, rank, and what is left out."""

import copy
import dataclasses
import inspect
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lemur_mini import losses
from lemur_mini.config import BASELINE, LEMUR, Config
from lemur_mini.data.pages import Batch, make_batch
from lemur_mini.encoders import DocumentEncoder, QueryEncoder
from lemur_mini.memory_bank import NEVER, MemoryBank
from lemur_mini.model import Lemur, Losses, StepOptions, chunk_ends, gather_rows
from lemur_mini.pipeline import Prepared
from lemur_mini.training import make_model

LATE = range(150, 156)  # pages whose users have histories, full and empty


# --- helpers: the only places that know the model's signatures -----------------------


def build(prepared: Prepared, config: Config, feed: bool = False, **changes) -> Lemur:
    sizes = dataclasses.replace(prepared.sizes, feed=feed)
    return make_model(config.replace(**changes), sizes, 0, torch.device("cpu"))


def batch_of(prepared: Prepared, config: Config, index=LATE) -> Batch:
    return prepared.pages.batch(np.array(index), config.history_long)


def train_losses(
    model: Lemur,
    batch: Batch,
    prepared: Prepared,
    p=1.0,
    q=1.0,
    weight=0.0,
    seed=0,
    step=1,
) -> Losses:
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(len(batch.unique_items), generator=generator)
    plan = StepOptions(
        step, order, forward_share=p, backward_share=q, sqdc_weight=weight
    )
    return model.train().losses(batch, prepared.features, plan)


@torch.no_grad()
def serve(model: Lemur, batch: Batch, prepared: Prepared) -> Tensor:
    return model.eval()(batch, prepared.features)


@torch.no_grad()
def publish(model: Lemur, prepared: Prepared, rows: Tensor | None = None) -> int:
    everything = torch.arange(prepared.sizes.documents)
    return model.publish(prepared.features, everything if rows is None else rows)


def fill(model: Lemur, prepared: Prepared, seed: int = 0) -> None:
    """Old vectors for all documents, such that stale and fresh differ."""
    shape = prepared.sizes.documents, model.config.width
    vectors = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    model.bank.write(torch.arange(len(vectors)), vectors, 0)


def watch_encoder(model: Lemur) -> tuple[list[int], list[int]]:
    """Lists that will hold rows encoded with gradient, and rows without."""
    graded, plain = [], []

    def note(_, arguments, out):
        (graded if out.requires_grad else plain).extend(arguments[1].tolist())

    model.document_encoder.register_forward_hook(note)
    return graded, plain


def picture(model, batch, prepared, forward, backward, weight) -> Tensor:
    """The design's picture step by step: encode, write, read, rank, two losses."""
    rows, mask, features = batch.unique_items, batch.mask, prepared.features
    fresh = model.encode(features, rows)
    fresh = torch.where(torch.isin(rows, backward)[:, None], fresh, fresh.detach())
    known, _ = model.bank.read(rows)
    new = torch.isin(rows, forward)
    vectors = torch.where(new[:, None], fresh, known)
    model.bank.write(rows[new], vectors[new].detach(), 1)
    target = torch.zeros(*batch.item.shape, model.config.width)
    for page, place in mask.nonzero().tolist():
        target[page, place] = vectors[(rows == batch.item[page, place]).nonzero()[0, 0]]
    query = torch.cat(
        [
            model.query_encoder(
                features.query_tokens[row : row + 1],
                features.query_length[row : row + 1],
            )
            for row in batch.query.tolist()
        ]
    )
    click = losses.ctr(model.rank(batch, query, target)[mask], batch.label[mask])
    pages = mask.nonzero()[:, 0]
    contrast = losses.sqdc(
        query[pages],
        target[mask],
        batch.label[mask],
        batch.qid[pages],
        model.config.temperature,
    )
    return click + weight * contrast / mask.sum()


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def strength(module: torch.nn.Module) -> float:
    """Sum of all absolute gradients."""
    return sum(g.abs().sum().item() for g in gradients(module).values())


# --- one training step ---------------------------------------------------------------


def test_the_batch_of_these_tests_has_what_they_need(prepared, config):
    batch = batch_of(prepared, config)
    known = (batch.history >= 0).sum(dim=1)
    assert known.min() < config.history_long <= known.max()
    assert not batch.mask.all() and 0 < batch.label[batch.mask].mean() < 1
    assert batch.qid.unique().numel() > 2


@pytest.mark.parametrize("ranker", ["rankmixer", "dlrm"])
def test_a_training_step_is_the_picture(prepared, config, ranker):
    model, batch = build(prepared, config, ranker=ranker), batch_of(prepared, config)
    fill(model, prepared)
    by_hand = copy.deepcopy(model)
    wanted = picture(
        by_hand, batch, prepared, batch.unique_items, batch.unique_items, 0.1
    )
    got = train_losses(model, batch, prepared, weight=0.1)
    torch.testing.assert_close(got.total, wanted)
    torch.testing.assert_close(got.total, got.ctr + 0.1 * got.sqdc)
    torch.testing.assert_close(model.bank.vectors, by_hand.bank.vectors)
    got.total.backward()
    wanted.backward()
    torch.testing.assert_close(
        gradients(model), gradients(by_hand), rtol=1e-3, atol=1e-5
    )


def test_histories_hold_the_fresh_vectors_of_the_same_step(prepared, config):
    """The dedup join: stale copies of this batch's documents are replaced."""
    model, batch = build(prepared, config), batch_of(prepared, config)
    fill(model, prepared)
    stale = model.bank.vectors.clone()
    batch.history[0, :2] = batch.unique_items[:2]
    seen = []
    model.decoders["long"].register_forward_pre_hook(
        lambda _, given: seen.append(given[1])
    )
    train_losses(model, batch, prepared)
    fresh = model.encode(prepared.features, batch.unique_items).detach()
    inside = 0
    for page, place in (batch.history >= 0).nonzero().tolist():
        row = batch.history[page, place]
        new = fresh[batch.unique_items == row]
        inside += len(new)
        wanted = new[0] if len(new) else stale[row]
        torch.testing.assert_close(seen[0][page, place], wanted)
    assert 2 <= inside < (batch.history >= 0).sum()


def test_each_distinct_document_is_encoded_once(prepared, config):
    model = build(prepared, config, encode_tokens=200)
    batch = batch_of(prepared, config, [*LATE, *LATE])  # everything twice
    graded, plain = watch_encoder(model)
    train_losses(model, batch, prepared)
    assert sorted(graded) == batch.unique_items.tolist() and plain == []


def test_each_distinct_query_is_encoded_once(prepared, config):
    model, batch = build(prepared, config), batch_of(prepared, config, [*LATE, *LATE])
    rows = []
    model.query_encoder.register_forward_hook(lambda _, i, out: rows.append(len(out)))
    train_losses(model, batch, prepared)
    assert rows == [batch.query.unique().numel()] and rows[0] < len(batch.query)


def test_chunks_keep_to_their_budget_of_tokens():
    lengths = sorted(np.random.default_rng(0).integers(1, 40, 200).tolist())
    ends = chunk_ends(lengths, 100)
    assert ends[-1] == 200 and ends == sorted(set(ends))
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        assert (end - begin) * lengths[end - 1] <= 100
        if end < 200:  # and no more fitted
            assert (end + 1 - begin) * lengths[end] > 100
    assert chunk_ends([500, 500], 100) == [1, 2]


@torch.no_grad()
def test_encoding_in_chunks_keeps_the_order(prepared, config):
    rows = torch.tensor([9, 2, 30, 4, 17])
    model = build(prepared, config, encode_tokens=60).eval()
    got = model.encode(prepared.features, rows)
    for row, vector in zip(rows, got, strict=True):
        alone = model.encode(prepared.features, row[None])[0]
        torch.testing.assert_close(vector, alone)


# --- p/q sampling --------------------------------------------------------------------


@pytest.mark.parametrize(("p", "q"), [(1.0, 0.2), (0.5, 0.25), (0.2, 0.2), (0.5, 0.0)])
def test_shares_of_documents_go_forward_and_backward(prepared, config, p, q):
    """Which were chosen is seen from outside; values and gradients follow from it."""
    model, batch = build(prepared, config), batch_of(prepared, config)
    fill(model, prepared)
    by_hand = copy.deepcopy(model)
    graded, plain = watch_encoder(model)
    got = train_losses(model, batch, prepared, p, q, weight=0.1)
    count = len(batch.unique_items)
    assert len(graded) == math.ceil(q * count)
    assert len(graded) + len(plain) == math.ceil(p * count)
    written = (model.bank.written == 1).nonzero()[:, 0].tolist()
    assert sorted(graded + plain) == written
    forward, backward = torch.tensor(written), torch.tensor(graded, dtype=torch.long)
    wanted = picture(by_hand, batch, prepared, forward, backward, 0.1)
    torch.testing.assert_close(got.total, wanted)
    got.total.backward()
    wanted.backward()
    encoders = model.document_encoder, by_hand.document_encoder
    assert (strength(encoders[0]) > 0) == (q > 0)
    if q:
        pair = map(gradients, encoders)
        torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-6)


def test_unseen_documents_always_go_forward(prepared, config):
    model, batch = build(prepared, config), batch_of(prepared, config)
    unseen = batch.unique_items[::2]
    publish(model, prepared, batch.unique_items[1::2])
    graded, plain = watch_encoder(model)
    train_losses(model, batch, prepared, p=0.1, q=0.1)
    assert sorted(graded + plain) == unseen.tolist()
    assert len(graded) == math.ceil(0.1 * len(batch.unique_items))


def test_the_plan_decides_which_documents_are_drawn(prepared, config):
    batch, drawn = batch_of(prepared, config), []
    for seed in (0, 0, 1):
        model = build(prepared, config)
        fill(model, prepared)
        graded, _ = watch_encoder(model)
        train_losses(model, batch, prepared, p=0.3, q=0.3, seed=seed)
        drawn.append(sorted(graded))
    assert drawn[0] == drawn[1] != drawn[2]


def test_full_shares_are_the_same_as_no_sampling(prepared, config):
    batch, totals = batch_of(prepared, config), []
    for seed in (0, 1):
        model = build(prepared, config)
        fill(model, prepared)
        totals.append(train_losses(model, batch, prepared, 1.0, 1.0, 0.1, seed).total)
    torch.testing.assert_close(*totals)


def test_vectors_of_a_bf16_encoder_fit_the_fp32_bank(prepared, config, monkeypatch):
    """As on a GPU, where autocast does not promote what index_copy is given."""
    model, batch = build(prepared, config), batch_of(prepared, config)
    encode, wanted = model.encode, train_losses(model, batch, prepared).total
    monkeypatch.setattr(model, "encode", lambda *given: encode(*given).bfloat16())
    got = train_losses(model, batch, prepared).total
    assert got.item() == pytest.approx(wanted.item(), rel=0.02)


def test_publishing_encodes_in_the_precision_of_training(prepared, config):
    plain = build(prepared, config)
    model = build(prepared, config, precision="bf16")
    kinds = set()
    watch = model.document_encoder.project.register_forward_hook
    watch(lambda _, __, out: kinds.add(out.dtype))
    for each in (plain, model):
        each.bank.forget()
        each.publish(prepared.features)
    assert kinds == {torch.bfloat16} and model.bank.vectors.dtype == torch.float32
    cosine = torch.cosine_similarity(model.bank.vectors, plain.bank.vectors)
    assert cosine.min() > 0.98


# --- what the gradient reaches -------------------------------------------------------


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("part", ["document_encoder", "query_encoder"])
def test_stop_gradient_keeps_the_ranker_out_of_the_encoders(
    prepared, config, stop, part
):
    model = build(prepared, config, stop_gradient=stop)
    publish(model, prepared)
    batch = batch_of(prepared, config)
    train_losses(model, batch, prepared, weight=0.0).total.backward()
    assert (strength(getattr(model, part)) == 0) == stop
    assert strength(model.ranker) > 0
    train_losses(model, batch, prepared, weight=1.0).total.backward()
    assert strength(getattr(model, part)) > 0  # of SQDC


def test_stop_gradient_leaves_the_scores_as_they_are(prepared, config):
    batch, totals = batch_of(prepared, config), []
    for stop in (False, True):
        model = build(prepared, config, stop_gradient=stop)
        fill(model, prepared)
        totals.append(train_losses(model, batch, prepared, weight=0.1).total)
    assert torch.equal(*totals)


def test_every_parameter_learns(prepared, config):
    model = build(prepared, config)
    fill(model, prepared)
    batch = batch_of(prepared, config)
    train_losses(model, batch, prepared, weight=0.1).total.backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None]
    assert idle == []


# --- serving -------------------------------------------------------------------------


def test_serving_encodes_no_document_and_ranks_what_the_bank_holds(prepared, config):
    model, batch = build(prepared, config), batch_of(prepared, config)
    publish(model, prepared)
    graded, plain = watch_encoder(model)
    written = model.bank.written.clone()
    got = serve(model, batch, prepared)
    assert graded == plain == []
    assert torch.equal(model.bank.written, written)
    with torch.no_grad():
        query, _ = model.encode_queries(batch, prepared.features)
        target = model.bank.read(batch.item)[0]
        assert torch.equal(got, model.rank(batch, query, target))
        fresh = model.encode(prepared.features, batch.unique_items)[batch.item_index]
        wanted = model.rank(batch, query, fresh)
    torch.testing.assert_close(got[batch.mask], wanted[batch.mask])


def test_serving_scores_follow_the_bank(prepared, config):
    model, batch = build(prepared, config), batch_of(prepared, config)
    publish(model, prepared)
    before = serve(model, batch, prepared)
    fill(model, prepared)
    assert (serve(model, batch, prepared) != before)[batch.mask].all()


def test_publishing_writes_what_is_missing_and_only_that(prepared, config):
    model, count = build(prepared, config), prepared.sizes.documents
    assert publish(model, prepared, torch.arange(5)) == 5
    before = model.bank.vectors[:5].clone()
    next(model.document_encoder.parameters()).data += 1.0
    assert publish(model, prepared) == count - 5
    assert torch.equal(model.bank.vectors[:5], before)
    assert model.bank.coverage(torch.arange(count)) == 1


def test_publishing_twice_has_nothing_left_to_do(prepared, config):
    model = build(prepared, config)
    assert publish(model, prepared) == prepared.sizes.documents
    assert publish(model, prepared) == 0


def test_a_history_item_that_the_bank_lacks_counts_as_padding(prepared, config):
    groups = ("item", "long", "short", "similarity")
    model, batch = build(prepared, config, groups=groups), batch_of(prepared, config)
    row = batch.history[batch.history >= 0][0]
    everything = torch.arange(prepared.sizes.documents)
    publish(model, prepared, everything[everything != row])
    padded = dataclasses.replace(
        batch, history=torch.where(batch.history == row, -1, batch.history)
    )
    got = serve(model, padded, prepared)
    torch.testing.assert_close(got, serve(model, batch, prepared))
    publish(model, prepared)
    assert not torch.allclose(got, serve(model, batch, prepared))


# --- padding and pages ---------------------------------------------------------------


@pytest.mark.parametrize("ranker", ["rankmixer", "dlrm"])
def test_empty_slots_of_a_page_change_nothing(prepared, config, ranker):
    model, batch = build(prepared, config, ranker=ranker), batch_of(prepared, config)
    publish(model, prepared)
    wider = dataclasses.replace(
        batch,
        item=torch.nn.functional.pad(batch.item, (0, 3), value=-1),
        label=torch.nn.functional.pad(batch.label, (0, 3), value=1.0),
        item_index=torch.nn.functional.pad(batch.item_index, (0, 3), value=2),
    )
    got = serve(model, wider, prepared)[wider.mask]
    torch.testing.assert_close(got, serve(model, batch, prepared)[batch.mask])
    a, b = (train_losses(model, x, prepared, weight=0.1) for x in (wider, batch))
    torch.testing.assert_close(vars(a), vars(b))


def test_a_page_alone_scores_as_in_a_batch(prepared, config):
    model = build(prepared, config)
    publish(model, prepared)
    together = serve(model, batch_of(prepared, config), prepared)
    for place, page in enumerate(LATE):
        alone = serve(model, batch_of(prepared, config, [page]), prepared)
        torch.testing.assert_close(alone[0], together[place])


def test_the_order_of_a_page_is_not_seen(prepared, config):
    model, batch = build(prepared, config), batch_of(prepared, config)
    publish(model, prepared)
    turned = dataclasses.replace(batch, item=batch.item.flip(1))
    got = serve(model, turned, prepared).flip(1)
    torch.testing.assert_close(got, serve(model, batch, prepared))


# --- variants ------------------------------------------------------------------------


@pytest.mark.parametrize("ranker", ["rankmixer", "dlrm"])
def test_the_id_baseline_has_no_encoder_and_no_bank(prepared, config, ranker):
    model = build(prepared, config, groups=BASELINE, ranker=ranker)
    parts = DocumentEncoder, QueryEncoder, MemoryBank
    assert not any(isinstance(m, parts) for m in model.modules())
    batch = batch_of(prepared, config)
    loss = train_losses(model, batch, prepared, weight=1.0)
    mask = batch.mask
    wanted = losses.ctr(serve(model, batch, prepared)[mask], batch.label[mask])
    torch.testing.assert_close(loss.total, wanted)
    assert loss.sqdc == 0


@pytest.mark.parametrize("ranker", ["rankmixer", "dlrm"])
@pytest.mark.parametrize("group", LEMUR)
def test_every_group_can_be_dropped(prepared, config, group, ranker):
    groups = tuple(g for g in LEMUR if g != group)
    model = build(prepared, config, groups=groups, ranker=ranker)
    batch = batch_of(prepared, config)
    train_losses(model, batch, prepared, weight=0.1).total.backward()
    assert all(g.isfinite().all() for g in gradients(model).values())
    idle = [n for n, _ in model.named_parameters() if n.startswith(f"{group}.")]
    assert idle == []  # modules nobody asks for are not built
    assert serve(model, batch, prepared).isfinite().all()


@pytest.mark.parametrize(
    ("group", "heard"),
    [
        ("user", {"user"}),
        ("item", {"item"}),
        ("query", {"query"}),
        ("longer", {"user", "item", "history"}),
        ("content", {"query", "item"}),
        ("long", {"user", "query", "item", "history"}),
        ("short", {"user", "query", "item", "history"}),
        ("short similarity", {"user", "query", "item", "history"}),
    ],
)
def test_a_group_hears_what_it_should_and_nothing_else(prepared, config, group, heard):
    groups = tuple(group.split())
    model, batch = build(prepared, config, groups=groups), batch_of(prepared, config)
    if group not in BASELINE:
        publish(model, prepared)
    before = serve(model, batch, prepared)[batch.mask]
    counts = dict(
        user=prepared.sizes.users,
        query=prepared.sizes.queries,
        item=prepared.sizes.documents,
        history=prepared.sizes.documents,
    )
    found, of = set(), [*inspect.signature(make_batch).parameters][:-1]
    arrays = {name: getattr(batch, name).numpy() for name in of}
    for name, count in counts.items():
        value = arrays[name]
        other = np.where(value >= 0, (value + 11) % count, value)
        changed = make_batch(**arrays | {name: other})
        if not torch.equal(serve(model, changed, prepared)[batch.mask], before):
            found.add(name)
    assert found == heard


def test_the_label_is_never_heard(prepared, config):
    model, batch = build(prepared, config), batch_of(prepared, config)
    publish(model, prepared)
    turned = dataclasses.replace(batch, label=1 - batch.label)
    assert torch.equal(*(serve(model, x, prepared) for x in (batch, turned)))


def test_in_a_feed_the_last_watched_item_is_the_anchor(prepared, config):
    model, batch = build(prepared, config, feed=True), batch_of(prepared, config)
    publish(model, prepared)
    assert not any(isinstance(m, QueryEncoder) for m in model.modules())
    batch.history[1] = -1
    vectors, there = model.encode_queries(batch, prepared.features)
    for page, row in enumerate(batch.history[:, 0].tolist()):
        assert there[page] == (row >= 0)
        wanted = model.bank.vectors[row] * (row >= 0)
        assert torch.equal(vectors[page], wanted)
    assert serve(model, batch, prepared).isfinite().all()


def test_in_a_feed_users_without_history_are_left_out_of_the_contrast(prepared, config):
    model, batch = build(prepared, config, feed=True), batch_of(prepared, config)
    publish(model, prepared)
    batch.history[1] = -1
    kept = [p for p, row in enumerate(batch.history[:, 0].tolist()) if row >= 0]
    assert 1 < len(kept) < len(batch.qid) and batch.label[1].sum() > 0
    rows = []  # anchor, target, label, session
    for page in kept:
        for place in batch.mask[page].nonzero()[:, 0].tolist():
            anchor = model.bank.vectors[batch.history[page, 0]]
            target = model.bank.vectors[batch.item[page, place]]
            rows.append((anchor, target, batch.label[page, place], batch.qid[page]))
    wanted = losses.sqdc(*map(torch.stack, zip(*rows)), config.temperature)  # noqa: B905
    got = train_losses(model, batch, prepared, weight=0.1)
    torch.testing.assert_close(got.sqdc, wanted / batch.mask.sum())
    torch.testing.assert_close(got.total, got.ctr + 0.1 * got.sqdc)


def test_in_a_feed_the_contrast_trains_the_document_encoder(prepared, config):
    model = build(prepared, config, feed=True, stop_gradient=True)
    publish(model, prepared)
    train_losses(model, batch_of(prepared, config), prepared, weight=1).total.backward()
    assert strength(model.document_encoder) > 0


def test_in_a_feed_the_pooled_history_is_the_mean_of_what_is_known(prepared, config):
    model = build(prepared, config, feed=True, feed_query="pooled")
    publish(model, prepared)
    batch = batch_of(prepared, config)
    batch.history[1] = -1
    model.bank.written[batch.history[2, 0]] = NEVER
    vectors, there = model.encode_queries(batch, prepared.features)
    for page, rows in enumerate(batch.history.tolist()):
        known = [r for r in rows if r >= 0 and model.bank.written[r] != NEVER]
        assert there[page] == bool(known)
        wanted = torch.zeros(config.width)
        for row in known:
            wanted += model.bank.vectors[row] / len(known)
        torch.testing.assert_close(vectors[page], wanted)


def test_in_a_feed_positives_of_a_session_find_each_other(prepared, config):
    """Each positive by the sum of its session's others, among all other sessions."""
    options = dict(feed_contrast="positives", feed_query="pooled")
    model = build(prepared, config, feed=True, **options)
    publish(model, prepared)
    batch, rows = batch_of(prepared, config), []
    vector = model.bank.vectors
    for page, (items, labels) in enumerate(zip(batch.item, batch.label, strict=True)):
        places = [p for p in range(len(items)) if items[p] >= 0]
        for place in places:
            rest = [p for p in places if labels[p] == 1 and p != place]
            alone = labels[place] == 0 or not rest
            anchor = sum(vector[items[p]] for p in rest) if rest else vector[0]
            label = labels[place] * (0 if alone else 1)
            rows.append((anchor, vector[items[place]], label, batch.qid[page]))
    assert sum(row[2] for row in rows) > 1
    wanted = losses.sqdc(*map(torch.stack, zip(*rows)), config.temperature)  # noqa: B905
    got = train_losses(model, batch, prepared, weight=0.1)
    torch.testing.assert_close(got.sqdc, wanted / batch.mask.sum())
    got.total.backward()
    assert strength(model.document_encoder) > 0


def test_ids_are_left_out_of_some_targets_while_training(prepared, config):
    model = build(prepared, config, id_dropout=0.4)
    batch = batch_of(prepared, config)
    batch.history[:] = -1  # there ids stay
    order = torch.rand(len(batch.unique_items), generator=torch.Generator())
    kept = model.kept_ids(batch, StepOptions(step=0, order=order))
    assert kept.shape == batch.item.shape
    for page in range(len(batch.item)):
        for place in range(batch.item.shape[1]):
            chance = (order[batch.item_index[page, place]] * 7919) % 1
            assert kept[page, place] == (chance >= 0.4)
    publish(model, prepared)
    query, _ = model.encode_queries(batch, prepared.features)
    target, _ = model.bank.read(batch.item)
    seen = model.rank(batch, query, target, None, kept)
    with torch.no_grad():
        model.ids["item"].weight[batch.item[~kept & batch.mask] + 1] = 0
    assert torch.equal(seen, model.rank(batch, query, target, None, kept))
    everything = torch.ones_like(kept)
    assert torch.equal(serve(model, batch, prepared), model.rank(batch, query, target))
    with_all = model.rank(batch, query, target, None, everything)
    assert torch.equal(with_all, model.rank(batch, query, target))


def test_cic_adds_its_share_of_the_loss(prepared, config):
    model, batch = build(prepared, config, cic_weight=0.5), batch_of(prepared, config)
    total = train_losses(model, batch, prepared).total
    model.config = model.config.replace(cic_weight=0.0)
    rest = train_losses(model, batch, prepared).total
    content = model.to_identity(model.encode(prepared.features, batch.unique_items))
    identity = torch.stack(
        [model.ids["item"].weight[row + 1] for row in batch.unique_items]
    )
    share = 0.5 * losses.cic(content, identity, config.temperature)
    torch.testing.assert_close(total - rest, share)
    share.backward()
    assert strength(model.document_encoder) > 0 and strength(model.ids["item"]) > 0


def test_experts_add_their_penalty_to_the_loss(prepared, config):
    model = build(prepared, config, experts=3, expert_l1=0.5)
    batch = batch_of(prepared, config)
    total = train_losses(model, batch, prepared).total
    penalty = model.ranker.penalty()
    model.config = model.config.replace(expert_l1=0.0)
    rest = train_losses(model, batch, prepared).total
    assert penalty > 0
    torch.testing.assert_close(total - rest, 0.5 * penalty)


def test_literal_decoder_and_two_layers_run_in_the_model(prepared, config):
    batch, totals = batch_of(prepared, config), []
    for changes in ({}, {"decoder_literal": True}, {"decoder_layers": 2}):
        model = build(prepared, config, **changes)
        totals.append(train_losses(model, batch, prepared).total)
        totals[-1].backward()
        assert all(g.isfinite().all() for g in gradients(model).values())
    assert len({total.item() for total in totals}) == 3


# --- switches of the experiments -----------------------------------------------------


def test_histories_carry_gradient_where_asked(prepared, config):
    heard = {}
    for on in (False, True):
        model = build(prepared, config, history_gradient=on)
        fill(model, prepared)
        batch = batch_of(prepared, config)
        batch.history[:, 0] = batch.unique_items[0]
        fresh = torch.randn(len(batch.unique_items), config.width, requires_grad=True)
        vectors, found = model.history(batch, fresh if on else None)
        assert torch.equal(found, model.bank.read(batch.history)[1])
        if on:
            vectors.sum().backward()
            times = torch.stack(
                [(batch.history == row).sum() for row in batch.unique_items]
            )
            wanted = times[:, None].expand_as(fresh).float()
            torch.testing.assert_close(fresh.grad, wanted)
            torch.testing.assert_close(vectors[0, 0], fresh[0])
        heard[on] = vectors.requires_grad
    assert heard == {False: False, True: True}


def test_writing_less_often_leaves_known_vectors_alone(prepared, config):
    model, batch = build(prepared, config, write_every=3), batch_of(prepared, config)
    known, unknown = batch.unique_items[1:], batch.unique_items[:1]
    model.bank.write(known, torch.ones(len(known), config.width), 0)
    before = model.bank.vectors.clone()
    train_losses(model, batch, prepared, step=4)
    assert torch.equal(model.bank.vectors[known], before[known])
    assert model.bank.written[unknown] == 4
    train_losses(model, batch, prepared, step=6)
    assert (model.bank.vectors[known] != before[known]).any()


@pytest.mark.parametrize("kept", ["text", "image"])
def test_a_modality_that_is_not_shown_is_not_heard(prepared, config, kept):
    model = build(prepared, config, modalities=(kept,)).eval()
    features, rows = prepared.features, torch.arange(6)
    dark = dataclasses.replace(features, images=torch.zeros_like(features.images))
    mute = dataclasses.replace(
        features, tokens=features.tokens.clone().index_fill_(1, torch.tensor([2]), 5)
    )
    before = model.encode(features, rows)
    same = {
        "image": torch.equal(model.encode(dark, rows), before),
        "text": torch.equal(model.encode(mute, rows), before),
    }
    assert same == {"image": kept == "text", "text": kept == "image"}


@pytest.mark.parametrize("gone", ["long", "short"])
def test_similarities_are_those_of_the_sequences_there_are(prepared, config, gone):
    kept = tuple(group for group in LEMUR if group != gone)
    whole, part = build(prepared, config), build(prepared, config, groups=kept)
    sizes = {"long": config.history_long, "short": config.history_short}

    def width(model: Lemur) -> int:
        return model.ranker.tokens.project["similarity"].in_features

    assert width(whole) - width(part) == 2 * sizes[gone]
    publish(part, prepared)
    assert serve(part, batch_of(prepared, config), prepared).isfinite().all()


def test_similarity_needs_a_sequence(config):
    with pytest.raises(ValueError, match="add long or short"):
        config.replace(groups=("user", "similarity"))


def test_rankers_of_ids_alone_build_no_encoder_and_no_bank(config, prepared):
    for groups in (("user", "item", "query"), BASELINE, ("user", "item", "din")):
        model = make_model(
            config.replace(groups=groups), prepared.sizes, 0, torch.device("cpu")
        )
        names = {name for name, _ in model.named_children()}
        assert not names & {"document_encoder", "query_encoder", "bank"}, groups


def test_gradients_of_repeated_rows_do_not_depend_on_threads():
    rng = torch.Generator().manual_seed(0)
    rows = torch.randint(40, (64, 128), generator=rng)
    weight = torch.randn(64, 128, 64, generator=rng)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 2, 4):
            torch.set_num_threads(count)
            vectors = torch.ones(40, 64, requires_grad=True)
            (gather_rows(vectors, rows) * weight).sum().backward()
            found.append(vectors.grad)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(gather_rows(vectors, rows), vectors[rows])
    assert all(torch.equal(found[0], other) for other in found)
