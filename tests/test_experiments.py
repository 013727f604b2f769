"""Experiments: variants, pairing, intervals, verdicts, and runs that go on."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

from lemur_mini.config import BASELINE, CLASSROOM, LEMUR, SCALES, Config
from lemur_mini.cost import accounting
from lemur_mini.reproduce import claims, curves, growth, runs
from lemur_mini.reproduce.claims import (
    CLAIMS,
    CONTRADICTS,
    NO_DIFFERENCE,
    REPRODUCES,
    Claim,
)
from lemur_mini.simulate import ab_test
from lemur_mini.world import Platform
from lemur_mini.world.config import WorldConfig


def test_every_claim_names_variants_that_exist():
    for claim in CLAIMS:
        named = {claim.variant, claim.against, *claim.others}
        assert named <= set(runs.VARIANTS), claim.number
    numbers = [claim.number for claim in CLAIMS]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("variant", runs.VARIANTS)
def test_a_variant_is_a_change_of_known_fields(variant, dataset):
    config = runs.config_of(variant, "classroom", dataset)
    known = {field.name for field in dataclasses.fields(Config)}
    changes = runs.VARIANTS[variant]
    assert set(changes) <= known
    for name in known - set(changes) - {"sqdc_weight"}:
        assert getattr(config, name) == getattr(CLASSROOM, name)
    assert config != CLASSROOM or not changes


def test_temperature_keeps_the_size_of_the_contrasts_gradient(dataset):
    usual = CLASSROOM.sqdc_weight * CLASSROOM.temperature
    for t in (2, 5, 20, 50):
        config = runs.config_of(f"temperature_{t}", "classroom", dataset)
        assert config.sqdc_weight * config.temperature == pytest.approx(usual)


@pytest.mark.parametrize(
    ("expected", "interval", "wanted"),
    [
        ((1,), [0.1, 0.2], REPRODUCES),
        ((1,), [-0.1, 0.2], NO_DIFFERENCE),
        ((1,), [-0.2, -0.1], CONTRADICTS),
        ((-1,), [-0.2, -0.1], REPRODUCES),
        ((-1,), [0.1, 0.2], CONTRADICTS),
        ((0,), [-0.1, 0.1], REPRODUCES),
        ((0,), [0.1, 0.2], CONTRADICTS),
        ((0, -1), [-0.2, -0.1], REPRODUCES),
        ((0, -1), [0.1, 0.2], CONTRADICTS),
    ],
)
def test_verdicts(expected, interval, wanted):
    assert claims.verdict(expected, interval) == wanted


def made_up(variant: str, seed: int, values: list[int]) -> dict:
    known = [v for v in values if v >= 0]
    return {
        "variant": variant,
        "seed": seed,
        "query_auc": values,
        "test": {"qauc": np.mean(known) / 1000},
        "flops": {"total": 1},
    }


def test_comparisons_are_paired_by_seed_and_query():
    """Queries differ much, the two variants by exactly 0.1 in each: the interval of a
    paired difference is a point."""
    values = [100, 500, -1, 800, 300]
    runs = {}
    for seed in range(3):
        shifted = [v + 10 * seed if v >= 0 else v for v in values]
        runs["a", seed] = made_up("a", seed, shifted)
        moved = [v + 100 if v >= 0 else v for v in shifted]
        runs["b", seed] = made_up("b", seed, moved)
    runs["b", 7] = made_up("b", 7, [0, 0, 0, 0, 0])  # has no partner
    row = claims.compare(Claim("0", "", "", "", "b", "a", (1,)), runs)
    assert row["seeds"] == 3
    assert row["ours"] == pytest.approx(0.1)
    np.testing.assert_allclose(row["interval"], [0.1, 0.1], atol=1e-9)
    assert row["verdict"] == REPRODUCES


def test_bootstrap_against_a_loop():
    rng = np.random.default_rng(3)
    each = rng.normal(0.02, 0.3, size=(2, 400))
    each[0, :50] = np.nan
    low, high = claims.bootstrap(each)
    mean = np.nanmean(each, axis=0)
    spread = mean.std() / 20
    assert low == pytest.approx(mean.mean() - 1.96 * spread, abs=0.3 * spread)
    assert high == pytest.approx(mean.mean() + 1.96 * spread, abs=0.3 * spread)


def test_curves_gather_shared_seeds_by_setting_and_skip_what_is_missing():
    runs = {}
    for variant, t, values in (("lemur", 10, (0.7, 0.8)), ("temperature_2", 2, (0.6,))):
        for seed, value in enumerate(values):
            config = {"temperature": float(t), "write_every": 1}
            run = {"config": config, "flops": {"total": 5}, "test": {"qauc": value}}
            runs[variant, seed] = run
    temperature, staleness, _ = curves.CURVES
    assert curves.points(temperature, runs) == [(2.0, [0.6]), (10.0, [0.7])]
    assert curves.points(staleness, runs) == [(1, [0.7, 0.8])]
    assert len(curves.figure(runs).axes) == 1  # one curve has more than LEMUR itself
    del runs["temperature_2", 0]
    assert curves.figure(runs) is None
    assert curves.points(temperature, {}) == []


def test_fewer_than_three_seeds_say_nothing():
    runs = {(v, seed): made_up(v, seed, [500]) for v in "ab" for seed in range(2)}
    assert claims.compare(Claim("0", "", "", "", "b", "a", (1,)), runs) is None


@pytest.fixture
def small(monkeypatch, tmp_path, config, prepared, world):
    """The command on the tiny platform, in this process."""
    platform = Platform(world, 0)
    platform.simulate()
    monkeypatch.setattr(ab_test, "_platform", lambda seed: platform)
    few = partial(ab_test.online, count=30)
    monkeypatch.setattr(runs, "online", few)
    monkeypatch.setitem(SCALES, "classroom", config)
    monkeypatch.setattr(runs, "_opened", prepared)
    return tmp_path


STAMPS = ("date", "seconds")


def test_a_run_that_is_done_is_not_done_again(small, monkeypatch):
    line = runs._one(small, "classroom", "content", 0)
    assert line.endswith("content, seed 0")
    monkeypatch.setattr(runs, "measure", lambda *_: pytest.fail("ran again"))
    assert runs._one(small, "classroom", "content", 0) == ""


def test_a_run_of_another_configuration_is_done_again(small):
    path = runs.result_path(small, "dlrm", 0)
    runs._one(small, "classroom", "dlrm", 0)
    facts = json.loads(path.read_text())
    facts["config"]["learning_rate"] = 7.0
    path.write_text(json.dumps(facts))
    assert runs._one(small, "classroom", "dlrm", 0)
    assert json.loads(path.read_text())["config"]["learning_rate"] != 7.0


def test_a_setting_that_came_or_went_makes_no_run_undone(small):
    path = runs.result_path(small, "dlrm", 0)
    runs._one(small, "classroom", "dlrm", 0)
    facts = json.loads(path.read_text())
    del facts["config"]["least_tokens"]  # its usual value changes nothing
    facts["config"]["renew"] = 0  # was cut since, and was off
    path.write_text(json.dumps(facts))
    assert runs._one(small, "classroom", "dlrm", 0) == ""


@pytest.mark.parametrize("variant", ["dlrm", "lemur", "two_stage"])
def test_a_killed_run_leaves_nothing_and_comes_out_the_same(
    small, monkeypatch, variant
):
    path = runs.result_path(small, variant, 1)
    runs._one(small, "classroom", variant, 1)
    first = json.loads(path.read_text())
    path.unlink()
    with monkeypatch.context() as patch:
        from lemur_mini import training

        real = training.train

        def killed(run, pages, index, *rest, **more):
            real(run, pages, index[: len(index) // 2], *rest, **more)
            raise KeyboardInterrupt

        patch.setattr(training, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            runs._one(small, "classroom", variant, 1)
    assert list(small.rglob("*.json")) == []
    runs._one(small, "classroom", variant, 1)
    again = json.loads(path.read_text())
    assert {k: v for k, v in first.items() if k not in STAMPS} == {
        k: v for k, v in again.items() if k not in STAMPS
    }


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_the_command_survives_kills_at_any_moment(folder, tmp_path):
    """Killed while it starts, trains or writes, and started again: the same files."""

    def command(name: str) -> subprocess.Popen:
        words = ["run", "--data", str(folder), "--results", str(tmp_path / name)]
        words += ["--variants", "dlrm", "rankmixer", "din", "--seeds", "0", "1"]
        words = [sys.executable, "-m", "lemur_mini.reproduce", *words]
        return subprocess.Popen(words, stderr=subprocess.DEVNULL)

    def results(name: str) -> dict[str, dict]:
        paths = sorted((tmp_path / name).rglob("*.json"))
        found = {p.name: json.loads(p.read_text("utf-8")) for p in paths}
        return {
            name: {k: v for k, v in run.items() if k not in STAMPS}
            for name, run in found.items()
        }

    began = time.time()
    assert command("whole").wait() == 0
    whole, took = results("whole"), time.time() - began
    assert len(whole) == 6
    for share in np.random.default_rng(0).uniform(0.5, 0.95, 2):
        process = command("killed")
        time.sleep(share * took)
        process.kill()
        process.wait()
        assert all(whole[name] == run for name, run in results("killed").items())
    assert command("killed").wait() == 0
    assert results("killed") == whole


def test_a_result_says_where_it_came_from(small):
    runs._one(small, "classroom", "lemur", 0)
    path = runs.result_path(small, "lemur", 0)
    facts = json.loads(path.read_text())
    for key in ("config", "seed", "versions", "device", "command", "date", "data"):
        assert facts[key] or key == "seed"
    tested = [v / 1000 for v in facts["query_auc"] if v >= 0]
    assert np.mean(tested) == pytest.approx(facts["test"]["qauc"], abs=5e-4)


# --- floating-point operations -------------------------------------------------------


def test_flops_of_a_dlrm_are_those_of_its_layers(prepared, config):
    changes = {"groups": ("user", "item", "query"), "ranker": "dlrm"}
    counted = accounting.step_flops(prepared, config.replace(**changes))["total"]
    sizes = [3 * config.id_width, *config.mlp, 1]
    rows = config.batch_pages * config.page_size
    forward = sum(2 * rows * a * b for a, b in zip(sizes, sizes[1:], strict=False))
    # backward: a product for the weights and one for the inputs of every layer
    assert counted == pytest.approx(3 * forward, rel=0.01)


def test_sampling_saves_what_it_promises(prepared, config):
    def document(p: float, q: float) -> int:
        sampled = config.replace(forward_share=p, backward_share=q)
        return accounting.step_flops(prepared, sampled)["document_encoder"]

    full, no_backward = document(1.0, 1.0), document(1.0, 0.0)
    assert 2.2 < full / no_backward < 3.0  # pixels need no gradient
    assert document(0.2, 0.2) < 0.3 * full


def test_the_baseline_has_no_encoder_to_pay_for(prepared, config):
    baseline = accounting.step_flops(prepared, config.replace(groups=BASELINE))
    lemur = accounting.step_flops(prepared, config.replace(groups=LEMUR))
    assert baseline["document_encoder"] == 0
    assert lemur["document_encoder"] > 0.3 * lemur["total"]


def test_the_paper_scale_costs_what_the_paper_says():
    """Counted on shapes alone: its parameters and its five rows within 6 %."""
    counted = accounting.count(SCALES["paper"])
    for what, values in accounting.PAPER.items():
        assert values.keys() == counted[what].keys()
        for name, paper in values.items():
            assert counted[what][name] == pytest.approx(paper, rel=0.06), name


def test_counts_on_shapes_are_counts_of_the_real_step(prepared, config):
    """The baseline's step on real numbers costs what its shapes say."""
    baseline = config.replace(groups=BASELINE)
    real = accounting.step_flops(prepared, baseline)["total"]
    shapes = (
        accounting.count(baseline.replace(groups=LEMUR))["gflops"]["baseline"] * 1e9
    )
    # each page full, as here; the shapes' history is as long as the configuration's
    assert real == pytest.approx(shapes, rel=0.02)


