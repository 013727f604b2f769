"""The stream, the schedule, checkpoints and prediction, on a few dozen pages."""

import json
import math
import os
import subprocess
import sys
from ast import literal_eval
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lemur_mini import checkpoints, pipeline, training
from lemur_mini.checkpoints import CheckpointError
from lemur_mini.config import BASELINE, Config
from lemur_mini.data.fingerprint import Fingerprint
from lemur_mini.data.schema import DataError
from lemur_mini.pipeline import Prepared
from lemur_mini.training import (
    LOG_EVERY,
    Run,
    learning_rate_at,
    make_model,
    predict,
    train,
)

CPU = torch.device("cpu")
PAGES = 36  # of a short training: nine steps
DATA = Fingerprint({"data": "0badcafe"})


# --- helpers -------------------------------------------------------------------------


def fit(prepared: Prepared, config: Config, *arguments, seed: int = 0, **named) -> Run:
    until = int(prepared.pages.start[PAGES])
    return pipeline.fit(prepared, config, seed, until, *arguments, **named)


def fresh_run(prepared: Prepared, config: Config, seed: int = 0, total: int = 9) -> Run:
    model = make_model(config, prepared.sizes, seed, CPU)
    return Run(model, prepared.features, seed, total)


def train_on(run: Run, prepared: Prepared, index, save=None) -> Run:
    return train(run, prepared.pages, np.asarray(index), save)


def batch_of(prepared: Prepared, run: Run, index):
    return prepared.pages.batch(np.asarray(index), run.config.history_long)


def stop_before(monkeypatch, step: int) -> None:
    """Ctrl-C when this step is about to run."""
    original = training.train_step

    def stopping(run, batch):
        if run.step == step:
            raise KeyboardInterrupt
        return original(run, batch)

    monkeypatch.setattr(training, "train_step", stopping)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def sampled(config: Config) -> Config:
    """With sampling, which depends on the place in the stream."""
    shares = dict(forward_share=0.6, backward_share=0.3, sampling_from=0.2)
    return config.replace(**shares, checkpoint_every=3)


@pytest.fixture
def saved(prepared, config, tmp_path) -> Path:
    """A checkpoint after two steps."""
    run = train_on(fresh_run(prepared, config), prepared, range(8))
    checkpoints.save(run, tmp_path / "model.safetensors", DATA)
    return tmp_path / "model.safetensors"


# --- schedule and stream -------------------------------------------------------------


def test_learning_rate_warms_up_and_decays_to_zero():
    config, total = Config(learning_rate=0.5, warm_up=0.2), 50
    for step in range(total + 1):
        naive = (step + 1) / 10 if step < 10 else (50 - step) / 40
        assert learning_rate_at(config, step, total) == pytest.approx(0.5 * naive)
    assert learning_rate_at(config, 9, total) == 0.5
    assert learning_rate_at(config, total, total) == 0


@pytest.mark.parametrize("total", [1, 2, 7])
@pytest.mark.parametrize("warm_up", [0.0, 0.05, 1.0])
def test_learning_rate_of_a_short_run_is_positive_and_bounded(total, warm_up):
    config = Config(learning_rate=0.5, warm_up=warm_up)
    rates = [learning_rate_at(config, step, total) for step in range(total)]
    assert min(rates) > 0 and max(rates) <= 0.5


def test_the_optimiser_follows_the_schedule(prepared, config):
    run = fresh_run(prepared, config)
    for step in range(3):
        train_on(run, prepared, range(4 * (step + 1)))
        ids, *rest = [group["lr"] for group in run.optimizer.param_groups]
        assert set(rest) == {learning_rate_at(config, step, 9)}
        assert ids == config.id_lr_multiplier * rest[0]


def test_the_first_group_of_the_optimiser_is_the_ids(prepared, config):
    run = fresh_run(prepared, config)
    groups = [group["params"] for group in run.optimizer.param_groups]
    assert [id(p) for p in groups[0]] == [id(p) for p in run.model.ids.parameters()]
    assert sum(map(len, groups)) == len(list(run.model.parameters()))


def test_gradients_are_clipped(prepared, config):
    run = train_on(fresh_run(prepared, config.replace(clip=1e-3)), prepared, range(4))
    squares = [p.grad.square().sum() for p in run.model.parameters()]
    assert math.sqrt(sum(squares)) == pytest.approx(1e-3, rel=0.01)


