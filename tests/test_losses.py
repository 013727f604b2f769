"""Each loss against the loop that the paper's formula reads as."""

import math

import pytest
import torch

from lemur_mini import losses


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def naive_ctr(logit: list[float], label: list[float]) -> float:
    total = 0.0
    for z, y in zip(logit, label, strict=True):
        p = 1 / (1 + math.exp(-z))
        total -= y * math.log(p) + (1 - y) * math.log(1 - p)
    return total / len(logit)


def naive_sqdc(q, d, label, qid, temperature, session_mask, negatives) -> float:
    """Sum over positives i of -log exp(T c_ii) / sum_j A_ij exp(T c_ij)."""
    total = 0.0
    for i in range(len(q)):
        if label[i] != 1:
            continue
        below = 0.0
        for j in range(len(d)):
            a = 0 if session_mask and i != j and qid[i] == qid[j] else 1
            if negatives == "positives" and label[j] != 1:
                a = 0
            below += a * math.exp(temperature * cosine(q[i], d[j]))
        total -= math.log(math.exp(temperature * cosine(q[i], d[i])) / below)
    return total


def naive_cic(content, identity, temperature) -> float:
    def one_way(a, b):
        total = 0.0
        for i in range(len(a)):
            score = [math.exp(temperature * cosine(a[i], other)) for other in b]
            total -= math.log(score[i] / sum(score))
        return total / len(a)

    return (one_way(content, identity) + one_way(identity, content)) / 2


