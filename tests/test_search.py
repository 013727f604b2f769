"""The search: validation days alone, equal budgets, nothing run twice."""

import dataclasses
import json

import pytest

from lemur_mini import pipeline
from lemur_mini.config import CLASSROOM
from lemur_mini.reproduce import search


@pytest.fixture
def seen(monkeypatch, prepared):
    """The search on the tiny platform, without training; what it asked for."""
    calls = []

    def fit(prepared, config, seed, until):
        calls.append({"config": config, "until": until})
        return type("Trained", (), {"seconds": 1.0})

    def test(prepared, run, start, end):
        calls[-1] |= {"start": start, "end": end}
        return {"auc": 0.6, "qauc": 0.5, "log_loss": 0.7, "cold_auc": 0.5, "more": 1}

    monkeypatch.setattr(pipeline, "prepare", lambda *_: prepared)
    monkeypatch.setattr(pipeline, "fit", fit)
    monkeypatch.setattr(pipeline, "evaluate_period", test)
    return calls


def test_a_search_never_sees_the_test_days(seen, prepared, tmp_path):
    search.main(["--out", str(tmp_path / "found.json"), "--models", "lemur", "cic"])
    assert len(seen) == len(search.TRIALS["lemur"]) + len(search.TRIALS["cic"])
    valid, test = prepared.dataset.valid_start, prepared.dataset.test_start
    for call in seen:
        assert call["until"] == call["start"] == valid
        assert call["end"] == test


def test_a_search_goes_on_where_it_stopped(seen, tmp_path):
    out = tmp_path / "found.json"
    command = ["--out", str(out), "--models", "lemur"]
    search.main(command)
    rows = json.loads(out.read_text("utf-8"))
    assert [row["changes"] for row in rows] == search.TRIALS["lemur"]
    out.write_text(json.dumps(rows[:3]), "utf-8")  # killed after the third
    before = len(seen)
    search.main(command)
    assert json.loads(out.read_text("utf-8")) == rows
    assert len(seen) == before + len(rows) - 3
    search.main([*command, "--seed", "1"])  # another seed is another trial
    assert len(json.loads(out.read_text("utf-8"))) == 2 * len(rows)


@pytest.mark.parametrize("text", ["[{", "{}x", '{"what": 1}', "[1]", '[{"model": 1}]'])
def test_a_file_that_is_no_search_is_not_written_over(seen, tmp_path, text):
    out = tmp_path / "found.json"
    out.write_text(text, "utf-8")
    with pytest.raises(SystemExit, match="not the result of a search"):
        search.main(["--out", str(out), "--models", "cic"])
    assert out.read_text("utf-8") == text and not seen


def test_a_feed_has_trials_of_its_own(seen, monkeypatch, prepared, tmp_path, capsys):
    sizes = dataclasses.replace(prepared.sizes, feed=True)
    feed = dataclasses.replace(prepared, sizes=sizes)
    monkeypatch.setattr(pipeline, "prepare", lambda *_: feed)
    out = tmp_path / "found.json"
    search.main(["--out", str(out)])
    models = [row["model"] for row in json.loads(out.read_text("utf-8"))]
    assert models == [name for name, found in search.FEED_TRIALS.items() for _ in found]
    with pytest.raises(SystemExit):
        search.main(["--out", str(out), "--models", "cic"])
    assert "no trials of cic" in capsys.readouterr().err


@pytest.mark.parametrize("trials", [search.TRIALS, search.FEED_TRIALS])
def test_budgets_are_equal_and_every_trial_is_a_configuration(trials):
    whole = {name: found for name, found in trials.items() if len(found) > 3}
    assert {len(found) for found in whole.values()} == {8}
    for found in trials.values():
        configs = [CLASSROOM.replace(**changes) for changes in found]
        assert len(set(configs)) == len(configs)
