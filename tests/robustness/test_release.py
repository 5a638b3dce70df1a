"""What a release rests on agrees with itself: workflows, versions, the oldest Rust, links."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest
import treepack
import yaml

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = {path.stem: path for path in sorted((GITHUB / "workflows").iterdir())}
OUTSIDE = re.compile(r"^\s*(?:- )?uses: (?!\./)(\S+)(.*)$", re.MULTILINE)
CARGO = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def script(name):
    return runpy.run_path(str(GITHUB / "scripts" / f"{name}.py"))


def workflow(name):
    return yaml.safe_load(WORKFLOWS[name].read_text())


@pytest.mark.parametrize(
    "path", [*GITHUB.rglob("*.yml"), ROOT / "CITATION.cff"], ids=lambda p: p.name
)
def test_every_file_parses(path):
    assert isinstance(yaml.safe_load(path.read_text()), dict)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_pinned_by_commit(name):
    text = WORKFLOWS[name].read_text()
    found = OUTSIDE.findall(text)
    assert len(found) == text.count("uses: ") - text.count("uses: ./")
    for action, comment in found:
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), (action, comment)


def test_an_action_has_one_commit_everywhere():
    found = {pin for path in WORKFLOWS.values() for pin in OUTSIDE.findall(path.read_text())}
    names = [action.partition("@")[0] for action, _ in found]
    assert len(set(names)) == len(names), sorted(found)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_job_has_the_rights_it_names_and_no_others(name):
    told = workflow(name)
    assert told["permissions"] == {}
    for key, job in told["jobs"].items():
        rights = {"contents": "read"}
        if (name, key) == ("release", "publish"):
            rights |= {"id-token": "write", "attestations": "write"}
            assert job["environment"] == "pypi"
        if (name, key) == ("site", "publish"):
            rights = {"pages": "write", "id-token": "write"}
            assert job["if"] == "github.ref == 'refs/heads/main'"
        assert job["permissions"] == rights, key


def test_only_a_tag_publishes_a_release_and_only_main_a_site():
    # YAML reads the key `on` as true.
    assert workflow("release")[True] == {"push": {"tags": ["v*"]}}
    for name, path in WORKFLOWS.items():
        assert ("pypi-publish" in path.read_text()) == (name == "release")
        assert ("deploy-pages" in path.read_text()) == (name == "site")


@pytest.mark.parametrize("name", WORKFLOWS)
def test_what_a_workflow_runs_is_there(name):
    text = WORKFLOWS[name].read_text()
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"run: make ([\w-]+)", text)) <= set(targets)
    for path in re.findall(r"\.github/[\w./-]+\.(?:py|txt|yml)", text):
        assert (ROOT / path).is_file(), path


def test_tools_are_pinned_by_hash():
    for source in (GITHUB / "requirements").glob("*.in"):
        pinned = source.with_suffix(".txt").read_text()
        names = re.findall(r"^([\w.-]+)", source.read_text(), re.MULTILINE)
        lines = re.findall(r"^([\w.-]+)==\S+[^\n]*\\\n    --hash=sha256:[0-9a-f]{64}", pinned, re.M)
        assert set(names) <= set(lines)
        assert len(lines) == len(re.findall(r"^\w", pinned, re.MULTILINE))


def test_the_version_is_the_same_everywhere():
    version = CARGO["package"]["version"]
    assert treepack.__version__ == version
    assert str(yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]) == version
    assert (ROOT / "CHANGELOG.md").read_text().startswith(f"# Changelog\n\n## {version}")


def test_the_oldest_rust_is_the_same_everywhere():
    oldest = CARGO["package"]["rust-version"]
    for page in ("README.md", "CONTRIBUTING.md"):
        assert set(re.findall(r"Rust (1\.\d+)", (ROOT / page).read_text())) == {oldest}, page
    for member in CARGO["members"]:
        crate = tomllib.loads((ROOT / member / "Cargo.toml").read_text())["package"]
        assert crate["rust-version"] == {"workspace": True}


def test_the_oldest_python_is_the_same_everywhere():
    oldest = PROJECT["requires-python"].removeprefix(">=")
    named = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if ":: Python :: 3." in c}
    assert min(named, key=lambda v: int(v.partition(".")[2])) == oldest
    tested = {
        row["python"] for row in workflow("ci")["jobs"]["test"]["strategy"]["matrix"]["include"]
    }
    newest = max(named, key=lambda v: int(v.partition(".")[2]))
    assert tested == {oldest, newest}
    binding = (ROOT / "rust/treepack-py/Cargo.toml").read_text()
    assert f'abi3-py{oldest.replace(".", "")}"' in binding


def test_a_tag_that_agrees_is_released():
    version = CARGO["package"]["version"]
    cargo = (ROOT / "Cargo.toml").read_text()
    citation = (ROOT / "CITATION.cff").read_text()
    problems = script("tag")["disagreements"]
    released = f"# Changelog\n\n## {version} (2027-01-31)\n"
    assert problems(f"v{version}", cargo, citation, released) == []
    assert len(problems("v9.9.9", cargo, citation, released)) == 1
    assert len(problems(f"v{version}", cargo, citation.replace(version, "9.9.9"), released)) == 1
    assert len(problems(f"v{version}", cargo, citation, f"## {version} (unreleased)\n")) == 1
    assert len(problems(f"v{version}", cargo, citation, "## 9.9.9 (2027-01-31)\n")) == 1


def test_links_that_are_published_lead_to_files():
    blob = "https://host.example/owner/name/blob/0123"
    readme = (ROOT / "README.md").read_text()
    published = script("published")["absolute_links"](readme, blob)
    targets = re.findall(r"\]\(([^)\s]+)\)", published)
    assert len(targets) == len(re.findall(r"\]\(([^)\s]+)\)", readme)) > 5
    for target in targets:
        assert target.startswith("https://")
        if target.startswith(blob):
            assert (ROOT / target.removeprefix(f"{blob}/").partition("#")[0]).exists(), target
    assert script("published")["absolute_links"](published, blob) == published


def test_the_published_project_has_urls():
    text = (ROOT / "pyproject.toml").read_text()
    told = tomllib.loads(script("published")["with_urls"](text, "https://host.example/o/n"))
    urls = told["project"].pop("urls")
    assert urls["Repository"] == "https://host.example/o/n"
    assert all(url.startswith("https://host.example/o/n") for url in urls.values())
    assert told["project"] == PROJECT


def test_the_lowest_versions_are_the_bounds():
    lowest = script("lowest")["lowest"]
    made = {"dependencies": ["numpy>=1.26"], "optional-dependencies": {"a": ["torch>=2.11,<3"]}}
    assert lowest(["torch", "numpy"], made) == ["torch==2.11.*", "numpy==1.26.*"]
    with pytest.raises(SystemExit, match="pillow"):
        lowest(["pillow"], made)
    assert len(lowest(["numpy", "torch", "transformers"], PROJECT)) == 3
