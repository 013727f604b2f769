"""The package as a house: doors that open at once, and a wheel with all it needs."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import lemur_mini

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "torchvision", "datasets", "IPython", "matplotlib")


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import lemur_mini", set()),
        ("import lemur_mini.data", set()),
        ("import lemur_mini.data.pages", {"torch"}),
        ("import lemur_mini.cost.accounting", {"torch", "transformers", "torchvision"}),
    ],
)
def test_an_import_loads_what_it_needs_and_no_more(statement, allowed):
    code = f"{statement}; import sys; print(*[m for m in {HEAVY} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert set(run.stdout.split()) <= allowed


def test_the_front_door_opens_on_every_name():
    for name in lemur_mini.__all__:
        assert getattr(lemur_mini, name).__name__ == name
    assert set(lemur_mini.__all__) <= set(dir(lemur_mini))


def test_a_name_that_is_not_there_is_said():
    with pytest.raises(AttributeError, match="lemur_mini has no Lemon; it has Config"):
        _ = lemur_mini.Lemon


@pytest.mark.slow
def test_a_wheel_carries_data_models_page_and_words(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps"]
    command += ["--no-build-isolation", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "share/lemur_mini/data/items.parquet",
        "share/lemur_mini/data/impressions.parquet",
        "share/lemur_mini/data/models/lemur.safetensors",
        "lemur_mini/serving/page.html",
        "lemur_mini/world/vocabulary.txt",
        "lemur_mini/py.typed",
    ):
        assert any(name.endswith(wanted) for name in names), wanted
    assert not any("tests/" in name for name in names)
