"""The harness of claims, end to end on small claims made here."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memspan.core import catalog, claims
from memspan.core.claims import EXIT_CODE, Result, exit_code, find_claims, load_results, run_claims
from memspan.core.errors import InputError

BODY = """
from memspan.core.claims import Evidence, Part, Series, at_least
TITLE = "A title & more"
{header}
def claim(size, seed):
    {before}
    return Evidence(slug="{slug}", size=size, parts=[
        Part(name="right", metric="share", value={value}, baseline_name="rival", baseline=0.4, threshold=at_least(0.8)),
    ])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "claims").mkdir()
    return tmp_path / "claims"


def write(folder: Path, slug: str, value: str = "0.9", header: str = "", before: str = "pass") -> None:
    text = BODY.format(slug=slug, value=value, header=header, before=before)
    (folder / f"{slug.replace('-', '_')}.py").write_text(text)


def run(folder: Path, *slugs: str, **more: Any) -> dict[str, Result]:
    results = run_claims(slugs, more.pop("size", "smoke"), folder.parent / "out", claims_dir=folder, **more)
    return {result.slug: result for result in results}


def test_every_claim_ends_with_its_own_verdict_or_error(folder: Path) -> None:
    write(folder, "good", header='EXPECTED = "holds"')
    write(folder, "bad", value="0.3", header='EXPECTED = "holds"')
    write(folder, "no-gap", value="0.3, void='both are perfect'")
    write(folder, "crash", before="raise ValueError('boom')")
    write(folder, "killed", before="import os; os.kill(os.getpid(), 9)")
    write(folder, "slow", before="import time; time.sleep(60)")
    (folder / "_shared.py").write_text("raise RuntimeError('no claim')\n")

    begun = time.perf_counter()
    results = run(folder, soft_seconds=0.7)
    assert time.perf_counter() - begun < 30
    assert {slug: (one.state, one.verdict) for slug, one in results.items()} == {
        "bad": ("finished", "fails"),
        "crash": ("crashed", None),
        "good": ("finished", "holds"),
        "killed": ("crashed", None),
        "no-gap": ("finished", "void"),
        "slow": ("timeout", None),
    }
    assert results["crash"].error.endswith("ValueError: boom")
    assert "SIGKILL" in results["killed"].error
    assert results["slow"].over_time and "stopped after 2.1 s" in results["slow"].error
    assert {slug for slug, one in results.items() if one.as_said} == {"good", "no-gap"}


def test_a_result_holds_where_and_how_it_was_run(folder: Path) -> None:
    write(folder, "good", value="0.9 + seed / 100", header="SEEDS = (3, 4)")
    result = run(folder, size="full")["good"]
    plain = json.loads((folder.parent / "out" / "good.json").read_text())
    assert plain["schema"] == "memspan-claim-1"
    assert (plain["slug"], plain["title"], plain["size"]) == ("good", "A title & more", "full")
    assert (plain["state"], plain["verdict"], plain["expected"]) == ("finished", "holds", None)
    assert plain["seeds"] == [3, 4] and len(plain["seconds_by_seed"]) == 2
    assert plain["parts"][0]["values"] == pytest.approx([0.93, 0.94])
    assert plain["parts"][0]["value"] == pytest.approx(0.935)
    assert plain["parts"][0]["threshold"] == {"bound": 0.8, "direction": "at least", "of": "value"}
    assert {"cpu", "cores", "ram", "system", "python", "torch"} == plain["machine"].keys()
    assert plain["seconds"] > 0 and plain["peak_rss"] > 2**20 and plain["memspan"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", plain["date"])
    assert Result.from_json(plain) == result


@pytest.mark.parametrize(
    ("size", "given", "used"),
    [("smoke", None, [5]), ("full", None, [5, 6]), ("full", [1], [1]), ("smoke", [1, 2], [1, 2])],
)
def test_seeds_come_from_the_file_unless_given(folder: Path, size: Any, given: Any, used: list[int]) -> None:
    write(folder, "good", header="SEEDS = (5, 6)")
    assert run(folder, size=size, seeds=given)["good"].seeds == used


def test_only_what_was_asked_for_is_run_and_earlier_results_stay_on_the_page(folder: Path) -> None:
    write(folder, "good")
    write(folder, "other-one")
    assert list(run(folder, "other-one")) == ["other-one"]
    assert list(run(folder, "good")) == ["good"]
    assert [result.slug for result in load_results(folder.parent / "out")] == ["good", "other-one"]
    page = (folder.parent / "out" / "claims.html").read_text()
    assert 'id="good"' in page and 'id="other-one"' in page


def test_the_claims_may_share_a_helper_but_hide_no_library(folder: Path) -> None:
    (folder / "_shared.py").write_text("VALUE = 0.95\n")
    (folder / "json.py").write_text("raise RuntimeError('not the library')\n")
    write(folder, "good", value="VALUE", before="import json; json.dumps(1)", header="from _shared import VALUE")
    assert run(folder, "good")["good"].verdict == "holds"


@pytest.mark.parametrize(
    ("slug", "before", "says"),
    [
        ("good", "return 3", "must return Evidence, not int"),
        ("good", "size = 'full'", "the evidence is of good (full), not good (smoke)"),
        ("good", "return Evidence(slug='zep', size=size, parts=[])", "each with its own name"),
    ],
)
def test_claims_that_return_the_wrong_thing_are_told(folder: Path, slug: str, before: str, says: str) -> None:
    write(folder, slug, before=before)
    result = run(folder)[slug]
    assert result.state == "crashed" and says in result.error


def test_a_threshold_that_moves_with_the_seed_is_an_error(folder: Path) -> None:
    write(
        folder,
        "good",
        before="return Evidence(slug='good', size=size, parts=[Part(name='p', metric='m', value=1.0, "
        "threshold=at_least(seed))])",
    )
    result = run(folder, size="full")["good"]
    assert result.state == "crashed" and "threshold moved" in result.error


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def claim(size, seed): ...", "needs TITLE"),
        ("TITLE = 'x'", "no function claim"),
        ("TITLE = 'x'\nEXPECTED = 'true'\ndef claim(size, seed): ...", "EXPECTED is 'true'"),
        ("TITLE = 'x'\nSEEDS = 3\ndef claim(size, seed): ...", "SEEDS must be"),
        ("TITLE = ", "not a Python file"),
    ],
)
def test_headers_are_checked_before_anything_runs(folder: Path, text: str, says: str) -> None:
    write(folder, "another")
    (folder / "broken.py").write_text(text)
    with pytest.raises(InputError, match=says):
        run(folder)
    assert not (folder.parent / "out").exists()


