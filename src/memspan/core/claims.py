"""Claims: one experiment for each system that shows, on this machine, whether its paper's claim holds.

A claim is a Python file `claims/<slug_with_underscores>.py`:

    TITLE = "Facts that change are known as they were at any date"
    EXPECTED = "holds"                      # what the last full run said; left out while nothing is promised
    SEEDS = (0, 1, 2)                       # of the full size; this is the default

    def claim(size, seed):                  # size is "smoke" (up to a minute) or "full" (up to ten)
        ...
        return Evidence(slug="zep", size=size, parts=[
            Part(name="true at a date", metric="exact answers", value=0.99, baseline_name="latest write wins",
                 baseline=0.23, threshold=at_least(0.98)),
        ])

Verdicts are computed here and never written by hand, except "void" and "untestable", which need a reason.
"""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from memspan.core.errors import InputError
from memspan.core.evidence import (
    SIZES,
    VERDICTS,
    Evidence,
    JudgedPart,
    Part,
    Series,
    Size,
    Threshold,
    Verdict,
    at_least,
    at_most,
    combine,
    overall,
    part_from_json,
)

__all__ = [
    "EXIT_CODE",
    "Evidence",
    "JudgedPart",
    "Part",
    "Result",
    "Series",
    "Size",
    "Threshold",
    "Verdict",
    "at_least",
    "at_most",
    "exit_code",
    "find_claims",
    "load_results",
    "run_claims",
]

State = Literal["finished", "crashed", "timeout"]

EXIT_CODE = 8
"""What the command line exits with when a claim that was said to hold does not, or one did not finish."""

SOFT_SECONDS: Mapping[Size, float] = {"smoke": 60.0, "full": 600.0}
HARD_FACTOR = 3.0
DEFAULT_SEEDS: Mapping[Size, tuple[int, ...]] = {"smoke": (0,), "full": (0, 1, 2)}
SCHEMA = "memspan-claim-1"


# --- results ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One claim as it was run: what `<out>/<slug>.json` holds.

    Attributes:
        state: "finished", or why there is no verdict.
        verdict: None unless finished.
        expected: the verdict that the claim's file promises, None when it promises nothing.
        seconds: wall time of all seeds; seconds_by_seed: of each that finished.
        soft_seconds: the time a claim of this size should take; over it, it is reported.
        peak_rss: the largest resident memory of one of the claim's processes in bytes, None when it did not finish.
        machine: cpu, cores, ram (bytes), system, python, torch (None when it is not installed).
        commit: of the repository that holds the claims, "-dirty" when it has changes; None outside one.
        date: when it ended, ISO 8601, UTC.
        error: the last lines that the claim printed, when it did not finish.
    """

    slug: str
    title: str
    size: Size
    state: State
    verdict: Verdict | None
    expected: Verdict | None
    parts: list[JudgedPart]
    seeds: list[int]
    seconds: float
    seconds_by_seed: list[float]
    soft_seconds: float
    peak_rss: int | None
    machine: dict[str, Any]
    memspan: str
    commit: str | None
    date: str
    error: str = ""

    @property
    def as_said(self) -> bool:
        """It finished, and is no worse than the claim's file promises."""
        if self.state != "finished" or self.verdict is None:
            return False
        if self.expected in ("holds", "partly"):
            return self.verdict in VERDICTS[: VERDICTS.index(self.expected) + 1]
        return True

    @property
    def over_time(self) -> bool:
        """It took longer than a claim of its size should."""
        return self.seconds > self.soft_seconds

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON types, with `schema` to tell a result from other files."""
        plain = asdict(self)
        plain["parts"] = [
            {**asdict(judged.part), "verdict": judged.verdict, "reason": judged.reason, "values": judged.values}
            for judged in self.parts
        ]
        return {"schema": SCHEMA, **plain, "as_said": self.as_said, "over_time": self.over_time}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Result:
        """The inverse of `to_json`.

        Raises:
            InputError: it is no result of a claim.
        """
        if plain.get("schema") != SCHEMA:
            raise InputError(f"not the result of a claim: `schema` must be {SCHEMA}")
        known = {key: plain[key] for key in cls.__dataclass_fields__}
        known["parts"] = []
        for row in plain["parts"]:
            judged = {key: row[key] for key in ("verdict", "reason", "values")}
            rest = {key: value for key, value in row.items() if key not in judged}
            known["parts"].append(JudgedPart(part=part_from_json(rest), **judged))
        return cls(**known)


def exit_code(results: Sequence[Result]) -> int:
    """0, or `EXIT_CODE` when a claim did not finish or is worse than its file promises."""
    return 0 if all(result.as_said for result in results) else EXIT_CODE


# --- finding claims --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimFile:
    """A claim and what its header says, read without running it.

    Attributes:
        path: the file.
        module: its dotted name when a plug-in brings it, "" for a file of the claims folder.
    """

    slug: str
    path: Path
    module: str = ""
    title: str
    expected: Verdict | None
    seeds: tuple[int, ...]


def find_claims(slugs: Sequence[str] = (), claims_dir: Path | str = "claims") -> list[ClaimFile]:
    """The claims of these systems, or every one in the folder and in installed plug-ins, by slug.

    Raises:
        InputError: a system has no claim, the folder holds none, or a header is malformed.
    """
    from memspan.core.catalog import systems

    folder = Path(claims_dir)
    found = {path.stem.replace("_", "-"): (path, "") for path in sorted(folder.glob("[!_]*.py"))}
    for row in systems():
        if row.claim_module and row.slug not in found:
            found[row.slug] = (_module_path(row.claim_module, row.slug), row.claim_module)
    if not found:
        raise InputError(f"no claims in {folder}; run in memspan's repository, or name the folder with --claims-dir")
    for slug in slugs:
        if slug not in found:
            raise InputError(f"{slug} has no claim in {folder}; claims there: {', '.join(sorted(found))}")
    wanted = dict.fromkeys(slugs) if slugs else sorted(found)
    return [_read_header(slug, *found[slug]) for slug in wanted]


def _module_path(module: str, slug: str) -> Path:
    from importlib.util import find_spec

    try:
        spec = find_spec(module)
    except ImportError:
        spec = None
    if spec is None or spec.origin is None:
        raise InputError(f"the claim of {slug} should be the module {module}, which does not exist")
    return Path(spec.origin)


def _read_header(slug: str, path: Path, module: str) -> ClaimFile:
    """TITLE, EXPECTED and SEEDS, which are literals, and the presence of `claim`."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a Python file: {error}") from error
    header: dict[str, Any] = {}
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(target, ast.Name) and node.value is not None:
            with suppress(ValueError):  # other constants of the file need not be literals
                header[target.id] = ast.literal_eval(node.value)
    title, expected, seeds = header.get("TITLE"), header.get("EXPECTED"), header.get("SEEDS", DEFAULT_SEEDS["full"])
    if not isinstance(title, str) or not title:
        raise InputError(f'{path} needs TITLE = "..." at its top')
    if expected is not None and expected not in VERDICTS:
        raise InputError(f"{path}: EXPECTED is {expected!r}; it must be one of {', '.join(VERDICTS)}")
    if not isinstance(seeds, tuple) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise InputError(f"{path}: SEEDS must be a tuple of whole numbers such as (0, 1, 2)")
    if not any(isinstance(node, ast.FunctionDef) and node.name == "claim" for node in tree.body):
        raise InputError(f"{path} has no function claim(size, seed)")
    return ClaimFile(slug=slug, path=path.resolve(), module=module, title=title, expected=expected, seeds=seeds)


