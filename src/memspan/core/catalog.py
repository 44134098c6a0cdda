"""The catalogue: every system by its slug, with its source, interface, status and claim.

The rows stand in `catalog.toml`, read when first asked for; a system's code is imported only by `load`. Other
distributions add systems through the entry point group `memspan.systems`, each entry point being a `SystemInfo` or a
list of them.
"""

from __future__ import annotations

import difflib
import importlib
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from memspan.core.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from rich.console import RenderableType

FOLDERS = ("longterm", "context", "weights", "training", "lifelong", "probes")
STATUSES = ("planned", "working")
ENTRY_POINTS = "memspan.systems"

_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_ENTRY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class PluginWarning(UserWarning):
    """A plug-in could not be added to the catalogue; everything else works without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemInfo:
    """One row of the catalogue.

    Attributes:
        slug: the system's name: lower-case words and digits joined by single dashes.
        title: the paper's title.
        year: of the first public version.
        source: arXiv id and venue, "arXiv 2501.13956".
        folder: one of `FOLDERS`.
        interface: what it implements ("Organizer", "ContextSystem", ...).
        entry: "module:Class" of a working system, "" while it is planned.
        status: one of `STATUSES`.
        summary: what it does, in one line.
        claim: what its paper claims, in one line.
        claim_module: dotted module of a plug-in's claim; memspan's own claims are files of its repository.
        origin: the distribution that brings it.

    Raises:
        InputError: a field is malformed; the message names it.
    """

    slug: str
    title: str
    year: int
    source: str
    folder: str
    interface: str
    entry: str = ""
    status: str = "planned"
    summary: str = ""
    claim: str = ""
    claim_module: str = ""
    origin: str = "memspan"

    def __post_init__(self) -> None:
        if not isinstance(self.slug, str) or not _SLUG.fullmatch(self.slug):
            raise InputError(f"bad slug {self.slug!r}: use lower-case letters and digits joined by single dashes")
        _check_choice(f"{self.slug}: folder", self.folder, FOLDERS)
        _check_choice(f"{self.slug}: status", self.status, STATUSES)
        if self.status == "planned" and self.entry:
            raise InputError(f"{self.slug}: a planned system has no entry; set status='working' or leave entry empty")
        if self.status == "working" and not _ENTRY.fullmatch(self.entry):
            raise InputError(f"{self.slug}: entry must be 'module:Class' for a working system, got {self.entry!r}")

    @property
    def url(self) -> str:
        """Where the paper is, "" when the source names no arXiv id."""
        found = re.search(r"arXiv (\d{4}\.\d{4,5})", self.source)
        return f"https://arxiv.org/abs/{found[1]}" if found else ""

    def to_json(self) -> dict[str, Any]:
        """All fields and the url, as JSON types."""
        return {**asdict(self), "url": self.url}


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One setting of a working system.

    Attributes:
        name: field of the system's configuration.
        type: its annotation, as written.
        default: its default as Python writes it; "" when it is required.
        comment: what it means.
    """

    name: str
    type: str
    default: str
    comment: str = ""


# --- look-up ---------------------------------------------------------------------------------------------------------


def systems(folder: str | None = None, status: str | None = None) -> list[SystemInfo]:
    """The systems of the catalogue and of installed plug-ins, by folder, then slug.

    Raises:
        InputError: no such folder or status.
    """
    if folder is not None:
        _check_choice("folder", folder, FOLDERS)
    if status is not None:
        _check_choice("status", status, STATUSES)
    rows = [row for row in _catalog().values() if folder in (None, row.folder) and status in (None, row.status)]
    return sorted(rows, key=lambda row: (FOLDERS.index(row.folder), row.slug))


def system(slug: str) -> SystemInfo:
    """The system called `slug`.

    Raises:
        InputError: there is none; the message holds the nearest names.
    """
    try:
        return _catalog()[slug]
    except KeyError:
        raise InputError(f"no system is called {slug!r}{_suggestion(slug, _catalog())}") from None


