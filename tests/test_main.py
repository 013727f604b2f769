"""The main command from end to end, on the tiny platform."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lemur_mini import checkpoints, pipeline
from lemur_mini.__main__ import main
from lemur_mini.reproduce import tables
from lemur_mini.training import predict

MODELS = ("rankmixer_longer", "lemur")


@pytest.fixture(scope="module")
def out(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    assert main(["--data", str(folder), "--out", str(path), "--device", "cpu"]) == 0
    return path


@pytest.fixture(scope="module")
def report(out):
    return json.loads((out / "report.json").read_text("utf-8"))


def test_report_says_what_it_promises(report):
    for key in ("data", "scale", "seed", "device", "versions", "ceiling", "models"):
        assert key in report
    assert set(report["models"]) == set(MODELS)
    for model in report["models"].values():
        for key in ("auc", "qauc", "cold_auc"):
            assert 0 <= model[key] <= 1
        low, high = model["intervals"]["qauc"]
        assert low <= model["qauc"] <= high
        assert model["train_seconds"] > 0
        assert model["impressions_per_second"] > 0
        assert model["parameters"] > 0


def test_ceiling_is_above_what_chance_reaches(report):
    assert report["ceiling"]["qauc"] > 0.7


def test_means_stand_beside_the_models(report):
    assert 0.5 < report["means"]["auc"] < report["ceiling"]["auc"]


def test_every_file_is_whole(out):
    names = {path.name for path in out.iterdir()} - {"tensorboard"}
    tensors = {f"{name}.safetensors" for name in MODELS}
    assert names == tensors | {"report.json", "report.png", "tokenizer.json"}
    assert Image.open(out / "report.png").size[0] > 500


def test_checkpoint_serves_the_reported_scores(out, folder, report):
    model = checkpoints.load_model(out / "lemur.safetensors")
    assert model.config.dense == ("statistics", "match")  # a reader's own data
    prepared = pipeline.prepare(folder, model.config, torch.device("cpu"))
    index = prepared.pages.between(prepared.dataset.test_start, None)
    rows, score = predict(model, prepared.features, prepared.pages, index)
    label = prepared.dataset.log.label[rows]
    assert np.isclose(pipeline.auc(label, score), report["models"]["lemur"]["auc"])


def test_trees_stand_beside_the_models(report):
    assert report["numbers"] == ["statistics", "match"]
    assert 0.5 < report["trees"]["auc"] < report["ceiling"]["auc"]
    assert report["trees"]["train_seconds"] > 0


def test_resume_of_a_finished_run_changes_nothing(out, folder, report):
    arguments = ["--data", str(folder), "--out", str(out), "--device", "cpu"]
    assert main([*arguments, "--resume"]) == 0
    again = json.loads((out / "report.json").read_text("utf-8"))
    for name in MODELS:
        assert again["models"][name]["qauc"] == report["models"][name]["qauc"]


def test_resume_with_another_seed_is_refused(out, folder, capsys):
    arguments = ["--data", str(folder), "--out", str(out), "--device", "cpu"]
    assert main([*arguments, "--resume", "--seed", "7"]) == 2
    assert "written with seed 0 (now 7)" in capsys.readouterr().err


def test_ctrl_c_before_a_checkpoint_promises_no_resume(
    folder, tmp_path, monkeypatch, capsys
):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "fit", stop)
    assert main(["--data", str(folder), "--out", str(tmp_path / "x")]) == 130
    said = capsys.readouterr().out
    assert "before there was a checkpoint" in said and "--resume" not in said


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for option in ("--data", "--scale", "--seed", "--device", "--out", "--resume"):
        assert option in text


@pytest.mark.parametrize(
    ("page", "name"),
    [(page, name) for page, parts in tables.PAGES.items() for name in parts],
)
def test_generated_parts_are_up_to_date(page, name):
    old = (tables.ROOT / page).read_text("utf-8")
    assert f"<!-- {name} -->" in old
    text = tables.PAGES[page][name]()
    assert tables.replaced(old, name, text) == old, (
        "python -m lemur_mini.reproduce readme"
    )


def test_the_front_page_is_short():
    assert len((tables.ROOT / "README.md").read_text("utf-8").split()) < 1500
