"""Reasons and questions: from stored results to what they say."""

import math

import pytest
import torch

from lemur_mini.config import CLASSROOM
from lemur_mini.model import Lemur
from lemur_mini.pipeline import prepare
from lemur_mini.reproduce import growth, questions, reasons, runs
from lemur_mini.reproduce.claims import CLAIMS
from lemur_mini.reproduce.variants import VARIANTS
from lemur_mini.training import Run


def made_up(monkeypatch, results: dict[str, dict[tuple[str, int], float]]):
    def stored_runs(name, scale="classroom"):
        found = results.get(name, {})
        return {key: {"test": {"qauc": value}} for key, value in found.items()}

    monkeypatch.setattr(reasons, "stored_runs", stored_runs)


def seeds(variant: str, *values: float) -> dict:
    return {(variant, seed): value for seed, value in enumerate(values)}


def test_reasons_and_questions_name_what_exists():
    numbers = {claim.number for claim in CLAIMS}
    for reason in reasons.REASONS:
        assert set(reason.claims) <= numbers
    for question in questions.QUESTIONS:
        assert {question.against, *question.variants} <= set(VARIANTS)


@pytest.mark.parametrize(
    ("large", "verdict"),
    [
        ((0.699, 0.698, 0.697), reasons.YES),  # from -2 points to -0.2
        ((0.685, 0.684, 0.683), reasons.NO),  # still -1.6
    ],
)
def test_a_difference_fades_with_the_log(large, verdict, monkeypatch):
    base = seeds("lemur", 0.701, 0.7, 0.699)
    small = base | seeds("p20_q20", 0.681, 0.68, 0.679)
    made_up(
        monkeypatch,
        {"platform": small, growth.name_of(4): base | seeds("p20_q20", *large)},
    )
    found = reasons.fades("p20_q20", "lemur")
    assert found.verdict == verdict
    assert "-2.0 ± 0.0 at the shipped size" in found.said


def test_one_seed_is_a_hint_and_no_result_is_none(monkeypatch):
    both = seeds("a", 0.5) | seeds("b", 0.4)
    made_up(monkeypatch, {"platform": both, growth.name_of(4): both})
    assert reasons.appears("a", "b", 1).verdict == reasons.OPEN
    assert reasons.fades("a", "b").verdict == reasons.OPEN
    assert reasons.shows("a", "b", 1).verdict == reasons.OPEN
    assert reasons.shows("a", "missing", 1) is None
    assert reasons.difference("a", "missing") is None


@pytest.mark.parametrize(
    ("spread", "expected", "verdict"),
    [
        ((0.010, 0.004), 1, reasons.YES),
        ((0.010, 0.026), 1, reasons.OPEN),  # may well be two points
        ((0.000, 0.004), 1, reasons.NO),  # less than half a point at best
        ((-0.010, 0.026), -1, reasons.OPEN),
        ((0.010, 0.004), -1, reasons.NO),
        ((0.001, 0.004), 0, reasons.YES),
        ((0.010, 0.004), 0, reasons.NO),
        ((0.010, None), 1, reasons.OPEN),
    ],
)
def test_an_interval_is_judged_by_what_it_excludes(spread, expected, verdict):
    assert reasons.judged(spread, expected) == verdict


def test_equal_cost_reads_the_whole_logs_line(monkeypatch):
    """Sampled steps at half the FLOPs from half-way on: three times the whole cost."""

    def share(variant, times):
        return {("lemur", 1): 0.5, ("lemur", 4): 0.7, ("p20_q20", 4): 0.6}.get(
            (variant, times)
        )

    def stored_runs(name, scale="classroom"):
        config = {"sampling_from": 0.5}
        return {
            ("lemur", 0): {"flops": {"total": 10}, "config": {"sampling_from": 0.0}},
            ("p20_q20", 0): {"flops": {"total": 5}, "config": config},
        }

    monkeypatch.setattr(reasons, "share_of", share)
    monkeypatch.setattr(reasons, "stored_runs", stored_runs)
    assert reasons.cost_of("p20_q20", 4) == 4 * (0.5 * 10 + 0.5 * 5)
    found = reasons.equal_cost()
    want = 0.5 + 0.2 * math.log(3) / math.log(4)
    assert f"{want:.1%} whole at that cost, on 3.0 x" in found.said
    assert found.verdict == reasons.NO


def test_shows_needs_the_sign_everywhere(monkeypatch):
    apart = seeds("a", 0.52, 0.51, 0.52) | seeds("b", 0.4, 0.4, 0.4)
    same = seeds("a", 0.4, 0.401, 0.399) | seeds("b", 0.4, 0.4, 0.4)
    made_up(monkeypatch, {"rails_log": apart, "crawl_log": same})
    assert reasons.shows("a", "b", 1, "rails_log").verdict == reasons.YES
    assert reasons.shows("a", "b", 1, "rails_log", "crawl_log").verdict == reasons.NO
    assert reasons.shows("a", "b", 0, "crawl_log").verdict == reasons.YES
    assert "(Rails)" in reasons.shows("a", "b", 1, "rails_log").said


def test_every_row_of_the_papers_that_fails_has_an_experiment():
    papers = {claim.number for claim in CLAIMS if claim.paper != "-"}
    assert not papers & set(reasons.without())


def test_the_tables_are_of_stored_results():
    text = reasons.table()
    for row in reasons.claims_rows():
        if row["paper"] != "-":
            assert row["claim"] in text


def test_ages_are_of_the_last_quarter_and_of_tenths():
    log = [{"age": float(n)} for n in range(8)] + [{}]
    kept = {("a", 0): {"log": log}, ("b", 0): {"log": [{"age": None}]}}
    assert questions.age(kept, "a") == "6"  # 6.5, to even
    assert questions.age(kept, "b") == questions.age(kept, "none") == ""
    kept["a", 1] = {"log": log, "age_by_popularity": [9.0, 3.0]}
    assert questions.age(kept, "a") == "6 (9 least shown, 3 most)"


def test_ages_by_popularity_are_those_of_a_loop(dataset):
    prepared = prepare(dataset, CLASSROOM, torch.device("cpu"))
    model = Lemur(CLASSROOM, prepared.sizes)
    torch.manual_seed(0)
    model.bank.written[:] = torch.randint(40, (len(dataset.items),))
    run = Run(model, prepared.features, 0, total=50, step=50)
    log = dataset.log
    counts = [0] * len(dataset.items)
    for row, when in zip(log.item.tolist(), log.timestamp.tolist(), strict=True):
        counts[row] += when < dataset.test_start
    known = sorted((row for row, n in enumerate(counts) if n), key=counts.__getitem__)
    half = (len(known) + 1) // 2
    want = [
        sum(50 - int(model.bank.written[row]) for row in part) / len(part)
        for part in (known[:half], known[half:])
    ]
    found = runs.age_by_popularity(prepared, run, parts=2)
    assert found == pytest.approx(want, abs=0.06)
    frozen = Lemur(CLASSROOM.replace(two_stage=1), prepared.sizes)
    run = Run(frozen, prepared.features, 0, total=50, step=50)
    assert runs.age_by_popularity(prepared, run) is None