def test_sampling_begins_after_its_share_of_the_steps(prepared, config):
    shares = dict(forward_share=0.4, backward_share=0.2, sampling_from=0.5)
    run = fresh_run(prepared, config.replace(**shares, sqdc_weight=0.1), total=8)
    batch = batch_of(prepared, run, range(4))
    for step in range(8):
        run.step = step
        plan = training.step_options(run, batch)
        wanted = (1.0, 1.0) if step < 4 else (0.4, 0.2)
        assert (plan.forward_share, plan.backward_share) == wanted
        assert plan.sqdc_weight == 0.1


def test_the_stream_shows_each_page_once_in_time_order(prepared, config, monkeypatch):
    seen, original = [], training.train_step
    monkeypatch.setattr(
        training, "train_step", lambda run, b: (seen.append(b), original(run, b))[1]
    )
    run = fit(prepared, config)
    pages = prepared.pages
    index = pages.between(None, int(pages.start[PAGES]))
    assert (
        run.step == run.total == len(seen) == math.ceil(len(index) / config.batch_pages)
    )
    assert (np.diff(pages.start[index]) >= 0).all()
    rows = pages.rows[index]
    wanted = np.where(rows >= 0, prepared.dataset.log.item[rows], -1)
    assert np.array_equal(torch.cat([b.item for b in seen]), wanted)
    assert np.array_equal(torch.cat([b.qid for b in seen]), pages.qid[index])


def test_one_batch_is_made_ahead_of_its_step(prepared):
    made, used = [], []

    def batches():
        for place in range(5):
            made.append(place)
            yield prepared.pages.batch(np.array([place]), 8)

    for batch in training.prefetch(batches(), CPU):
        assert len(made) <= len(used) + 2
        used.append(batch.user.item())
    assert used == prepared.pages.user[:5].tolist()
    assert list(training.prefetch(iter(()), CPU)) == []


def test_what_goes_wrong_in_making_a_batch_is_raised_at_its_step(prepared):
    def batches():
        yield prepared.pages.batch(np.array([0]), 8)
        raise DataError("row 7")

    stream = training.prefetch(batches(), CPU)
    assert next(stream).user.item() == prepared.pages.user[0]
    with pytest.raises(DataError, match="row 7"):
        next(stream)


# --- seeds ---------------------------------------------------------------------------


def test_same_seed_same_weights_bit_for_bit_and_another_seed_differs(prepared, config):
    first, again, other = (
        fit(prepared, sampled(config), seed=seed).model.state_dict()
        for seed in (3, 3, 4)
    )
    assert same(first, again)
    learnt = [k for k, v in first.items() if v.is_floating_point() and v.numel()]
    assert not any(torch.equal(first[k], other[k]) for k in learnt)


def test_making_a_model_leaves_the_global_seed_alone(prepared, config):
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    make_model(config, prepared.sizes, 0, CPU)
    assert torch.equal(torch.rand(3), wanted)


def test_same_seed_same_weights_in_another_process(prepared, config):
    """Sets of strings are ordered by PYTHONHASHSEED; the model must not be."""
    order = list({"long", "short"})
    other = next(
        seed
        for seed in map(str, range(100))
        if order != literal_eval(_python("print(list({'long', 'short'}))", seed))
    )
    script = (
        "import torch; from lemur_mini.config import Config; "
        "from lemur_mini.model import Sizes; from lemur_mini import training; "
        f"model = training.make_model({config!r}, {prepared.sizes!r}, 0, "
        "torch.device('cpu')); "
        "print([(n, p.sum().item()) for n, p in model.named_parameters()])"
    )
    model = make_model(config, prepared.sizes, 0, CPU)
    here = [(n, p.sum().item()) for n, p in model.named_parameters()]
    for mine, theirs in zip(here, literal_eval(_python(script, other)), strict=True):
        assert mine[0] == theirs[0]
        assert mine[1] == pytest.approx(theirs[1], rel=1e-5, abs=1e-5)


def _python(script: str, hash_seed: str) -> str:
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-c", script]
    return subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=True
    ).stdout


# --- interrupted and resumed ---------------------------------------------------------


