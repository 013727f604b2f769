"""Attention, decoder and similarities against loops over single histories."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemur_mini.baselines import Din
from lemur_mini.sequence import (
    CrossAttention,
    Decoder,
    Products,
    SimilarityModule,
    masked_softmax,
    most_similar,
    per_query,
)

P, S, L, D, HEADS = 4, 3, 6, 8, 2


def inputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """query (P, S, D), history (P, L, D) and mask (P, L): full, holed, one, none."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(P, S, D, generator=generator)
    history = torch.randn(P, L, D, generator=generator)
    mask = torch.zeros(P, L, dtype=torch.bool)
    mask[0], mask[1, [0, 2, 3]], mask[2, 0] = True, True, True
    return query, history, mask


def built(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with weights, biases and norms all drawn anew, so that none is 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return module


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a: list[float], b: list[float]) -> float:
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def naive_attention(
    query: list[float], keys: list[list[float]], values: list[list[float]]
) -> list[float]:
    """sum_j softmax_j(query . key_j) value_j"""
    weights = [math.exp(dot(query, key)) for key in keys]
    total = sum(weights)
    width = len(values[0])
    return [
        sum(w / total * v[i] for w, v in zip(weights, values, strict=True))
        for i in range(width)
    ]


# --- attention -----------------------------------------------------------------------


def test_cross_attention_is_one_small_attention_per_head():
    attention = built(CrossAttention(D, HEADS))
    query, history, mask = inputs()
    got = attention(query, history, mask)
    key, value = attention.key_value(history).chunk(2, dim=-1)
    width = D // HEADS
    for p in range(P - 1):  # the last has no history
        kept = [j for j in range(L) if mask[p, j]]
        for s in range(S):
            joined = []
            for h in range(HEADS):
                part = slice(h * width, (h + 1) * width)
                q = attention.query(query[p, s])[part] / math.sqrt(width)
                keys = [key[p, j, part].tolist() for j in kept]
                values = [value[p, j, part].tolist() for j in kept]
                joined += naive_attention(q.tolist(), keys, values)
            wanted = attention.out(torch.tensor(joined))
            torch.testing.assert_close(got[p, s], wanted)


def test_cross_attention_is_torchs_with_the_same_weights():
    ours = built(CrossAttention(D, HEADS))
    theirs = nn.MultiheadAttention(D, HEADS, batch_first=True)
    pairs = (ours.query, ours.key_value)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([m.weight for m in pairs]))
        theirs.in_proj_bias.copy_(torch.cat([m.bias for m in pairs]))
    theirs.out_proj = ours.out
    query, history, mask = (x[:3] for x in inputs())  # theirs is nan without history
    wanted, weights = theirs(query, history, history, key_padding_mask=~mask)
    torch.testing.assert_close(ours(query, history, mask), wanted)
    torch.testing.assert_close(ours.weights(query, history, mask), weights)


def test_attention_weights_sum_to_one_and_padding_has_none():
    query, history, mask = inputs()
    weights = built(CrossAttention(D, HEADS)).weights(query, history, mask)
    torch.testing.assert_close(weights.sum(-1)[:3], torch.ones(3, S))
    assert weights[3].count_nonzero() == 0
    assert weights[~mask[:, None].expand_as(weights)].count_nonzero() == 0


def test_a_mask_of_each_query_is_the_same_as_asking_one_by_one():
    attention = built(CrossAttention(D, HEADS))
    query, history, _ = inputs()
    mask = torch.rand(P, S, L, generator=torch.Generator().manual_seed(1)) > 0.5
    mask[0, 0] = False
    got = attention(query, history, mask)
    for s in range(S):
        alone = attention(query[:, s : s + 1], history, mask[:, s])
        torch.testing.assert_close(got[:, s : s + 1], alone)
    assert got[0, 0].count_nonzero() == 0 and got[0, 1].count_nonzero() > 0


def test_weights_take_the_masks_that_attention_takes():
    attention = built(CrossAttention(D, HEADS))
    query, history, mask = inputs()
    wanted = attention.weights(query, history, mask)
    each = mask[:, None].expand(-1, S, -1)
    torch.testing.assert_close(attention.weights(query, history, each), wanted)


def test_an_empty_history_gives_zeros_and_finite_gradients():
    attention = built(CrossAttention(D, HEADS))
    query, history, mask = inputs()
    history.requires_grad_()
    out = attention(query, history, mask)
    assert out[3].count_nonzero() == 0 and out[2].count_nonzero() > 0
    out.square().sum().backward()
    assert history.grad[3].count_nonzero() == 0
    for value in (history.grad, *(p.grad for p in attention.parameters())):
        assert value.isfinite().all() and value.abs().sum() > 0