def test_growth_reads_shares_and_paired_differences_of_every_size(monkeypatch):
    def runs(name):
        if name == "platform-x2":
            return {}
        more = 0.0 if name == "platform" else 0.1
        values = {"rankmixer_longer": 0.6, "lemur": 0.7 + more, "cic": 0.69 + more}
        return {
            (variant, seed): {"data": name, "test": {"qauc": value + 0.01 * seed}}
            for variant, value in values.items()
            for seed in ((0, 1) if variant != "cic" else (1,))
        }

    monkeypatch.setattr(growth, "stored_runs", runs)
    monkeypatch.setattr(
        growth.learnable, "stored", lambda *_: {"auc": 0.9, "qauc": 0.805}
    )
    found = growth.rows()
    assert [row["times"] for row in found] == [1, 4, 8]  # twice: no results yet
    mean, half = found[0]["learnt"]["lemur"]
    assert mean == pytest.approx((0.705 - 0.605) / 0.2) and half > 0
    assert found[1]["learnt"]["lemur"][0] == pytest.approx(1.0)
    assert found[0]["changed"] == {"CIC": (pytest.approx(-0.01), None)}
    left, right = growth.figure(found).axes
    assert len(left.containers) == 1 and len(right.containers) == 1


def test_a_grown_platform_has_the_same_rates():
    world = WorldConfig()
    grown = world.grown(4)
    assert (grown.users, grown.documents, grown.sessions) == (
        4 * world.users,
        4 * world.documents,
        4 * world.sessions,
    )
    assert dataclasses.replace(grown, users=3000, documents=6000, sessions=60000) == (
        world
    )
    with pytest.raises(ValueError, match="by 1 or more"):
        world.grown(0)