@pytest.mark.parametrize("groups", [Config.groups, BASELINE])
def test_resumed_run_equals_the_uninterrupted_one(
    prepared, config, tmp_path, monkeypatch, groups
):
    monkeypatch.setattr(training, "LOG_EVERY", 2)
    config = sampled(config).replace(groups=groups)
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    fit(prepared, config, whole)
    with monkeypatch.context() as patch:
        stop_before(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            fit(prepared, config, parts)
    half, _ = checkpoints.read(parts)  # the last checkpoint before Ctrl-C
    assert half["step"] == 3 and [record["step"] for record in half["log"]] == [0, 2]
    fit(prepared, config, parts, resume=True)
    (facts, tensors), (wanted_facts, wanted) = map(checkpoints.read, (parts, whole))
    assert facts.pop("seconds") > 0 and wanted_facts.pop("seconds") > 0
    assert facts == wanted_facts and len(facts["log"]) == 5
    assert same(tensors, wanted)
    kinds = {name.split(".")[0] for name in tensors}
    assert kinds == {"model", "exp_avg", "exp_avg_sq", "step", "data", "past"}
    assert ("model.bank.vectors" in tensors) == (groups != BASELINE)


def test_resuming_a_finished_run_changes_nothing(prepared, config, tmp_path):
    path = tmp_path / "model.safetensors"
    done = fit(prepared, config, path)
    again = fit(prepared, config, path, resume=True)
    assert again.step == done.step == done.total
    assert same(again.model.state_dict(), done.model.state_dict())


def test_without_resume_a_run_starts_anew(prepared, config, saved):
    run = fit(prepared, config, saved)
    assert run.step == run.total
    assert same(run.model.state_dict(), fit(prepared, config).model.state_dict())


# --- checkpoints ---------------------------------------------------------------------


def test_a_failing_write_leaves_the_old_checkpoint(
    prepared, config, saved, monkeypatch
):
    before = saved.read_bytes()

    def full_disk(path, content):
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoints.Path, "write_bytes", full_disk)
    with pytest.raises(CheckpointError, match="cannot be written .No space"):
        checkpoints.save(fresh_run(prepared, config), saved, DATA)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_truncated_checkpoint_says_so(prepared, config, saved, length):
    saved.write_bytes(saved.read_bytes()[:length])
    for action in (
        lambda: checkpoints.load_model(saved),
        lambda: checkpoints.resume(saved, fresh_run(prepared, config), DATA),
    ):
        with pytest.raises(CheckpointError) as error:
            action()
        message = str(error.value)
        assert message.startswith(f"{saved}: not a whole checkpoint (")
        assert message.endswith("; delete it and train again")
        assert "\n" not in message


def test_a_missing_checkpoint_says_so(tmp_path):
    with pytest.raises(CheckpointError, match=r"x: no checkpoint there; train first"):
        checkpoints.load_model(tmp_path / "x")


