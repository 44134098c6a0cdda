"""The catalogue: its rows, look-up, plug-ins, options and how it is shown."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import json
import subprocess
import sys
import types
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from memspan.core import catalog
from memspan.core.catalog import FOLDERS, PluginWarning, SystemInfo
from memspan.core.errors import InputError, MissingExtraError


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Install fake plug-ins: `plug(name=object or exception)`; the catalogue is read anew before and after."""

    class Point:
        dist = types.SimpleNamespace(name="their-plugin")

        def __init__(self, name: str, found: object) -> None:
            self.name, self.value, self.found = name, f"theirs:{name}", found

        def load(self) -> object:
            if isinstance(self.found, Exception):
                raise self.found
            return self.found

    def install(**points: object) -> None:
        found = [Point(name, value) for name, value in points.items()]

        def entry_points(*, group: str) -> list[Point]:
            return found if group == "memspan.systems" else []

        monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
        catalog._catalog.cache_clear()

    install()
    yield install
    catalog._catalog.cache_clear()


def row(slug: str = "their-memory", **more: Any) -> SystemInfo:
    usual = {"title": "Theirs", "year": 2026, "source": "a talk", "folder": "longterm", "interface": "Organizer"}
    return SystemInfo(**{"slug": slug, **usual, **more})


@pytest.fixture
def working(plug: Any, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A plug-in whose system works, in a module made here."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class BaseConfig:
        # how many results to
        # return
        k: int = 10
        seed: int = 0  # of every random choice

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config(BaseConfig):
        """Settings."""

        decay: float  # retention lost a day (S in the paper)
        names: list[str] = dataclasses.field(default_factory=list, metadata={"doc": "who it knows"})

        bare: bool = True

    class Theirs:
        pass

    module = types.ModuleType("their_module")
    Theirs.Config = Config  # type: ignore[attr-defined]
    module.Theirs = Theirs  # type: ignore[attr-defined]
    module.number = 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their_module", module)
    plug(
        theirs=[
            row(status="working", entry="their_module:Theirs"),
            row("absent", status="working", entry="their_module:Absent"),
            row("number", status="working", entry="their_module:number"),
            row("gone", status="working", entry="no_such_module_of_theirs:Theirs"),
        ]
    )
    return module


def test_the_catalogue_holds_68_systems_in_order(plug: Any) -> None:
    rows = catalog.systems()
    assert len(rows) == 68
    assert len({info.slug for info in rows}) == 68
    assert Counter(info.folder for info in rows) == {
        "longterm": 12,
        "context": 21,
        "weights": 8,
        "training": 11,
        "lifelong": 12,
        "probes": 4,
    }
    assert [(info.folder, info.slug) for info in rows] == sorted(
        ((info.folder, info.slug) for info in rows), key=lambda key: (FOLDERS.index(key[0]), key[1])
    )


def test_every_row_is_complete_and_its_year_is_that_of_its_first_version(plug: Any) -> None:
    for info in catalog.systems():
        assert info.title and info.interface and info.summary.endswith(".") and info.claim.endswith("."), info.slug
        assert "\n" not in info.summary + info.claim
        assert info.url.startswith("https://arxiv.org/abs/"), info.slug
        assert info.year == 2000 + int(info.url.removeprefix("https://arxiv.org/abs/")[:2]), info.slug


def test_planned_rows_name_no_class_and_working_ones_import(plug: Any) -> None:
    for info in catalog.systems():
        if info.status == "planned":
            assert info.entry == "", info.slug
            with pytest.raises(InputError, match=f"{info.slug} is planned"):
                catalog.load(info.slug)
        else:
            module = info.entry.partition(":")[0]
            assert module.startswith(f"memspan.{info.folder}.{info.slug.replace('-', '_')}")
            assert isinstance(catalog.load(info.slug), type)


def test_systems_can_be_narrowed_down(plug: Any) -> None:
    probes = catalog.systems(folder="probes")
    assert [info.slug for info in probes] == ["few-shot-memories", "longins", "needle-threading", "sort-recall"]
    both = catalog.systems(status="planned") + catalog.systems(status="working")
    assert len(both) == 68


@pytest.mark.parametrize("filters", [{"folder": "long-term"}, {"status": "done"}])
def test_unknown_filters_name_the_known_ones(filters: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"it must be one of (longterm, context|planned, working)"):
        catalog.systems(**filters)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("zpe", "zep"), ("ZEP", "zep"), ("think_in_memory", "think-in-memory"), ("flash", "in-a-flash")],
)
def test_an_unknown_name_is_answered_with_near_ones(plug: Any, wrong: str, meant: str) -> None:
    with pytest.raises(InputError, match=rf"no system is called '{wrong}'; did you mean .*{meant}"):
        catalog.system(wrong)


def test_a_name_like_no_other_gets_no_suggestion(plug: Any) -> None:
    with pytest.raises(InputError, match=r"^no system is called 'qqqqqqqq'$"):
        catalog.system("qqqqqqqq")