# --- running them ----------------------------------------------------------------------------------------------------


def run_claims(
    slugs: Sequence[str] = (),
    size: Size = "smoke",
    out: Path | str = "claims-out",
    *,
    claims_dir: Path | str = "claims",
    seeds: Sequence[int] | None = None,
    soft_seconds: float | None = None,
    progress: bool = True,
) -> list[Result]:
    """Run claims one after another, each in a process of its own, and write what came out.

    Writes `<out>/<slug>.json` as soon as a claim has ended, and `<out>/claims.html` over every result in the folder.
    A claim that crashes or takes over three times its time ends alone. On Ctrl-C the running one is stopped, what is
    finished is kept, and KeyboardInterrupt goes on to the caller.

    Args:
        slugs: which; none means all.
        size: "smoke" or "full".
        out: folder for results; made when it does not exist.
        claims_dir: where the claims' files are.
        seeds: instead of the first one (smoke) or those that the file names (full).
        soft_seconds: instead of 60 (smoke) or 600 (full); three times that is the hard limit.
        progress: show a bar when stderr is a terminal.

    Raises:
        InputError: an unknown claim, size or seed, or a malformed header; before anything runs.
    """
    if size not in SIZES:
        raise InputError(f"size is {size!r}; it must be one of {', '.join(SIZES)}")
    if seeds is not None and not seeds:
        raise InputError("give at least one seed")
    soft = SOFT_SECONDS[size] if soft_seconds is None else float(soft_seconds)
    if not soft > 0:
        raise InputError(f"the time limit must be positive, got {soft:g} s")
    claims = find_claims(slugs, claims_dir)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    machine, commit = _machine(), _commit(Path(claims_dir))
    results: list[Result] = []
    try:
        with _progress(len(claims), progress) as step:
            for claim in claims:
                step(claim.slug, 0)
                chosen = seeds if seeds is not None else (claim.seeds if size == "full" else claim.seeds[:1])
                result = _run_one(claim, size, list(chosen), soft, machine, commit)
                results.append(result)
                _write(folder / f"{claim.slug}.json", json.dumps(result.to_json(), indent=1, ensure_ascii=False) + "\n")
                step(claim.slug, 1)
    finally:
        from memspan.core.report import page

        _write(folder / "claims.html", page(load_results(folder)))
    return results