@pytest.mark.parametrize(
    ("changes", "seed", "data", "wanted"),
    [
        ({"learning_rate": 0.5}, 0, DATA, "learning_rate 0.001 (now 0.5)"),
        ({"ranker": "dlrm"}, 0, DATA, "ranker rankmixer (now dlrm)"),
        ({}, 1, DATA, "seed 0 (now 1)"),
        ({}, 0, Fingerprint({"data": "1"}), "data 0badcafe (now 1)"),
    ],
)
def test_a_checkpoint_of_other_settings_says_which(
    prepared, config, saved, changes, seed, data, wanted
):
    run = fresh_run(prepared, config.replace(**changes), seed)
    before = {k: v.clone() for k, v in run.model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        checkpoints.resume(saved, run, data)
    remedy = "use the same settings or another --out"
    assert str(error.value) == f"{saved}: written with {wanted}; {remedy}"
    assert run.step == 0 and same(run.model.state_dict(), before)


def test_resume_takes_what_belongs_to_it(prepared, config, saved):
    run = checkpoints.resume(saved, fresh_run(prepared, config), DATA)
    assert run.step == 2


def test_a_checkpoint_is_numbers_and_json_without_pickle(saved):
    """safetensors: length, JSON header, then the tensors' bytes and no more."""
    content = saved.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    facts = json.loads(header.pop("__metadata__")["lemur_mini"])
    assert facts["step"] == 2 and facts["data"] == "0badcafe"
    spans = sorted(entry["data_offsets"] for entry in header.values())
    ends = [0, *(end for _, end in spans)]
    assert [begin for begin, _ in spans] == ends[:-1]
    assert 8 + size + ends[-1] == len(content)


def test_a_loaded_model_serves_the_same_scores(prepared, config, tmp_path):
    path = tmp_path / "model.safetensors"
    run = fit(prepared, config, path)
    model = checkpoints.load_model(path)
    assert model.config == config and model.sizes == prepared.sizes
    for module in (model, run.model):
        assert not module.training
    index = np.arange(PAGES, PAGES + 8)
    scores = [
        predict(m, prepared.features, prepared.pages, index)[1]
        for m in (model, run.model)
    ]
    assert np.array_equal(*scores) and scores[0].std() > 0


# --- what is logged ------------------------------------------------------------------


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_bank_health_is_measured_against_what_was_encoded(prepared, config, share):
    """A cached vector that was not encoded anew says nothing of how stale it is."""
    config = config.replace(forward_share=share, backward_share=share)
    run = fresh_run(prepared, config, total=100)
    batch = batch_of(prepared, run, range(100, 104))
    unseen = batch.unique_items[0]
    everything = torch.arange(prepared.sizes.documents)
    run.model.publish(prepared.features, everything[everything != unseen], 5)
    run.model.bank.vectors += 0.1 * torch.randn(
        run.model.bank.vectors.shape, generator=torch.Generator().manual_seed(0)
    )
    old, run.step = run.model.bank.vectors.clone(), LOG_EVERY
    record = training.train_step(run, batch)
    bank, cosines = run.model.bank, []
    for row in batch.unique_items.tolist():
        if row != unseen and bank.written[row] == LOG_EVERY:
            cosines.append(torch.cosine_similarity(old[row], bank.vectors[row], dim=0))
    assert 0 < len(cosines) < len(batch.unique_items)
    mean = sum(cosines).item() / len(cosines)
    assert record["cached_cosine"] == pytest.approx(mean, rel=1e-5)
    covered = 1 - 1 / len(batch.unique_items)
    assert record["coverage_target"] == pytest.approx(covered)
    assert record["age"] == LOG_EVERY - 5
    assert record["coverage_history"] == 1


def test_the_log_grows_coverage_from_nothing(prepared, config, monkeypatch):
    monkeypatch.setattr(training, "LOG_EVERY", 3)
    run = fit(prepared, config)
    assert [record["step"] for record in run.log] == [0, 3, 6]
    first, last = run.log[0], run.log[-1]
    assert (first["coverage_target"], first["cached_cosine"]) == (0, None)
    assert 0 < last["coverage_target"] <= 1 and -1 <= last["cached_cosine"] <= 1
    assert last["age"] > 0


def test_the_log_is_valid_json(prepared, config):
    """Nobody has a history on the first pages: no number is not NaN."""
    run = train_on(fresh_run(prepared, config), prepared, range(4))
    json.dumps(run.log, allow_nan=False)


def test_the_baseline_logs_losses_alone(prepared, config):
    run = fresh_run(prepared, config.replace(groups=BASELINE))
    (record,) = train_on(run, prepared, range(8)).log
    assert set(record) == {"step", "ctr", "sqdc"}


# --- learning and predicting ---------------------------------------------------------


@pytest.mark.parametrize("groups", [Config.groups, BASELINE])
@pytest.mark.parametrize("ranker", ["rankmixer", "dlrm"])
def test_training_lowers_the_loss(prepared, config, monkeypatch, groups, ranker):
    """Four pages, sixty times: any model that learns knows them by heart."""
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    config = config.replace(groups=groups, ranker=ranker, learning_rate=0.02)
    index = np.tile(np.arange(100, 104), 60)
    run = train_on(fresh_run(prepared, config, total=60), prepared, index)
    assert run.log[-1]["ctr"] < 0.3 * run.log[0]["ctr"]


def test_training_on_the_contrast_finds_the_documents_of_a_query(
    prepared, config, monkeypatch
):
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    config = config.replace(sqdc_weight=1.0, stop_gradient=True, learning_rate=0.01)
    index = np.tile(np.arange(100, 104), 60)
    run = train_on(fresh_run(prepared, config, total=60), prepared, index)
    assert run.log[-1]["sqdc"] < 0.7 * run.log[0]["sqdc"]


def test_a_step_in_bf16_is_close_to_one_in_fp32(prepared, config):
    records = []
    for precision in ("fp32", "bf16"):
        run = fresh_run(prepared, config.replace(precision=precision))
        records += train_on(run, prepared, range(100, 104)).log
        assert all(p.dtype == torch.float32 for p in run.model.parameters())
        assert run.model.bank.vectors.dtype == torch.float32
    assert records[1]["ctr"] == pytest.approx(records[0]["ctr"], rel=0.05)
    assert records[1]["sqdc"] == pytest.approx(records[0]["sqdc"], rel=0.05)


def test_a_loss_that_is_not_finite_stops_the_run(prepared, config):
    run = fresh_run(prepared, config)
    run.model.ids["user"].weight.data.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="not finite at step .*learning_rate"):
        train_on(run, prepared, range(8))


