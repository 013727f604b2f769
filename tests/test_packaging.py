"""pyproject.toml, constraints.txt, environment.yml, README and CI say the same."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PIN = re.compile(r"([A-Za-z0-9._-]+)==([0-9][0-9a-z.]*)")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pins() -> dict[str, str]:
    """Package name -> exact version, from constraints.txt."""
    matches = [PIN.fullmatch(line) for line in read("constraints.txt").splitlines()]
    return {canonicalize_name(m[1]): m[2] for m in matches if m}


def readme_block(marker: str) -> str:
    """The fenced block directly after the line `<!-- marker -->` of the README."""
    fence = re.compile(rf"^<!-- {marker} -->\n```\w*\n(.*?)\n```$", re.M | re.S)
    blocks = fence.findall(read("README.md"))
    assert len(blocks) == 1, f"README.md needs one block after <!-- {marker} -->"
    return blocks[0]


def declared() -> list[str]:
    rules = tomllib.loads(read("pyproject.toml"))
    extras = rules["project"]["optional-dependencies"].values()
    lists = (rules["project"]["dependencies"], *extras)
    lists += tuple(rules["dependency-groups"].values())
    every = [text for some in lists for text in some]
    return [text for text in every if not text.startswith("lemur-mini[")]


@pytest.mark.parametrize("text", declared())
def test_dependency_is_pinned_within_its_bounds(text):
    requirement = Requirement(text)
    name = canonicalize_name(requirement.name)
    assert name in pins(), f"constraints.txt does not pin {name}"
    assert requirement.specifier.contains(pins()[name])


def test_the_core_is_slim_and_dev_brings_what_tests_need():
    project = tomllib.loads(read("pyproject.toml"))["project"]
    names = {canonicalize_name(Requirement(t).name) for t in project["dependencies"]}
    assert not names & {"jupyterlab", "ipywidgets", "fastapi", "uvicorn", "onnxruntime"}
    extras = project["optional-dependencies"]
    (own,) = [text for text in extras["dev"] if text.startswith("lemur-mini[")]
    others = set(extras) - {"dev", "peers"}
    assert Requirement(own).extras == others


def test_constraints_hold_only_exact_versions():
    lines = read("constraints.txt").splitlines()
    assert [line for line in lines if not PIN.fullmatch(line)] == []
    assert len(pins()) == len(lines), "a package is pinned twice"


def test_constraints_fit_machines_without_cuda():
    cuda = [n for n in pins() if n.startswith(("nvidia-", "cuda-", "triton"))]
    assert cuda == []


def test_environment_installs_what_the_readme_installs():
    dependencies = yaml.safe_load(read("environment.yml"))["dependencies"]
    (pip,) = [d["pip"] for d in dependencies if isinstance(d, dict)]
    assert pip == ["-c constraints.txt", "-e .[dev]"]
    command = 'pip install -c constraints.txt -e ".[dev]"'
    assert command in readme_block("test command")


def test_package_supports_the_python_of_the_environment():
    dependencies = yaml.safe_load(read("environment.yml"))["dependencies"]
    (python,) = [d for d in dependencies if str(d).startswith("python=")]
    wanted = tomllib.loads(read("pyproject.toml"))["project"]["requires-python"]
    version = python.removeprefix("python=")
    assert Requirement(f"python{wanted}").specifier.contains(version)


@pytest.mark.parametrize("marker", ["main command", "test command"])
def test_readme_commands_use_the_constraints(marker):
    assert "-c constraints.txt" in readme_block(marker)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX bash")
def test_ci_takes_the_test_command_from_the_readme(tmp_path):
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    text = "```\nno\n```\n<!-- test command -->\n```bash\necho this one\n```\nno\n"
    (tmp_path / "README.md").write_text(text)
    shown = subprocess.run(
        ["bash", ".ci/run", "--show"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (shown.returncode, shown.stdout) == (0, "echo this one\n")
