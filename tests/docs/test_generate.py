"""The generated parts of the documentation."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from memspan.core import catalog
from memspan.core.catalog import SystemInfo
from memspan.core.claims import run_claims

SCRIPT = Path(__file__).parents[2] / "docs" / "generate.py"
README = "# memspan\n\nBefore.\n\n<!-- systems:begin -->\nold\n<!-- systems:end -->\n\nAfter.\n"
CLAIM = """
from memspan.core.claims import Evidence, Part, at_least
TITLE = "It remembers"
SEEDS = (0,)
def claim(size, seed):
    return Evidence(slug="their-memory", size=size, parts=[
        Part(name="recall | all", metric="R@10", value=0.4, baseline_name="BM25", baseline=0.5,
             threshold=at_least(0.6)),
        Part(name="speed", metric="ms", value=9, threshold=at_least(1)),
    ])
"""


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The script as a module, over a catalogue of two systems."""
    spec = importlib.util.spec_from_file_location("docs_generate", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    @dataclass(frozen=True)
    class Config:
        k: int = 3  # a | b

    module = types.ModuleType("their_system", "What it is.\n\nWhat was changed.")
    module.Theirs = type("Theirs", (), {"Config": Config})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their_system", module)
    usual: dict[str, Any] = {"year": 2025, "source": "arXiv 2501.00001", "folder": "longterm", "interface": "Organizer"}
    rows = [
        SystemInfo(
            slug="their-memory",
            title="Theirs",
            status="working",
            entry="their_system:Theirs",
            summary="Does a | b.",
            claim="It wins.",
            **usual,
        ),
        SystemInfo(slug="to-come", title="Later", summary="Will do.", claim="It may.", **usual),
        SystemInfo(slug="plugged-in", title="Else", origin="their-plugin", **usual),
    ]
    monkeypatch.setattr(catalog, "_catalog", lambda: {row.slug: row for row in rows})
    return script


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a README, and the result of one claim."""
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "their_memory.py").write_text(CLAIM)
    return tmp_path


def test_written_once_it_is_current(generate: Any, repository: Path, capsys: Any) -> None:
    run_claims(["their-memory"], "full", repository / "claims" / "results", claims_dir=repository / "claims")
    at = ["--root", str(repository)]
    assert generate.main([*at, "--check"]) == 1
    assert (repository / "README.md").read_text() == README
    assert not (repository / "docs").exists()
    assert generate.main(at) == 0
    assert generate.main([*at, "--check"]) == 0
    capsys.readouterr()

    readme = (repository / "README.md").read_text()
    assert readme.startswith("# memspan\n\nBefore.\n") and readme.endswith("\n\nAfter.\n")
    assert "| [their-memory](docs/systems/their-memory.md) | longterm | Does a \\| b. | working |" in readme
    assert "| **partly**: 0.4 R@10 (≥ 0.6); 1 of 2 parts hold |" in readme
    assert "| to-come | longterm | Will do. | planned |  |" in readme
    assert "plugged-in" not in readme and "\nold\n" not in readme

    assert [path.name for path in (repository / "docs" / "systems").iterdir()] == ["their-memory.md"]
    text = (repository / "docs" / "systems" / "their-memory.md").read_text()
    for expected in (
        "recall \\| all",
        "0.5 (BM25)",
        "What was changed.",
        "| `k` | `int` | `3` | a \\| b |",
        "It wins.",
    ):
        assert expected in text
    assert text.index("measured here") < text.index("It wins.")


def test_without_a_result_the_page_says_not_run(generate: Any, repository: Path) -> None:
    assert generate.main(["--root", str(repository)]) == 0
    assert "not run yet" in (repository / "docs" / "systems" / "their-memory.md").read_text()


def test_a_new_result_makes_the_documents_stale(generate: Any, repository: Path, capsys: Any) -> None:
    at = ["--root", str(repository)]
    generate.main(at)
    out = repository / "claims" / "results"
    run_claims(["their-memory"], "smoke", out, claims_dir=repository / "claims")
    capsys.readouterr()
    assert generate.main([*at, "--check"]) == 1
    shown = capsys.readouterr()
    assert "stale: README.md" in shown.out and "stale: docs/systems/their-memory.md" in shown.out
    assert "python docs/generate.py" in shown.err
    generate.main(at)
    assert "smoke run" in (repository / "README.md").read_text()
    plain = json.loads((out / "their-memory.json").read_text())
    (out / "their-memory.json").write_text(json.dumps({**plain, "state": "timeout", "verdict": None, "parts": []}))
    generate.main(at)
    assert "**timeout**" in (repository / "README.md").read_text()


def test_pages_of_systems_that_no_longer_work_are_removed_but_nothing_else(generate: Any, repository: Path) -> None:
    generate.main(["--root", str(repository)])
    pages = repository / "docs" / "systems"
    (pages / "gone.md").write_text((pages / "their-memory.md").read_text())
    (pages / "by-hand.md").write_text("# Written by hand\n")
    assert generate.main(["--root", str(repository), "--check"]) == 1
    assert generate.main(["--root", str(repository)]) == 0
    assert sorted(path.name for path in pages.iterdir()) == ["by-hand.md", "their-memory.md"]


@pytest.mark.parametrize("readme", ["no markers", README + README, "<!-- systems:end --> <!-- systems:begin -->"])
def test_a_readme_without_its_markers_is_an_error(generate: Any, repository: Path, readme: str, capsys: Any) -> None:
    (repository / "README.md").write_text(readme)
    assert generate.main(["--root", str(repository)]) == 2
    assert "<!-- systems:begin -->" in capsys.readouterr().err
    assert (repository / "README.md").read_text() == readme
