"""The tables of real logs: means, intervals, leads; and the command that makes them."""

import json

import numpy as np
import pytest

from lemur_mini import pipeline
from lemur_mini.evaluation import mean_and_interval
from lemur_mini.reproduce import logs, runs, trials


def result(variant: str, seed: int, auc: float) -> dict:
    test = {"auc": auc, "qauc": auc + 0.01, "cold_auc": auc - 0.1}
    return {"variant": variant, "seed": seed, "test": test}


@pytest.fixture
def stored() -> dict:
    rng = np.random.default_rng(0)
    found = {("trees", 0): result("trees", 0, 0.8)}
    for name, mean in (("ids_numbers", 0.78), ("lemur_numbers", 0.83)):
        for seed in range(3):
            auc = mean + rng.normal(0, 0.01)
            found[name, seed] = result(name, seed, auc)
    return found


def test_leads_are_of_the_same_seed_or_of_the_only_one(stored):
    for rival in ("trees", "ids_numbers"):
        found = logs.differences(stored, rival)
        for measure, pair in found.items():
            each = [
                stored["lemur_numbers", s]["test"][measure]
                - stored[rival, s if rival != "trees" else 0]["test"][measure]
                for s in range(3)
            ]
            assert pair == pytest.approx(mean_and_interval(each))
    assert logs.differences(stored, "lemur") == {}


def test_tables_hold_every_row_that_was_run(stored, monkeypatch):
    only = {logs.LOGS[0].name: stored}
    monkeypatch.setattr(logs, "stored_runs", lambda name: only.get(name, {}))
    text = logs.tables()
    mean, half = mean_and_interval(
        [stored["ids_numbers", s]["test"]["auc"] for s in range(3)]
    )
    assert f"{mean:.3f} ± {half:.3f}" in text
    assert text.count("\n|") == 5  # head, rule, three rows
    line = [x for x in logs.short().splitlines() if x.startswith("| Rails")][0]
    assert line.count("|") == len(logs.ROWS) + 2
    assert line.count("**") == 2 and line.rstrip(" |").endswith("**")  # LEMUR leads
    assert len(logs.text_table(stored).splitlines()) == 4


def test_a_feed_whose_truth_is_known_says_what_share_is_learnt(stored, monkeypatch):
    best = {"auc": 0.9, "qauc": 0.95}
    monkeypatch.setattr(logs.learnable, "stored", lambda *_, feed: best)
    assert logs.learnt(stored) == []  # no ids to begin from
    stored["rankmixer_longer", 0] = result("rankmixer_longer", 0, 0.7)
    (line,) = logs.learnt(stored)
    mine = [stored["lemur_numbers", s]["test"]["qauc"] for s in range(3)]
    mean, half = mean_and_interval([(q - 0.71) / (0.95 - 0.71) for q in mine])
    assert f"{mean:.0%} ± {100 * half:.0f} | 0.900 | 0.950" in line


def test_nothing_stored_is_no_table(monkeypatch):
    monkeypatch.setattr(logs, "stored_runs", lambda name: {})
    assert logs.tables() == ""


@pytest.fixture
def tiny(monkeypatch, prepared):
    """What trains is not trained: the command's own part is looked at."""

    def measures(prepared, *_, **__):
        return {"auc": 0.6, "qauc": 0.5, "log_loss": 0.7, "cold_auc": 0.5}

    run = type("Run", (), {"seconds": 1.0})
    monkeypatch.setattr(pipeline, "prepare", lambda *_: prepared)
    monkeypatch.setattr(pipeline, "fit", lambda *_, **__: run)
    monkeypatch.setattr(pipeline, "evaluate_period", measures)
    monkeypatch.setattr(pipeline, "trees", measures)


def test_a_trial_keeps_its_reason_and_its_kind_of_data(tiny, folder, tmp_path):
    out = tmp_path / "trials.json"
    for model in ("lemur", "ids", "trees"):
        changes = '{"content": false}' if model == "trees" else '{"dense_knots": 8}'
        command = [changes, "--data", str(folder), "--model", model]
        trials.main([*command, "--feed", "--why", "a try", "--out", str(out)])
    rows = json.loads(out.read_text("utf-8"))
    assert [row["model"] for row in rows] == ["lemur", "ids", "trees"]
    assert all(row["why"] == "a try" for row in rows)
    assert all(row["data"].endswith(", a feed") for row in rows)


def test_opponents_without_a_network_run_once(monkeypatch):
    options = type("Options", (), {})()
    options.variants, options.claims, options.seeds = ["trees", "lemur"], None, [4, 5]
    assert runs.wanted(options) == [("trees", 4), ("lemur", 4), ("lemur", 5)]


@pytest.mark.slow
def test_one_command_prints_the_table_of_a_log(folder, tmp_path, capsys):
    """Means and trees: they take no training; what is there is not made again."""
    command = ["log", "--data", str(folder), "--name", "tiny", "--feed", "--variants"]
    command += ["means", "trees", "--results", str(tmp_path)]
    runs.main(command)
    said = capsys.readouterr().out
    assert "smoothed means" in said and "boosted trees" in said
    paths = sorted((tmp_path / "tiny-classroom").iterdir())
    assert [p.name for p in paths] == ["means-seed0.json", "trees-seed0.json"]
    before = [p.stat().st_mtime_ns for p in paths]
    runs.main(command)
    assert [p.stat().st_mtime_ns for p in paths] == before