def load_results(folder: Path | str) -> list[Result]:
    """Every claim's result in a folder, by slug; other JSON files are passed over."""
    results = []
    for path in sorted(Path(folder).glob("*.json")):
        with suppress(InputError, ValueError, KeyError, TypeError, AttributeError):
            results.append(Result.from_json(json.loads(path.read_text(encoding="utf-8"))))
    return results


# The child gets this process's import path, so that it runs the same memspan from the same places.
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from memspan.core.claims import _child; _child(json.loads(sys.argv[2]))"
)


def _run_one(
    claim: ClaimFile, size: Size, seeds: list[int], soft: float, machine: dict[str, Any], commit: str | None
) -> Result:
    """Run one claim in a child and judge what it wrote."""
    import memspan

    state: State = "finished"
    parts: list[JudgedPart] = []
    answer: dict[str, Any] = {}
    error = ""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="memspan-claim-") as scratch:
        answer_path, log_path = Path(scratch) / "answer.json", Path(scratch) / "log"
        job = {"slug": claim.slug, "path": str(claim.path), "module": claim.module, "size": size, "seeds": seeds}
        command = [sys.executable, "-c", _CHILD, json.dumps(sys.path), json.dumps({**job, "answer": str(answer_path)})]
        with log_path.open("wb") as log:
            # A session of its own: a claim's own children can be ended with it, and Ctrl-C comes to us first.
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                code = child.wait(timeout=HARD_FACTOR * soft)
            except subprocess.TimeoutExpired:
                state = "timeout"
            finally:
                if child.poll() is None:
                    with suppress(ProcessLookupError):
                        os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
        seconds = time.perf_counter() - begun
        said = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-15:]
        if state == "timeout":
            error = "\n".join([f"stopped after {HARD_FACTOR * soft:g} s", *said])
        elif code != 0 or not answer_path.exists():
            state = "crashed"
            cause = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            error = "\n".join([cause, *said])
        else:
            answer = json.loads(answer_path.read_text(encoding="utf-8"))
            try:
                parts = combine([_evidence_from_json(run) for run in answer["evidence"]])
            except InputError as problem:
                state, error = "crashed", str(problem)
    return Result(
        slug=claim.slug,
        title=claim.title,
        size=size,
        state=state,
        verdict=overall([judged.verdict for judged in parts]) if state == "finished" else None,
        expected=claim.expected,
        parts=parts,
        seeds=seeds,
        seconds=round(seconds, 3),
        seconds_by_seed=answer.get("seconds", []),
        soft_seconds=soft,
        peak_rss=answer.get("peak_rss"),
        machine=machine,
        memspan=memspan.__version__,
        commit=commit,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        error=error,
    )


def _child(job: dict[str, Any]) -> None:
    """In the child: run the claim for every seed and write what it found. Whatever it raises ends the child."""
    import importlib
    import importlib.util
    import resource

    path = Path(job["path"])
    if job["module"]:
        module = importlib.import_module(job["module"])
    else:
        sys.path.append(str(path.parent))  # claims may share helpers; last, so that a claim's name hides no library
        spec = importlib.util.spec_from_file_location(f"claim_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise InputError(f"{path} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    evidence, seconds = [], []
    for seed in job["seeds"]:
        begun = time.perf_counter()
        found = module.claim(job["size"], seed)
        seconds.append(round(time.perf_counter() - begun, 3))
        if not isinstance(found, Evidence):
            raise InputError(f"{path}: claim() must return Evidence, not {type(found).__name__}")
        if (found.slug, found.size) != (job["slug"], job["size"]):
            raise InputError(
                f"{path}: the evidence is of {found.slug} ({found.size}), not {job['slug']} ({job['size']})"
            )
        evidence.append(asdict(found))
    unit = 1 if sys.platform == "darwin" else 1024
    answer = {
        "evidence": evidence,
        "seconds": seconds,
        "peak_rss": max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        * unit,
    }
    Path(job["answer"]).write_text(json.dumps(answer), encoding="utf-8")


def _evidence_from_json(plain: Mapping[str, Any]) -> Evidence:
    parts = [part_from_json(part) for part in plain["parts"]]
    return Evidence(slug=plain["slug"], size=plain["size"], parts=parts)


def _write(path: Path, text: str) -> None:
    """Replace a file in one step, so that a reader never sees half of it."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


@contextmanager
def _progress(total: int, wanted: bool) -> Iterator[Callable[[str, int], None]]:
    """Yield `step(slug, n)`; a bar on stderr when that is a terminal."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda slug, n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("claims", total=total)
        yield lambda slug, n: bar.update(task, description=slug, advance=n)


# --- where it ran ----------------------------------------------------------------------------------------------------


def _machine() -> dict[str, Any]:
    """CPU, cores this process may use, RAM in bytes, system, Python and torch (not imported)."""
    import importlib.metadata
    import platform

    cpu = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    try:
        torch: str | None = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        torch = None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "cpu": cpu,
        "cores": cores,
        "ram": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch,
    }


def _commit(folder: Path) -> str | None:
    """The commit of the repository that `folder` is in, None outside one or without git."""
    command = ["git", "--no-optional-locks", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