def test_predictions_belong_to_their_rows_of_the_log(prepared, config):
    run = fit(prepared, config)
    pages = prepared.pages
    index = np.arange(PAGES, PAGES + 20)[::-1]
    rows, score = predict(run.model, prepared.features, pages, index)
    assert sorted(rows) == sorted(r for r in pages.rows[index].flatten() if r >= 0)
    by_row = dict(zip(rows.tolist(), score.tolist(), strict=True))
    for page in index[::5]:
        batch = batch_of(prepared, run, [page])
        with torch.no_grad():
            logit = run.model.eval()(batch, prepared.features)[0].tolist()
        for row, z in zip(pages.rows[page].tolist(), logit, strict=True):
            if row >= 0:
                assert by_row[row] == pytest.approx(1 / (1 + math.exp(-z)), rel=1e-4)


def test_the_user_and_item_of_a_row_are_those_that_were_scored(prepared):
    log, pages = prepared.dataset.log, prepared.pages
    batch = pages.batch(np.arange(PAGES), 1)
    for page, place in batch.mask.nonzero().tolist():
        row = pages.rows[page, place]
        assert log.user[row] == batch.user[page]
        assert log.item[row] == batch.item[page, place]
        assert log.label[row] == batch.label[page, place]


# --- the two-stage opponent ----------------------------------------------------------


def test_two_stages_train_the_encoders_by_the_contrast_alone(prepared, config):
    run = fresh_run(prepared, config.replace(two_stage=2))
    start = {k: v.clone() for k, v in run.model.state_dict().items()}
    index = prepared.pages.between(None, None)[:12]
    pipeline.pretrain(prepared, run, index)
    after = run.model.state_dict()
    moved = {k.split(".")[0] for k in start if not torch.equal(start[k], after[k])}
    assert moved == {"document_encoder", "query_encoder", "running_norms", "bank"}
    assert (run.model.bank.written >= 0).all()


def test_the_second_stage_trains_all_but_the_encoders(prepared, config, monkeypatch):
    run = fresh_run(prepared, config.replace(two_stage=1))
    index = prepared.pages.between(None, None)[:12]
    pipeline.pretrain(prepared, run, index)
    start = {k: v.clone() for k, v in run.model.state_dict().items()}
    encoded = []
    run.model.document_encoder.register_forward_hook(lambda *_: encoded.append(1))
    train(run, prepared.pages, index)
    after = run.model.state_dict()
    still = {k.split(".")[0] for k in start if torch.equal(start[k], after[k])}
    assert {"document_encoder", "query_encoder", "running_norms", "bank"} <= still
    assert not torch.equal(start["ids.user.weight"], after["ids.user.weight"])
    assert not encoded


def test_encoders_have_a_rate_of_their_own_beside_the_ranker_only(prepared, config):
    config = config.replace(encoder_lr_multiplier=0.25)
    for pretraining, times in ((False, 0.25), (True, 1.0)):
        model = fresh_run(prepared, config).model
        run = Run(model, prepared.features, 0, total=9, pretraining=pretraining)
        found = {
            id(p): group["times"]
            for group in run.optimizer.param_groups
            for p in group["params"]
        }
        for name, parameter in model.named_parameters():
            expected = {"ids": config.id_lr_multiplier, "document_encoder": times}
            expected |= {"query_encoder": times}
            assert found[id(parameter)] == expected.get(name.split(".")[0], 1.0), name


def test_weights_that_are_not_finite_are_never_saved(prepared, config):
    run = fresh_run(prepared, config.replace(checkpoint_every=1))
    saved = []

    def save(run: Run) -> None:
        saved.append(run.step)
        run.model.ids["user"].weight.data[:] = math.nan

    index = prepared.pages.between(None, None)[:12]
    with pytest.raises(FloatingPointError, match="not finite at step 2"):
        train(run, prepared.pages, index, save)
    assert saved == [1]


def test_no_pages_are_scored_as_nothing(prepared, config):
    run = fresh_run(prepared, config)
    none = np.empty(0, dtype=int)
    rows, chance = predict(run.model, prepared.features, prepared.pages, none)
    assert len(rows) == len(chance) == 0
