"""The console command: it hands over, and says in one line what it cannot do."""

import csv
import subprocess
import sys

import pytest

from lemur_mini import __version__, console


def test_it_says_its_version_and_its_commands(capsys):
    assert console.main(["--version"]) == 0
    assert capsys.readouterr().out == f"lemur-mini {__version__}\n"
    assert console.main(["--help"]) == 0 and console.main([]) == 2
    out = capsys.readouterr().out
    assert all(name in out for name in (*console.MODULES, "convert", "health"))
    assert console.main(["fly"]) == 2
    assert capsys.readouterr().err.startswith("lemur_mini: no command 'fly'")


def test_it_opens_at_once():
    code = "import sys, lemur_mini.console; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "False\n"


@pytest.mark.parametrize("name", console.MODULES)
def test_it_hands_over(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lemur-mini"])
    try:
        assert console.main([name, "--help"]) == 0
    except SystemExit as stopped:
        assert not stopped.code
    assert "usage" in capsys.readouterr().out.lower() or name == "reproduce"


def test_health_looks_at_a_folder(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lemur-mini"])
    assert console.main(["health", str(folder)]) == 0
    assert "impressions" in capsys.readouterr().out
    assert console.main(["health", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_convert_makes_a_data_set_of_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lemur-mini"])
    with (tmp_path / "log.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["who", "what", "when", "name"])
        for k in range(40):
            lines.writerow([k % 5, k % 7, 1_700_000_000 + 60 * k, f"t{k % 7}"])
    pair = ["convert", "table", str(tmp_path / "log.csv"), str(tmp_path / "out")]
    columns = ["user_id=who", "item_id=what", "timestamp=when", "title=name"]
    assert console.main([*pair, "--negatives", "1", "--columns", *columns]) == 0
    assert (tmp_path / "out" / "impressions.parquet").is_file()
    capsys.readouterr()
    for bad in ([], ["--columns", "user_id"], ["--columns", "user_id=who"]):
        assert console.main([*pair, *bad]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_convert_hands_options_to_importers_that_know_them(tmp_path, capsys):
    there = ["convert", "qilin", str(tmp_path), str(tmp_path / "out")]
    assert console.main([*there, "--options", "colour=red"]) == 2
    said = "--options colour: qilin takes part, label, dwell_unit by name"
    assert said in capsys.readouterr().err
    assert (
        console.main([*there, "--options", "label=click", "part=recommendation"]) == 2
    )
    assert "no recommendation_train in it" in capsys.readouterr().err
    assert console.main([*there, "--options", "label"]) == 2
    assert "--options takes NAME=VALUE" in capsys.readouterr().err