def test_what_cannot_be_run_is_said_at_once(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no claims in .*--claims-dir"):
        run(folder)
    write(folder, "good")
    with pytest.raises(InputError, match=r"zep has no claim in .*; claims there: good"):
        run(folder, "zep")
    with pytest.raises(InputError, match="size is 'big'"):
        run(folder, size="big")
    with pytest.raises(InputError, match="at least one seed"):
        run(folder, seeds=[])
    with pytest.raises(InputError, match="must be positive"):
        run(folder, soft_seconds=0)


def test_a_plugin_brings_its_claim_as_a_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = folder.parent / "their_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    write(package, "theirs")
    monkeypatch.syspath_prepend(str(folder.parent))
    info = catalog.SystemInfo(
        slug="theirs",
        title="Theirs",
        year=2026,
        source="a talk",
        folder="longterm",
        interface="Organizer",
        claim_module="their_package.theirs",
    )
    monkeypatch.setattr(catalog, "systems", lambda: [info])
    assert [claim.module for claim in find_claims((), folder)] == ["their_package.theirs"]
    assert run(folder)["theirs"].verdict == "holds"
    monkeypatch.setattr(catalog, "systems", lambda: [replace(info, claim_module="their_package.gone")])
    with pytest.raises(InputError, match=r"their_package\.gone, which does not exist"):
        find_claims((), folder)


def test_ctrl_c_keeps_what_is_finished_and_stops_the_rest(folder: Path) -> None:
    pid_file = folder.parent / "pid"
    write(folder, "a-good")
    write(
        folder,
        "b-slow",
        before=f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)",
    )
    write(folder, "c-never")
    # A job that a shell put into the background inherits that SIGINT is ignored; a person's Ctrl-C never meets that.
    program = textwrap.dedent(f"""
        import signal
        from memspan.core.claims import run_claims
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            run_claims((), "smoke", {str(folder.parent / "out")!r}, claims_dir={str(folder)!r})
        except KeyboardInterrupt:
            raise SystemExit(130)
    """)
    process = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 30
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert [result.slug for result in load_results(folder.parent / "out")] == ["a-good"]
    assert 'id="a-good"' in (folder.parent / "out" / "claims.html").read_text()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_the_bar_shows_on_a_terminal_only(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    write(folder, "good")
    run(folder)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    run(folder)
    assert "good" in capfd.readouterr().err
    run(folder, progress=False)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("expected", "verdict", "kept"),
    [
        ("holds", "holds", True),
        ("holds", "partly", False),
        ("holds", "void", False),
        ("partly", "holds", True),
        ("partly", "fails", False),
        ("fails", "fails", True),
        ("void", "fails", True),
        (None, "fails", True),
        (None, None, False),
    ],
)
def test_the_exit_code_tells_whether_promises_were_kept(folder: Path, expected: Any, verdict: Any, kept: bool) -> None:
    write(folder, "good")
    state: Any = "finished" if verdict else "crashed"
    result = replace(run(folder)["good"], expected=expected, verdict=verdict, state=state)
    assert exit_code([result]) == (0 if kept else EXIT_CODE)
    assert exit_code([]) == 0


def test_other_files_among_the_results_are_passed_over(tmp_path: Path) -> None:
    for name, text in {
        "a.json": "{",
        "b.json": "[]",
        "c.json": '{"schema": "memspan-claim-1"}',
        "d.json": "{}",
    }.items():
        (tmp_path / name).write_text(text)
    assert load_results(tmp_path) == []
    with pytest.raises(InputError, match="schema"):
        Result.from_json({})


def test_the_commit_is_that_of_the_claims(tmp_path: Path) -> None:
    assert claims._commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "file").write_text("1")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-q", "--no-gpg-sign", "--no-verify", "-m", "x"], check=True)
    clean = claims._commit(tmp_path)
    assert clean is not None and re.fullmatch(r"[0-9a-f]{12}", clean)
    (tmp_path / "file").write_text("2")
    assert claims._commit(tmp_path) == f"{clean}-dirty"