def sample(seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Four queries of three impressions; labels with none, one, two and three."""
    generator = torch.Generator().manual_seed(seed)
    q, d = torch.randn(2, 12, 5, generator=generator, dtype=torch.float64)
    label = torch.tensor([0, 0, 0, 1, 0, 0, 1, 1, 0, 1, 1, 1.0])
    qid = torch.tensor([7, 7, 7, 3, 3, 3, 9, 9, 9, 1, 1, 1])
    return q, d, label, qid


def test_ctr_is_the_mean_binary_cross_entropy():
    logit = torch.tensor([-3.0, -0.5, 0.0, 0.5, 4.0], dtype=torch.float64)
    label = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    wanted = naive_ctr(logit.tolist(), label.tolist())
    assert losses.ctr(logit, label).item() == pytest.approx(wanted, abs=1e-12)


def test_ctr_leaves_padding_out():
    logit = torch.tensor([[1.0, -2.0, 50.0], [0.5, -60.0, 7.0]], dtype=torch.float64)
    label = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    there = torch.tensor([[True, True, False], [True, False, False]])
    wanted = losses.ctr(logit[there], label[there])
    torch.testing.assert_close(losses.ctr(logit, label, there), wanted)


@pytest.mark.parametrize("negatives", ["all", "positives"])
@pytest.mark.parametrize("session_mask", [True, False])
def test_sqdc_leaves_padding_out(session_mask, negatives):
    """Nothing of a sample that is not there reaches value or gradient."""
    settings = 10.0, session_mask, negatives
    there = torch.tensor([True, False, True] * 4)  # of positives too
    parts = sample()
    wanted = losses.sqdc(*(x[there] for x in parts), *settings)
    q, d = (x.clone().requires_grad_() for x in parts[:2])
    got = losses.sqdc(q, d, *parts[2:], *settings, there)
    torch.testing.assert_close(got, wanted)
    got.backward()
    assert q.grad[~there].count_nonzero() == d.grad[~there].count_nonzero() == 0


@pytest.mark.parametrize("negatives", ["all", "positives"])
def test_sqdc_of_parts_sums_to_the_whole(negatives):
    """Each rank sums over its own positives, against the negatives of all."""
    whole = losses.sqdc(*sample(), 10.0, negatives=negatives)
    parts = [
        losses.sqdc(*sample(), 10.0, negatives=negatives, own=torch.arange(k, 12, 3))
        for k in range(3)
    ]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("negatives", ["all", "positives"])
@pytest.mark.parametrize("session_mask", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 10.0])
def test_sqdc_is_the_papers_formula(temperature, session_mask, negatives):
    settings = temperature, session_mask, negatives
    wanted = naive_sqdc(*(x.tolist() for x in sample()), *settings)
    assert losses.sqdc(*sample(), *settings).item() == pytest.approx(wanted, rel=1e-9)


def test_session_mask_and_kind_of_negatives_each_make_a_difference():
    values = {
        losses.sqdc(*sample(), 10.0, mask, negatives).item()
        for mask in (True, False)
        for negatives in ("all", "positives")
    }
    assert len(values) == 4


def test_sqdc_looks_at_directions_only():
    q, d, label, qid = sample()
    longer = losses.sqdc(3 * q, d / 7, label, qid, 10.0)
    torch.testing.assert_close(longer, losses.sqdc(q, d, label, qid, 10.0))


def test_sqdc_without_positives_is_zero_and_so_is_its_gradient():
    q, d, label, qid = sample()
    q.requires_grad_()
    loss = losses.sqdc(q, d, torch.zeros_like(label), qid, 50.0)
    loss.backward()
    assert loss.item() == 0
    assert q.grad.count_nonzero() == 0


def test_sqdc_of_one_page_has_nothing_to_contrast():
    q, d, _, _ = sample()
    label, qid = torch.ones(12), torch.zeros(12, dtype=torch.long)
    assert losses.sqdc(q, d, label, qid, 50.0).item() == pytest.approx(0, abs=1e-12)
    assert losses.sqdc(q, d, label, qid, 50.0, session_mask=False).item() > 1


@pytest.mark.parametrize("temperature", [50.0, 5000.0])
def test_sqdc_stays_finite_where_the_exponential_does_not(temperature):
    q, d, label, qid = (x.float() if x.is_floating_point() else x for x in sample())
    assert not torch.exp(torch.tensor(5000.0)).isfinite()
    q.requires_grad_()
    d.requires_grad_()
    loss = losses.sqdc(q, d, label, qid, temperature)
    loss.backward()
    for value in (loss, q.grad, d.grad):
        assert value.isfinite().all()
    assert q.grad.abs().sum() > 0 and d.grad.abs().sum() > 0


def test_sqdc_gradient_survives_a_zero_vector():
    q, d, label, qid = sample()
    q[3], d[4] = 0.0, 0.0  # a positive's query and a negative document
    q.requires_grad_()
    d.requires_grad_()
    losses.sqdc(q, d, label, qid, 50.0).backward()
    assert q.grad.isfinite().all() and d.grad.isfinite().all()


def test_sqdc_pulls_the_positive_closer():
    q, d, label, qid = sample()
    d.requires_grad_()
    (slope,) = torch.autograd.grad(losses.sqdc(q, d, label, qid, 10.0), d)
    before = torch.cosine_similarity(q, d)[label == 1]
    after = torch.cosine_similarity(q, d - 0.01 * slope)[label == 1]
    assert after.mean() > before.mean()


def test_sqdc_in_bf16_autocast_is_as_exact_as_in_fp32():
    """At T = 50 a cosine rounded to bf16 is off by up to 0.1 in the exponent."""
    q, d, label, qid = (x.float() if x.is_floating_point() else x for x in sample())
    wanted = losses.sqdc(q, d, label, qid, 50.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = losses.sqdc(q, d, label, qid, 50.0)
    assert rough.item() == pytest.approx(wanted.item(), rel=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_cic_is_the_mean_of_both_directions(temperature):
    content, identity, _, _ = sample()
    wanted = naive_cic(content.tolist(), identity.tolist(), temperature)
    got = losses.cic(content, identity, temperature).item()
    assert got == pytest.approx(wanted, rel=1e-9)
    assert got == pytest.approx(losses.cic(identity, content, temperature).item())


def test_the_other_positives_of_a_page_equal_a_loop():
    generator = torch.Generator().manual_seed(0)
    d = torch.randn(4, 3, 5, generator=generator)
    positive = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]]).bool()
    rest, several = losses.others(d, positive)
    for page in range(4):
        for place in range(3):
            mine = [p for p in range(3) if positive[page, p] and p != place]
            assert several[page, place] == (positive[page, place] and bool(mine))
            if several[page, place]:
                wanted = sum(d[page, p] for p in mine)
                torch.testing.assert_close(rest[page, place], wanted)
