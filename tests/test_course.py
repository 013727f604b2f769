"""What notebooks lean on: exercises, source on view, shipped models, the ranker."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from lemur_mini import checkpoints, course, environment
from lemur_mini.config import BASELINE_CHANGES, CLASSROOM
from lemur_mini.serving.ranker import Ranker
from lemur_mini.training import make_model


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (lambda: ..., "not solved yet"),
        (lambda: 3, "right"),
        (lambda: 4, "not yet. Count again."),
        (lambda: 1 / 0, "not yet: ZeroDivisionError: division by zero. Count again."),
    ],
)
def test_an_exercise_tells_right_from_wrong_and_never_raises(capsys, answer, verdict):
    course.exercise("1.1", answer, lambda value: value == 3, "Count again.")
    assert capsys.readouterr().out == f"Exercise 1.1: {verdict}\n"


def test_source_is_shown_from_the_module(capsys):
    course.show(course.exercise, Ranker.rank)
    shown = capsys.readouterr().out
    assert "Markdown" in shown  # what IPython prints away from a notebook


@pytest.mark.parametrize(
    ("name", "config"),
    [("lemur", CLASSROOM), ("rankmixer_longer", CLASSROOM.replace(**BASELINE_CHANGES))],
)
def test_shipped_models_are_of_the_present_configuration(name, config):
    facts, _ = checkpoints.read(course.SHIPPED / f"{name}.safetensors")
    assert checkpoints.config_of(facts) == config
    assert facts["step"] == facts["total"]


@pytest.fixture
def ranker(config, prepared):
    """An untrained LEMUR whose bank knows every document."""
    model = make_model(config, prepared.sizes, 0, torch.device("cpu")).eval()
    model.publish(prepared.features)
    return Ranker(model, prepared)


def test_ranking_by_name_is_scoring_by_row(ranker, prepared):
    dataset, pages = prepared.dataset, prepared.pages
    index = pages.between(dataset.test_start, None)[:1]
    batch = pages.batch(index, ranker.model.config.history_long)
    with torch.no_grad():
        expected = ranker.model(batch, prepared.features)[0].sigmoid().numpy()
    items = batch.item[0][batch.item[0] >= 0].numpy()
    ranked = ranker.rank(
        dataset.users[batch.user[0]],
        dataset.queries[batch.query[0]],
        items,
        before=int(pages.start[index[0]]),
    )
    order = np.argsort(-expected[: len(items)], kind="stable")
    assert ranked.items.tolist() == items[order].tolist()
    np.testing.assert_allclose(ranked.chance, expected[order], rtol=1e-5)


def test_unknown_users_and_queries_are_ranked_all_the_same(ranker, prepared):
    user, items = prepared.dataset.users[0], np.arange(10)
    text = ranker.rank(user, "words that nobody ever typed", items)
    other = ranker.rank(user, "bread", items)
    assert sorted(text.items) == sorted(other.items) == items.tolist()
    assert not np.allclose(np.sort(text.chance), np.sort(other.chance))  # it is read
    nobody = ranker.rank("nobody", prepared.dataset.queries[0], items)
    assert np.isfinite(nobody.chance).all()
    assert (ranker.history("nobody") == -1).all()


def test_candidates_outside_the_catalogue_are_refused(ranker, prepared):
    user, query = prepared.dataset.users[0], prepared.dataset.queries[0]
    with pytest.raises(ValueError, match="no candidates"):
        ranker.rank(user, query, np.array([], dtype=int))
    with pytest.raises(ValueError, match="catalogue rows from 0 to 119; got 3 to 120"):
        ranker.rank(user, query, np.array([3, 120]))


def test_retrieval_finds_the_nearest_vectors(ranker):
    vector = ranker.query_vector("bread")
    bank = ranker.model.bank.vectors
    cosine = [float(torch.cosine_similarity(v, vector, dim=0)) for v in bank]
    assert ranker.retrieve("bread", 5).tolist() == np.argsort(cosine)[::-1][:5].tolist()


def test_an_exported_model_serves_as_before(tmp_path, ranker, prepared):
    from lemur_mini.training import Run

    run = Run(ranker.model, prepared.features, 0, total=1)
    checkpoints.save(run, tmp_path / "whole.safetensors", prepared.fingerprint)
    checkpoints.export(tmp_path / "whole.safetensors", tmp_path / "half.safetensors")
    half = Ranker.load(tmp_path / "half.safetensors", prepared)
    query, items = prepared.dataset.queries[0], np.arange(20)
    before = ranker.rank(prepared.dataset.users[0], query, items)
    after = half.rank(prepared.dataset.users[0], query, items)
    np.testing.assert_allclose(after.chance, before.chance, atol=2e-3)
    sizes = [(tmp_path / f"{n}.safetensors").stat().st_size for n in ("half", "whole")]
    assert sizes[0] < sizes[1]


def test_the_check_says_what_is_here(capsys):
    assert course.main(["check"]) in (0, 1)  # memory may be short
    said = capsys.readouterr().out
    for part in ("Python 3", "torch ", "cores: ", "memory: ", "running a notebook: "):
        assert part in said
    assert "MISSING" not in said


def test_the_check_names_what_is_missing(capsys, monkeypatch):
    monkeypatch.setattr(environment, "packages", lambda: {"torch": "2", "pandas": None})
    assert course.main(["check"]) == 1
    said = capsys.readouterr().out
    assert "missing: pandas; pip install" in said and "all is here" not in said


def test_the_check_says_where_memory_is_short(capsys, monkeypatch):
    monkeypatch.setattr(environment, "memory", lambda: 2.0)
    assert course.main(["check"]) == 1
    assert "memory is short" in capsys.readouterr().out


def test_another_command_is_refused(capsys):
    assert course.main([]) == 2
    assert "usage: python -m lemur_mini.course check" in capsys.readouterr().err


def test_a_missing_package_is_said_in_one_line():
    code = "import sys; sys.modules['IPython'] = None; from lemur_mini import course"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = run.stderr.strip().splitlines()[-1]
    assert "there is no IPython" in last and "pip install -e" in last