@pytest.mark.parametrize("slug", ["Zep", "zep-", "zep_", "-zep", "ze--p", "a b", "", "my_memory"])
def test_bad_slugs_are_refused(slug: str) -> None:
    with pytest.raises(InputError, match="bad slug"):
        row(slug)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"folder": "shed"}, "folder is 'shed'"),
        ({"status": "ready"}, "status is 'ready'"),
        ({"status": "working"}, "entry must be"),
        ({"status": "working", "entry": "a.b"}, "entry must be"),
        ({"entry": "a:B"}, "planned system has no entry"),
    ],
)
def test_rows_that_contradict_themselves_are_refused(fields: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        row(**fields)


# --- plug-ins --------------------------------------------------------------------------------------------------------


def test_plugins_join_with_one_row_or_a_list(plug: Any) -> None:
    plug(one=row("theirs-one"), more=[row("theirs-two"), row("theirs-three", folder="probes")])
    assert len(catalog.systems()) == 71
    assert catalog.system("theirs-one").origin == "their-plugin"
    assert "theirs-three" in [info.slug for info in catalog.systems(folder="probes")]


@pytest.mark.parametrize(
    "broken",
    [
        ImportError("no theirs"),
        RuntimeError("boom"),
        3,
        [row(), "zep"],
        [row(), row()],
        row("zep"),
    ],
    ids=["import", "raises", "number", "mixed", "twice", "name taken"],
)
def test_a_broken_plugin_is_left_out_with_a_warning_that_names_it(plug: Any, broken: object) -> None:
    plug(bad=broken, good=row("theirs-good"))
    with pytest.warns(PluginWarning, match="plug-in 'bad' of their-plugin was left out"):
        rows = catalog.systems()
    assert len(rows) == 69
    assert catalog.system("zep").origin == "memspan"
    assert catalog.system("theirs-good").title == "Theirs"


def test_a_name_taken_by_another_plugin_says_by_whom(plug: Any) -> None:
    plug(first=row(), second=row())
    with pytest.warns(PluginWarning, match="'their-memory' is taken by their-plugin"):
        assert len(catalog.systems()) == 69


# --- classes and options ---------------------------------------------------------------------------------------------


def test_load_imports_the_class(working: types.ModuleType) -> None:
    assert catalog.load("their-memory") is working.Theirs


def test_load_explains_entries_that_lead_nowhere(working: types.ModuleType) -> None:
    with pytest.raises(InputError, match="names nothing"):
        catalog.load("absent")
    with pytest.raises(InputError, match="not a class"):
        catalog.load("number")
    with pytest.raises(InputError, match="no module 'no_such_module_of_theirs'"):
        catalog.load("gone")


def test_load_says_how_to_install_what_is_missing(plug: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_more.py").write_text("import a_library_nobody_has.part\nclass Theirs: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plug(theirs=row(status="working", entry="needs_more:Theirs"))
    with pytest.raises(MissingExtraError, match="pip install a_library_nobody_has"):
        catalog.load("their-memory")
    shown = catalog.system_json(catalog.system("their-memory"))
    assert shown["options"] is None


def test_options_are_the_fields_with_their_comments(working: types.ModuleType) -> None:
    assert [dataclasses.astuple(option) for option in catalog.options("their-memory")] == [
        ("k", "int", "10", "how many results to return"),
        ("seed", "int", "0", "of every random choice"),
        ("decay", "float", "", "retention lost a day (S in the paper)"),
        ("names", "list[str]", "[]", "who it knows"),
        ("bare", "bool", "True", ""),
    ]


def test_planned_systems_have_no_options(plug: Any) -> None:
    plug(theirs=row())
    assert catalog.options("their-memory") == []


# --- shown -----------------------------------------------------------------------------------------------------------


def rendered(renderable: Any, width: int = 100) -> str:
    from rich.console import Console

    sheet = io.StringIO()
    Console(file=sheet, width=width).print(renderable)
    return sheet.getvalue()


def test_the_table_has_one_line_a_system_even_when_narrow(plug: Any) -> None:
    for width in (80, 120):
        lines = rendered(catalog.render_table(catalog.systems()), width).splitlines()
        assert len(lines) == 1 + 68
        assert all(info.slug in line for info, line in zip(catalog.systems(), lines[1:], strict=True))


def test_one_system_is_shown_with_source_claim_and_options(working: types.ModuleType) -> None:
    text = rendered(catalog.render_system(catalog.system("zep")))
    assert "https://arxiv.org/abs/2501.13956" in text and "Organizer" in text and "bi-temporal" in text
    text = rendered(catalog.render_system(catalog.system("their-memory")))
    assert "retention lost a day" in text and "required" in text and "their-plugin" in text


def test_json_forms_hold_plain_types(working: types.ModuleType) -> None:
    rows = json.loads(json.dumps([info.to_json() for info in catalog.systems()]))
    assert {"slug", "title", "folder", "status"} <= rows[0].keys()
    shown = json.loads(json.dumps(catalog.system_json(catalog.system("their-memory"))))
    assert shown["options"][0] == {
        "name": "k",
        "type": "int",
        "default": "10",
        "comment": "how many results to return",
    }


def test_the_catalogue_is_read_without_heavy_imports() -> None:
    program = (
        "import sys, memspan; assert 'memspan.core.catalog' not in sys.modules; "
        "from memspan.core.catalog import systems; assert 'tomllib' not in sys.modules; systems(); "
        "print([name for name in ('torch', 'transformers', 'spacy', 'rich', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
