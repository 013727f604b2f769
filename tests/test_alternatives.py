"""Parts that others would put in LEMUR's place, each against a loop."""

import math

import pytest
import torch

from lemur_mini.config import CLASSROOM
from lemur_mini.model import StepOptions
from lemur_mini.pipeline import fit, predict_period, prepare
from lemur_mini.ranker import mix
from lemur_mini.reproduce import alternatives as other
from lemur_mini.reproduce.variants import VARIANTS, config_of

P, S, L, D = 2, 3, 5, 8


@pytest.fixture
def sequence():
    torch.manual_seed(0)
    query, history = torch.randn(P, S, 2 * D), torch.randn(P, L, D)
    mask = torch.arange(L)[None] < torch.tensor([[3], [0]])
    return query, history, mask


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def test_simtier_counts_the_history_by_similarity(sequence):
    query, history, mask = sequence
    target = query[..., D:]
    counts = other.SimTier(D, 2).counts(target, history, mask)
    for p in range(P):
        for s in range(S):
            want = [0] * other.SimTier.TIERS
            for j in range(L):
                if mask[p, j]:
                    value = cosine(target[p, s], history[p, j])
                    want[min(19, math.floor((value + 1) / 2 * 20))] += 1
            assert counts[p, s].tolist() == want


def test_similarity_aware_attention_is_its_formula(sequence):
    query, history, mask = sequence
    part = other.SimilarityAwareAttention(D, 2)
    part.gains.data = torch.tensor([0.5, 2.0, -1.0])
    said = part(query, history, mask)
    for p in range(P):
        for s in range(S):
            token, target = query[p, s, :D], query[p, s, D:]
            here = [j for j in range(L) if mask[p, j]]
            weights = []
            for j in here:
                a = float((token @ part.key(history[p, j])).detach()) / D**0.5
                c = cosine(target, history[p, j])
                weights.append(math.exp(0.5 * a + 2 * c - a * c))
            want = token.clone()
            for w, j in zip(weights, here, strict=True):
                want = want + w / sum(weights) * part.value(history[p, j])
            torch.testing.assert_close(said[p, s], want)


def test_stacked_attention_reads_padding_as_nothing(sequence):
    query, history, mask = sequence
    part = other.StackedTargetAttention(D, 2)
    said = part(query, history, mask)
    louder = torch.where(mask[..., None], history, 100.0)
    torch.testing.assert_close(part(query, louder, mask), said)
    assert said.shape == (P, S, D)


def test_mixing_twice_is_as_before():
    x = torch.randn(4, 8, 16)
    assert torch.equal(mix(mix(x)), x)
    block = other.MixAndRevert(8, 16, 2)
    for part in (block.mixed.down, block.own.down):  # says nothing: what is left?
        part.weight.data.zero_()
    block.norms[0] = torch.nn.Identity()
    # token t is added to itself alone, and not to another as in Mix(X) + X
    torch.testing.assert_close(block(x), block.norms[2](block.norms[1](2 * x)))


def test_a_codebook_leaves_less_with_every_level():
    torch.manual_seed(0)
    left = torch.randn(200, 4)
    sizes = [float(left.square().sum())]
    for _ in range(3):
        book = other.codebook(left, 8, 10)
        word = other.nearest(left, book)
        for row in range(len(left)):
            far = [float((left[row] - b).norm()) for b in book]
            assert far[word[row]] == pytest.approx(min(far), abs=1e-5)
        left = left - book[word]
        sizes.append(float(left.square().sum()))
    assert sizes == sorted(sizes, reverse=True)


@pytest.fixture
def prepared(dataset):
    return prepare(dataset, CLASSROOM, torch.device("cpu"))


@pytest.mark.parametrize("rule", ["popular", "rare", "oldest", "sparing"])
def test_chosen_documents_come_in_the_rules_order(rule, prepared, monkeypatch):
    model = other.Choosing(CLASSROOM, prepared.sizes, rule)
    batch = prepared.pages.batch(range(60), CLASSROOM.history_long)
    rows = batch.unique_items
    torch.manual_seed(0)
    model.shown[rows] = torch.randint(5, (len(rows),)).float()
    model.bank.written[rows] = torch.randint(50, (len(rows),))
    model.bank.forget(rows[:3])
    before = model.shown[rows].clone()
    encoded = []
    monkeypatch.setattr(
        model, "encode", lambda _, r: encoded.append(r) or torch.zeros(len(r), 64)
    )
    written = model.bank.written[rows].clone()
    options = StepOptions(60, torch.rand(len(rows)), 0.2, 0.2)
    model.encode_and_write(batch, prepared.features, options)
    counted = [int((batch.item[batch.mask] == row).sum()) for row in rows]
    assert (model.shown[rows] - before).tolist() == counted
    (said,) = encoded
    assert len(said) == math.ceil(0.2 * len(rows))
    assert said[:3].sort().values.equal(rows[:3])  # what the bank lacks
    shown, chosen = model.shown[rows], torch.isin(rows, said[3:])
    key = {"popular": -shown, "oldest": written}.get(rule, shown)
    left = ~chosen & (torch.arange(len(rows)) >= 3)
    if rule == "sparing":  # any of the half that is shown less
        half = (len(rows) + 1) // 2
        assert float(shown[chosen].max()) <= float(shown.sort().values[half - 1])
    else:
        assert float(key[chosen].max()) <= float(key[left].min())


@pytest.mark.parametrize("variant", other.BUILDS)
def test_every_alternative_trains_and_ranks(variant, prepared):
    """In a few steps on a small log: finite, and its own parts learn."""
    config = config_of(variant, "classroom", prepared.dataset)
    start = prepared.dataset.test_start
    run = fit(prepared, config, 0, start, process=other.Built(variant))
    fresh = other.BUILDS[variant](config, prepared.sizes)
    assert run.model.state_dict().keys() == fresh.state_dict().keys()
    _, score = predict_period(prepared, run, start, None)
    assert len(score) and all(map(math.isfinite, score))


def test_every_alternative_is_a_variant():
    assert set(other.BUILDS) <= set(VARIANTS)
    assert other.Built("lemur").build is other.Lemur
