"""What CONTRIBUTING names is there, and the files that tools and hosts read are valid."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = dict(re.findall(r"^([a-z-]+):.*\n((?:\t.*\n)+)", MAKEFILE, flags=re.MULTILINE))


def parsed(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_files_and_targets_that_contributing_names_are_there() -> None:
    named = re.findall(r"`([\w.-]+/[\w./-]*|[\w-]+\.(?:md|txt|toml|cff))`", CONTRIBUTING)
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert {*re.findall(r"`make ([a-z-]+)`", CONTRIBUTING)} <= {*TARGETS}


def test_make_runs_what_is_promised() -> None:
    command = re.search(r"&& (python -m pytest)$", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert command is not None
    assert TARGETS["test"].strip().replace("$(PYTHON)", "python") == command[1]
    assert command[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert TARGETS["test-fast"].strip().endswith("-m fast")
    assert all(tool in TARGETS["check"] for tool in ("ruff check", "ruff format --check", "mypy"))
    assert {"docs", "figures"} <= {*TARGETS}


def test_the_second_environment_of_ci_has_another_transformer_lens_and_nothing_else() -> None:
    first, second = (
        {line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if not line.startswith("#")}
        for name in ("constraints.txt", "constraints-tl4.txt")
    )
    assert first ^ second == {"transformer-lens==3.9.0", "transformer-lens==4.3.0"}
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    tests = script[script.index("constraints-tl4.txt") :].splitlines()[1].removeprefix("python -m pytest ").split()
    assert "tests/models/test_bridge.py" in tests
    assert all((ROOT / path).is_file() for path in tests)


def test_the_host_runs_the_script_that_decides_on_a_clean_checkout() -> None:
    workflow = parsed(".github/workflows/ci.yml")
    steps = workflow["jobs"]["test"]["steps"]
    assert steps[0]["uses"].startswith("actions/checkout@")
    assert steps[-1] == {"run": ".ci/run"}
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_hooks_before_a_commit_are_valid() -> None:
    repositories = parsed(".pre-commit-config.yaml")["repos"]
    for repository in repositories:
        fields = {"id", "name", "entry", "language"} if repository["repo"] == "local" else {"id"}
        assert repository["repo"] == "local" or repository["rev"]
        assert all(fields <= {*hook} for hook in repository["hooks"])
    hooks = {hook["id"] for repository in repositories for hook in repository["hooks"]}
    assert {"ruff-check", "ruff-format", "end-of-file-fixer"} <= hooks


def test_the_citation_is_of_this_version_and_names_the_papers() -> None:
    citation = parsed("CITATION.cff")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= {*citation}
    assert (citation["title"], str(citation["version"]), citation["license"]) == (
        project["name"], project["version"], project["license"]
    )  # fmt: skip
    papers = {each["identifiers"][0]["value"] for each in citation["references"]}
    assert papers == {"arXiv:2310.15213", "arXiv:2406.12227", "arXiv:2502.11019"}


def test_the_changelog_begins_with_what_is_unreleased() -> None:
    titles = re.findall(r"^##+ (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert titles[0] == "[Unreleased]"
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert all(title in kinds or re.fullmatch(r"\[[\w.]+\].*", title) for title in titles)