def load(slug: str) -> type:
    """Import a working system's class.

    Raises:
        InputError: no such system, or it is only planned, or its entry names nothing.
        MissingExtraError: a library that it needs is not installed.
    """
    info = system(slug)
    if info.status != "working":
        working = ", ".join(row.slug for row in systems(info.folder, "working")) or "none yet"
        raise InputError(f"{slug} is planned and cannot be used yet; working in {info.folder}: {working}")
    module, _, name = info.entry.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module == missing or module.startswith(f"{missing}."):
            raise InputError(f"{slug}: no module {missing!r} for the entry {info.entry!r} of {info.origin}") from error
        install = "'memspan[local]'" if info.origin == "memspan" else missing.partition(".")[0]
        raise MissingExtraError(f"{missing}, which {slug} needs,", f"pip install {install}") from error
    except AttributeError as error:
        raise InputError(f"{slug}: the entry {info.entry!r} of {info.origin} names nothing") from error
    if not isinstance(found, type):
        raise InputError(f"{slug}: the entry {info.entry!r} of {info.origin} is not a class")
    return found


def options(slug: str) -> list[Option]:
    """The settings of a system: the fields of its class's `Config` dataclass. None while it is planned.

    A field's comment is its metadata's "doc", else the comment beside or above it in the source.

    Raises:
        InputError, MissingExtraError: as `load`.
    """
    if system(slug).status != "working":
        return []
    config = getattr(load(slug), "Config", None)
    if not (isinstance(config, type) and is_dataclass(config)):
        return []
    comments: dict[str, str] = {}
    for base in reversed(config.__mro__):
        if is_dataclass(base):
            comments |= _field_comments(base)
    rows = []
    for field in fields(config):
        kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
        if field.default is not MISSING:
            default = repr(field.default)
        elif field.default_factory is not MISSING:
            default = repr(field.default_factory())
        else:
            default = ""
        comment = str(field.metadata.get("doc", comments.get(field.name, "")))
        rows.append(Option(name=field.name, type=kind, default=default, comment=comment))
    return rows


# --- for people and for programs -------------------------------------------------------------------------------------


def render_table(rows: Sequence[SystemInfo]) -> RenderableType:
    """A table for a `rich` console: one line a system."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for name in ("system", "folder", "status"):
        table.add_column(name, no_wrap=True)
    table.add_column("what it does", no_wrap=True, overflow="ellipsis", ratio=1)
    for row in rows:
        table.add_row(row.slug, row.folder, row.status, row.summary, style=None if row.status == "working" else "dim")
    return table


def render_system(info: SystemInfo) -> RenderableType:
    """One system with its source, claim and options, for a `rich` console."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column()
    for name, value in (
        ("system", info.slug),
        ("title", info.title),
        ("source", f"{info.source} ({info.year}) {info.url}"),
        ("folder", info.folder),
        ("interface", info.interface),
        ("status", info.status),
        ("class", info.entry),
        ("does", info.summary),
        ("claims", info.claim),
        ("from", "" if info.origin == "memspan" else info.origin),
    ):
        if value:
            facts.add_row(name, Text(value))
    try:
        settings = options(info.slug)
    except MissingExtraError as error:
        return Group(facts, Text(f"\nThe options cannot be shown: {error}"))
    if not settings:
        return facts
    table = Table(box=None, pad_edge=False, header_style="bold", title="options", title_justify="left")
    table.add_column("name", no_wrap=True)
    for name in ("type", "default", "meaning"):
        table.add_column(name)
    for option in settings:
        table.add_row(
            *(Text(text) for text in (option.name, option.type, option.default or "required", option.comment))
        )
    return Group(facts, Text(), table)


