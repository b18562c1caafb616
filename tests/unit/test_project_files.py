"""What CI, releases, hooks and issue forms call exists, and says the same as pyproject.toml."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from dynamoctl import __version__

from tests.unit.test_docs import commands_of, parse

ROOT = Path(__file__).parents[2]
PYPROJECT_TEXT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PYPROJECT: dict[str, Any] = tomllib.loads(PYPROJECT_TEXT)
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = [GITHUB / "ISSUE_TEMPLATE" / name for name in ("bug.yml", "feature.yml")]
MARKERS = {line.partition(":")[0] for line in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]}
_PINNED = re.compile(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")


def load(path: Path) -> dict[Any, Any]:
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(loaded, dict), path
    return loaded


def commands(path: Path) -> Iterator[list[str]]:
    """The command lines of a workflow's steps, each as its words."""
    for job in load(path)["jobs"].values():
        for step in job.get("steps", ()):
            for line in step.get("run", "").replace("\\\n", " ").splitlines():
                yield shlex.split(line, comments=True)


def value_of(words: list[str], flag: str) -> str | None:
    return words[words.index(flag) + 1] if flag in words else None


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_reads_only_ends_in_time_and_has_no_secret(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in path.read_text(encoding="utf-8")
    assert all("timeout-minutes" in job for job in workflow["jobs"].values() if "uses" not in job)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_an_action_is_pinned_by_its_commit_and_a_workflow_of_ours_is_there(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        if "uses:" not in line:
            continue
        _, _, local = line.partition("uses: ./")
        assert (ROOT / local).is_file() if local else _PINNED.search(line), line


def test_every_workflow_takes_the_same_actions_and_the_same_uv() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    pins = dict.fromkeys(re.findall(r"uses: (\S+)@(\S+ # \S+)", text))
    assert len({name for name, _ in pins}) == len(pins)
    assert len(set(re.findall(r"^ +version: (\S+)$", text, re.MULTILINE))) == 1


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_a_step_names_exists(path: Path) -> None:
    groups = PYPROJECT.get("dependency-groups", {})
    for words in commands(path):
        for flag in ("--group", "--only-group"):
            group = value_of(words, flag)
            assert group is None or group in groups, words
        expression = value_of(words, "-m")
        if words[:1] == ["./bootstrap"] or "pytest" in words:
            named = set(re.findall(r"\w+", expression or "")) - {"and", "or", "not"}
            assert named <= MARKERS, words
        if words[:1] == ["./bootstrap"]:
            assert words[1] == "test"
        for word in words:
            if word.startswith(("tests/", "./", "docs/")):
                assert (ROOT / word).exists(), words


def test_ci_runs_every_python_that_the_package_takes() -> None:
    matrix = load(GITHUB / "workflows" / "ci.yml")["jobs"]["unit"]["strategy"]["matrix"]["python"]
    classifiers = PYPROJECT["project"]["classifiers"]
    minor = re.compile(r"Programming Language :: Python :: (3\.\d+)")
    assert matrix == [found[1] for line in classifiers if (found := minor.fullmatch(line))]


def test_the_package_is_looked_through_for_all_that_it_must_have() -> None:
    text = (GITHUB / "workflows" / "package.yml").read_text(encoding="utf-8")
    wheel = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    wanted = {"dynamoctl/py.typed", "dynamoctl/dynamoctl.schema.json", *wheel["shared-data"].values()}
    found = re.search(r"for file in (.*?); do", text, re.DOTALL)
    assert found
    assert set(found[1].replace("\\", " ").split()) == wanted


def test_a_release_is_a_tag_that_pypi_trusts() -> None:
    workflow = load(GITHUB / "workflows" / "release.yml")
    assert workflow[True] == {"push": {"tags": ["v[0-9]+.[0-9]+.[0-9]+"]}}  # YAML 1.1 reads `on` as true
    publish = workflow["jobs"]["publish"]
    assert publish["needs"] == "package"
    assert publish["environment"] == "pypi"
    assert publish["permissions"]["id-token"] == "write"
    page = (ROOT / "docs" / "releasing.md").read_text(encoding="utf-8")
    assert "`release.yml`" in page
    assert "`pypi`" in page


def test_the_hooks_take_the_linter_that_the_checks_take() -> None:
    (ruff,) = re.findall(r'"ruff==([\d.]+)"', PYPROJECT_TEXT)
    remote, local = load(ROOT / ".pre-commit-config.yaml")["repos"]
    assert remote["rev"] == f"v{ruff}"
    assert [hook["id"] for hook in remote["hooks"]] == ["ruff-check", "ruff-format"]
    for hook in local["hooks"]:
        program, *arguments = hook["entry"].split()
        assert program in (".venv/bin/mypy", ".venv/bin/python"), hook
        assert all((ROOT / word).is_file() for word in arguments if word.endswith(".py")), hook


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_an_issue_form_asks_for_commands_that_parse(path: Path) -> None:
    form = load(path)
    assert form.keys() >= {"name", "description", "body"}
    ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert len(set(ids)) == len(ids)
    for field in form["body"]:
        assert field["type"] in ("markdown", "textarea", "input", "dropdown", "checkboxes")
        for words in commands_of(str(field["attributes"].get("description", ""))):
            try:
                parse(list(words))
            except typer.TyperException as error:
                pytest.fail(f"dynamoctl {shlex.join(words)}: {error.format_message()}")


def test_the_bug_form_asks_for_what_a_report_needs() -> None:
    text = FORMS[0].read_text(encoding="utf-8")
    for command in ("dynamoctl --version", "dynamoctl doctor --json", "dynamoctl status --json"):
        assert f"`{command}`" in text
    assert "`dynamoctl logs " in text


def test_a_fragment_of_the_changelog_is_of_a_known_kind() -> None:
    towncrier = PYPROJECT["tool"]["towncrier"]
    kinds = "|".join(kind["directory"] for kind in towncrier["type"])
    names = [path.name for path in (ROOT / towncrier["directory"]).iterdir() if path.name != ".gitkeep"]
    odd = [name for name in names if not re.fullmatch(rf"(\d+|\+[\w.-]+)\.({kinds})(\.\d+)?\.md", name)]
    assert not odd


def test_the_changelog_has_this_version_where_new_ones_are_put() -> None:
    towncrier = PYPROJECT["tool"]["towncrier"]
    text = (ROOT / towncrier["filename"]).read_text(encoding="utf-8")
    _, mark, after = text.partition(towncrier["start_string"])
    assert mark
    assert after.lstrip().startswith(f"## [{__version__}] - ")