def test_masked_softmax_of_nothing_is_zero_with_a_finite_gradient():
    score = torch.zeros(2, 3, requires_grad=True)
    mask = torch.tensor([[True, True, False], [False] * 3])
    out = masked_softmax(score, mask)
    assert out.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    (out * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert score.grad[1].tolist() == [0.0] * 3 and score.grad[0, 0] == -0.25


# --- decoder -------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2])
def test_literal_decoder_is_the_printed_formula(layers):
    """Q_{k+1} = FFN( sum_j softmax_j(Q_k . d_j) d_j )"""
    decoder = built(Decoder(D, HEADS, layers, literal=True))
    query, history, mask = inputs()
    got = decoder(query, history, mask)
    for p in range(P):
        kept = [history[p, j].tolist() for j in range(L) if mask[p, j]]
        for s in range(S):
            q = query[p, s]
            for layer in decoder.layers:
                mixed = naive_attention(q.tolist(), kept, kept) if kept else [0.0] * D
                q = layer.feed_forward(torch.tensor(mixed))
            torch.testing.assert_close(got[p, s], q, rtol=1e-4, atol=1e-5)


def test_default_decoder_adds_attention_and_feed_forward_to_the_query():
    decoder = built(Decoder(D, HEADS, 1))
    query, history, mask = inputs()
    (layer,) = decoder.layers
    q = query + layer.attention(layer.norms[0](query), history, mask)
    wanted = q + layer.feed_forward(layer.norms[1](q))
    torch.testing.assert_close(decoder(query, history, mask), wanted)


def test_decoder_without_history_is_left_with_the_query():
    decoder = built(Decoder(D, HEADS, 1))
    query, history, mask = inputs()
    (layer,) = decoder.layers
    wanted = query[3] + layer.feed_forward(layer.norms[1](query[3]))
    torch.testing.assert_close(decoder(query, history, mask)[3], wanted)


@pytest.mark.parametrize("literal", [False, True])
def test_decoder_ignores_padding_and_the_order_of_the_history(literal):
    decoder = built(Decoder(D, HEADS, 2, literal))
    query, history, mask = inputs()
    wanted = decoder(query, history, mask)
    longer = torch.cat([history, torch.full((P, 5, D), 9.0)], dim=1)
    longer_mask = torch.cat([mask, torch.zeros(P, 5, dtype=torch.bool)], dim=1)
    order = torch.randperm(L + 5, generator=torch.Generator().manual_seed(2))
    assert order.tolist() != sorted(order.tolist())
    got = decoder(query, longer[:, order], longer_mask[:, order])
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("literal", [False, True])
def test_decoder_hears_every_item_of_the_history_and_no_other(literal):
    decoder = built(Decoder(D, HEADS, 1, literal))
    query, history, mask = inputs()
    history.requires_grad_()
    decoder(query, history, mask).sum().backward()
    heard = history.grad.abs().sum(-1) > 0
    assert torch.equal(heard, mask)


@pytest.mark.parametrize("literal", [False, True])
def test_decoder_gradients_are_finite_when_nobody_has_a_history(literal):
    decoder = built(Decoder(D, HEADS, 2, literal))
    query, history, mask = inputs()
    query.requires_grad_()
    history.requires_grad_()
    decoder(query, history, torch.zeros_like(mask)).square().sum().backward()
    found = [p.grad for p in (query, history, *decoder.parameters())]
    assert all(g.isfinite().all() for g in found if g is not None)


# --- similarities --------------------------------------------------------------------


def test_similarities_are_cosines_and_the_same_sorted():
    target, history, mask = inputs()
    got = SimilarityModule()(target, history, mask)
    for p in range(P):
        for s in range(S):
            plain, known = [0.0] * L, []
            for j in range(L):
                if mask[p, j]:
                    plain[j] = cosine(target[p, s].tolist(), history[p, j].tolist())
                    known.append(plain[j])
            order = sorted(known, reverse=True) + [0.0] * (L - len(known))
            wanted = torch.tensor(plain + order)
            torch.testing.assert_close(got[p, s], wanted, check_dtype=False)


def test_sorted_similarities_put_padding_behind_negative_cosines():
    target, history, mask = inputs()
    history[1] = -target[1, :1] * torch.tensor([1.0, 2, 3, 4, 5, 6])[:, None]
    (values,) = SimilarityModule()(target[1:2, :1], history[1:2], mask[1:2])[0]
    torch.testing.assert_close(values[L:], torch.tensor([-1.0, -1, -1, 0, 0, 0]))


def test_similarities_ignore_what_lies_in_the_padding():
    target, history, mask = inputs()
    wanted = SimilarityModule()(target, history, mask)
    noise = torch.where(mask[..., None], history, torch.full_like(history, 5.0))
    assert not torch.equal(noise, history)
    torch.testing.assert_close(SimilarityModule()(target, noise, mask), wanted)


def test_longer_padding_only_appends_zeros_to_the_similarities():
    target, history, mask = inputs()
    wanted = SimilarityModule()(target, history, mask).unflatten(-1, (2, L))
    history = torch.cat([history, torch.ones(P, 2, D)], dim=1)
    mask = torch.cat([mask, torch.zeros(P, 2, dtype=torch.bool)], dim=1)
    got = SimilarityModule()(target, history, mask).unflatten(-1, (2, L + 2))
    torch.testing.assert_close(got[..., :L], wanted)
    assert got[..., L:].count_nonzero() == 0


@pytest.mark.parametrize("k", [1, 3, L, L + 4])
def test_most_similar_takes_the_nearest_known_items(k):
    query, history, mask = inputs()
    query = query[:, 0]
    chosen, known = most_similar(query, history, mask, k)
    assert chosen.shape == (P, min(k, L), D)
    for p in range(P):
        items = [history[p, j].tolist() for j in range(L) if mask[p, j]]
        items.sort(key=lambda item: -cosine(query[p].tolist(), item))
        count = min(k, len(items))
        assert known[p].tolist() == [True] * count + [False] * (min(k, L) - count)
        assert chosen[p, :count].tolist() == items[:count]


def test_din_is_a_loop_over_targets_and_items():
    torch.manual_seed(0)
    din = Din(4, hidden=3)
    target, history = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    out = din(target, history, mask)
    for p in range(2):
        for s in range(3):
            total = torch.zeros(4)
            for j in range(5):
                if mask[p, j]:
                    t, h = target[p, s], history[p, j]
                    hidden = din.target(t) + din.item(h) + din.product(t * h)
                    total = total + din.weight(F.gelu(hidden)) * h
            wanted = torch.cat([total, total * target[p, s]])
            torch.testing.assert_close(out[p, s], wanted)


@pytest.mark.parametrize("shape", [(L,), (S, L)])
def test_absorbed_projections_change_neither_result_nor_gradients(shape):
    attention = built(CrossAttention(D, HEADS)).double()
    query, memory, _ = (x.double() for x in inputs())
    query, memory = query.requires_grad_(), memory.requires_grad_()
    looks = torch.rand(P, *shape, generator=torch.Generator().manual_seed(1)) < 0.5
    looks = per_query(looks)
    looks[0] = False
    looks = looks | ~looks.any(dim=-1, keepdim=True)  # as `forward` hands them on
    found = []
    for way in (attention.projected, attention.absorbed):
        out = way(attention._split(attention.query(query)), memory, looks)
        wanted = [query, memory, *attention.query.parameters()]
        wanted += attention.key_value.parameters()
        found.append([out, *torch.autograd.grad(out.square().sum(), wanted)])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_few_queries_over_a_long_memory_absorb_the_projections(monkeypatch):
    attention = built(CrossAttention(D, HEADS))
    ways = []
    for name in ("projected", "absorbed"):
        way = getattr(attention, name)
        monkeypatch.setattr(
            attention, name, lambda *x, n=name, w=way: ways.append(n) or w(*x)
        )
    for asks, length in ((S, 4 * D), (S, D), (5 * D, 4 * D)):
        mask = torch.ones(P, length, dtype=torch.bool)
        attention(torch.zeros(P, asks, D), torch.zeros(P, length, D), mask)
    assert ways == ["absorbed", "projected", "projected"]


def test_products_are_sums_over_the_history_item_by_item():
    target, history, mask = inputs()
    products = built(Products(D))
    found = products(target, history, mask)
    for p in range(P):
        items = history[p][mask[p]]
        pooled = torch.zeros(D)
        for item in items:
            pooled += products.history.weight @ item / (len(items) + Products.PRIOR)
        for s in range(S):
            expected = (products.target.weight @ target[p, s]) * pooled
            assert torch.allclose(found[p, s, :-1], expected, atol=1e-5)
            size = math.log(1 + len(items) / Products.PRIOR)
            assert found[p, s, -1].item() == pytest.approx(size)