def system_json(info: SystemInfo) -> dict[str, Any]:
    """What `render_system` shows, as JSON types: the row and `options`, None when they cannot be read here."""
    try:
        settings: list[dict[str, str]] | None = [asdict(option) for option in options(info.slug)]
    except MissingExtraError:
        settings = None
    return {**info.to_json(), "options": settings}


# --- inside ----------------------------------------------------------------------------------------------------------


@cache
def _catalog() -> dict[str, SystemInfo]:
    """Every row by slug, read once a process: plug-ins cannot appear while it runs."""
    import importlib.metadata  # imported here because `import memspan.core.catalog` has to stay light
    import tomllib
    from importlib.resources import files

    text = files("memspan").joinpath("catalog.toml").read_text(encoding="utf-8")
    rows = {row["slug"]: SystemInfo(**row) for row in tomllib.loads(text)["system"]}
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        origin = point.dist.name if point.dist is not None else point.value
        try:
            added = _rows_of(point.load())
            for row in added:
                if row.slug in rows:
                    raise InputError(f"the name {row.slug!r} is taken by {rows[row.slug].origin}; choose another")
        except Exception as error:
            # A plug-in is somebody else's code: whatever it raises must not take the catalogue with it.
            warnings.warn(f"plug-in {point.name!r} of {origin} was left out: {error}", PluginWarning, stacklevel=3)
            continue
        rows |= {row.slug: row if row.origin != "memspan" else _from(row, origin) for row in added}
    return rows


def _rows_of(value: object) -> list[SystemInfo]:
    """The rows an entry point resolves to, checked to be rows with different slugs."""
    rows = [value] if isinstance(value, SystemInfo) else value
    if not isinstance(rows, Iterable):
        raise InputError(f"the entry point must be a SystemInfo or a list of them, not {type(value).__name__}")
    checked: list[SystemInfo] = []
    for row in rows:
        if not isinstance(row, SystemInfo):
            raise InputError(f"the entry point must be a SystemInfo or a list of them, found a {type(row).__name__}")
        if row.slug in {other.slug for other in checked}:
            raise InputError(f"it names {row.slug!r} twice")
        checked.append(row)
    return checked


def _from(row: SystemInfo, origin: str) -> SystemInfo:
    return SystemInfo(**{**asdict(row), "origin": origin})


def _check_choice(what: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InputError(f"{what} is {value!r}; it must be one of {', '.join(choices)}")


def _suggestion(word: str, known: Iterable[str]) -> str:
    """ ", did you mean ...?" with the nearest names, or "" when nothing is near."""
    names = list(known)
    wanted = word.lower().replace("_", "-").strip("-")
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.6)
    near += [name for name in names if len(wanted) > 2 and wanted in name and name not in near][:3]
    return f"; did you mean {' or '.join(near[:3])}?" if near else ""


def _field_comments(config: type) -> dict[str, str]:
    """Field name -> its comment in the source of one dataclass: at the end of its line, else the lines above it."""
    import inspect
    import io
    import textwrap
    import tokenize

    try:
        source = textwrap.dedent(inspect.getsource(config))
    except (OSError, TypeError):  # no source: made at run time, or shipped compiled
        return {}
    comments: dict[str, str] = {}
    above: list[str] = []
    words: list[tokenize.TokenInfo] = []
    depth = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.INDENT:
            depth += 1
        elif token.type == tokenize.DEDENT:
            depth -= 1
        elif token.type == tokenize.COMMENT:
            text = token.string.lstrip("#: ").strip()
            if words:
                above = [text]
            else:
                above.append(text)
        elif token.type == tokenize.NEWLINE:
            if depth == 1 and len(words) > 2 and words[0].type == tokenize.NAME and words[1].string == ":" and above:
                comments[words[0].string] = " ".join(above)
            words, above = [], []
        elif token.type == tokenize.NL:
            if not words and not token.line.strip():  # a blank line parts a comment from what follows
                above = []
        else:
            words.append(token)
    return comments
