"""What the forges are told: it is what their schemas allow, and all of them run the same checks."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]

SCHEMAS = {
    ".github/workflows/ci.yml": "github-workflows",
    ".forgejo/workflows/ci.yml": "github-workflows",  # Forgejo reads the same language
    ".gitlab-ci.yml": "gitlab-ci",
    ".github/ISSUE_TEMPLATE/bug.yml": "github-issue-forms",
    ".github/ISSUE_TEMPLATE/config.yml": "github-issue-config",
}
WORKFLOWS = [name for name, schema in SCHEMAS.items() if schema == "github-workflows"]
PREPARATION = "apt-get "


def read(name: str) -> Any:
    return YAML(typ="safe").load(ROOT / name)


def steps(name: str, job: str) -> list[str]:
    """Return the commands of a job."""
    if name in WORKFLOWS:
        return [step["run"] for step in read(name)["jobs"][job]["steps"] if "run" in step]
    found = read(name)[job]
    return [*found.get("before_script", []), *found["script"]]


def image(name: str, job: str) -> str:
    """Return where a job runs."""
    found = read(name)["jobs"][job]["container"] if name in WORKFLOWS else read(name)[job]["image"]
    return str(found["image"] if isinstance(found, dict) else found)


def pythons(name: str) -> list[str]:
    found = read(name)
    if name in WORKFLOWS:
        return list(found["jobs"]["check"]["strategy"]["matrix"]["python"])
    return list(found["check"]["parallel"]["matrix"][0]["PYTHON_RELEASE"])


@pytest.mark.parametrize("name", SCHEMAS)
def test_it_is_what_the_forge_understands(name: str):
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        f"vendor.{SCHEMAS[name]}",
        str(ROOT / name),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_mistake_would_be_found(tmp_path: Path):
    wrong = tmp_path / "ci.yml"
    wrong.write_text((ROOT / WORKFLOWS[0]).read_text().replace("runs-on:", "run-on:"))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(wrong)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("name", [*WORKFLOWS, ".gitlab-ci.yml"])
def test_every_forge_runs_what_the_project_says_on_debian(name: str):
    for job, wanted in {"check": ".ci/run check", "everything": ".ci/run"}.items():
        *before, last = steps(name, job)
        assert last == wanted
        assert all(step.startswith(PREPARATION) for step in before)
        assert re.fullmatch(r"debian:\d+|python:.*-(bookworm|trixie)", image(name, job))
    assert pythons(name) == supported()


def supported() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))


def test_somebody_who_reports_a_bug_is_asked_what_the_machine_can_do():
    fields = {field.get("id"): field for field in read(".github/ISSUE_TEMPLATE/bug.yml")["body"]}
    assert "pyvirtio doctor --json" in fields["doctor"]["attributes"]["label"]
    assert fields["doctor"]["validations"]["required"]
