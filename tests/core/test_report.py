"""The page over the claims' results, and its plots."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from memspan.core.claims import Result
from memspan.core.evidence import Evidence, Part, Series, at_least, at_most, combine, overall
from memspan.core.report import HEIGHT, WIDTH, bar_plot, line_plot, log_ticks, page, ticks

LINES = Series(
    lines={"ours": ([1, 2, 4], [0.9, 0.8, None]), "<rival> & co": ([1, 2, 4], [0.5, 0.4, 0.1])},
    x_label="noise (%)",
    y_label="right",
    title="By noise",
    threshold=0.7,
)
BARS = Series(
    lines={"ours": (["temporal", "multi-hop"], [70, 42]), "BM25": (["multi-hop", "other"], [33, -4])},
    x_label="category",
    y_label="R@10 (%)",
    kind="bar",
)


def result(slug: str, *parts: Part, **fields: Any) -> Result:
    judged = combine([Evidence(slug=slug, size="full", parts=parts)]) if parts else []
    usual: dict[str, Any] = {
        "slug": slug,
        "title": "A <title> & more",
        "size": "full",
        "state": "finished",
        "verdict": overall([one.verdict for one in judged]) if judged else None,
        "expected": None,
        "parts": judged,
        "seeds": [0, 1],
        "seconds": 12.3,
        "seconds_by_seed": [6.0, 6.3],
        "soft_seconds": 600.0,
        "peak_rss": 2**28,
        "machine": {"cpu": "A CPU", "cores": 2, "ram": 2**34, "system": "Linux", "python": "3.11", "torch": None},
        "memspan": "0.1.0",
        "commit": "abcdef",
        "date": "2026-01-02T03:04:05+00:00",
    }
    return Result(**{**usual, **fields})


@pytest.fixture
def results() -> list[Result]:
    """One of each kind."""
    good = Part(
        name="true at a date",
        metric="exact answers",
        value=0.99,
        baseline_name="latest <write> wins",
        baseline=0.23,
        threshold=at_least(0.98),
        note="A note.",
        series=LINES,
        rows=[{"relation": "P6 & more", "queries": 1266, "share": 0.12345}, {"relation": "playsFor", "queries": None}],
    )
    cheap = Part(name="t", metric="s", value=-1, baseline_name="b", baseline=5, threshold=at_most(0), series=BARS)
    return [
        result("good", good, cheap),
        result("bad", replace(good, value=0.2, series=None, rows=()), expected="holds"),
        result("none", Part(name="n", metric="m", untestable="needs a cluster")),
        result("crash", state="crashed", error="Traceback <module>\nValueError: boom", expected="holds", peak_rss=None),
        result("late", good, seconds=700.0),
    ]


class Checker(HTMLParser):
    """Collects tags that are not closed, text, and whatever would load something."""

    VOID = ("meta", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.ids: set[str] = set()
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Opens, unless void."""
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("script", "link", "img", "iframe", "object", "use", "image"):
            self.loads.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data") and not (value or "").startswith("#"):
                self.loads.append(f"{tag} {name}={value}")
            if name == "href":
                self.anchors.add((value or "").removeprefix("#"))
            if name == "id":
                self.ids.add(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Opens and closes."""
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        """Closes the last one that was opened."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Text."""
        self.words += data


def test_the_page_is_whole_and_loads_nothing(results: list[Result]) -> None:
    text = page(results)
    checked = Checker(text)
    assert checked.open == [] and checked.loads == []
    assert "http:" not in text and "https:" not in text and "url(" not in text and "@import" not in text
    assert checked.anchors == checked.ids == {"good", "bad", "none", "crash", "late"}
    assert "prefers-color-scheme: dark" in text


def test_the_page_says_what_held_and_what_did_not(results: list[Result]) -> None:
    words = Checker(page(results)).words
    assert "5 claims: 2 holds, 1 fails, 1 untestable, 1 crashed." in words
    assert "although the claim’s file says “holds”" in words
    for text in ("A <title> & more", "latest <write> wins", "needs a cluster", "ValueError: boom", "A note."):
        assert text in words
    for text in ("P6 & more", "1,266", "0.1235", "over its time", "abcdef", "2 cores", "16 GiB", "256 MiB"):
        assert text in words, text


def test_the_spread_over_seeds_is_shown() -> None:
    runs = [
        Evidence(slug="z", size="full", parts=[Part(name="p", metric="m", value=value, threshold=at_least(0.5))])
        for value in (0.6, 0.8)
    ]
    assert "0.6 to 0.8" in Checker(page([replace(result("z"), verdict="holds", parts=combine(runs))])).words


def test_a_page_without_results_says_so() -> None:
    assert "no results yet" in Checker(page([])).words


# --- plots -----------------------------------------------------------------------------------------------------------


def drawn(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in drawn(svg).iter("text")]


def test_a_line_plot_has_its_lines_axes_legend_and_threshold() -> None:
    svg = line_plot(LINES)
    lines = [node.get("points", "").split() for node in drawn(svg).iter("polyline")]
    assert [len(points) for points in lines] == [2, 3]  # what is not finite is left out
    assert {"ours", "<rival> & co", "noise (%)", "right", "threshold 0.7"} <= set(texts(svg))
    assert drawn(svg).get("aria-label") == "By noise"
    (limit,) = [node for node in drawn(svg).iter("line") if node.get("class") == "limit"]
    heights = [float(point.split(",")[1]) for point in lines[0]]
    assert heights[0] < heights[1] < float(limit.get("y1", "0"))  # 0.9 above 0.8 above 0.7


def test_a_logarithmic_axis_spaces_powers_evenly() -> None:
    series = Series(lines={"a": ([10, 100, 1000], [1, 2, 3])}, x_label="n", y_label="ms", log_x=True)
    (line,) = drawn(line_plot(series)).iter("polyline")
    a, b, c = (float(point.split(",")[0]) for point in line.get("points", "").split())
    assert b - a == pytest.approx(c - b, abs=0.2)


def test_bars_rise_from_zero_by_their_value() -> None:
    svg = bar_plot(BARS)
    bars = {node[0].text: node for node in drawn(svg).iter("rect") if len(node)}
    assert set(bars) == {"ours, temporal: 70", "ours, multi-hop: 42", "BM25, multi-hop: 33", "BM25, other: -4"}

    def height(name: str) -> float:
        return float(bars[name].get("height", "0"))

    assert height("ours, temporal: 70") / height("ours, multi-hop: 42") == pytest.approx(70 / 42, rel=0.01)
    below, above = bars["BM25, other: -4"], bars["BM25, multi-hop: 33"]
    zero = float(above.get("y", "0")) + float(above.get("height", "0"))
    assert float(below.get("y", "0")) == pytest.approx(zero, abs=0.2)
    assert {"temporal", "multi-hop", "other", "ours", "BM25"} <= set(texts(svg))


def test_nothing_to_plot_is_said() -> None:
    for kind, plot in (("line", line_plot), ("bar", bar_plot)):
        empty = Series(lines={"a": ([1, 2], [None, math.nan])}, x_label="x", y_label="y", kind=kind)  # type: ignore[arg-type]
        assert "Nothing to plot" in plot(empty)


numbers = st.floats(-1e6, 1e6).map(lambda value: round(value, 4))


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20), st.none() | numbers)
def test_every_point_lies_inside_the_plot(points: list[tuple[float, float]], threshold: float | None) -> None:
    x, y = zip(*points, strict=True)
    svg = line_plot(Series(lines={"a": (x, y)}, x_label="x", y_label="y", threshold=threshold))
    for circle in drawn(svg).iter("circle"):
        assert 0 <= float(circle.get("cx", "-1")) <= WIDTH and 0 <= float(circle.get("cy", "-1")) <= HEIGHT


@given(numbers, numbers)
def test_ticks_are_few_even_and_enclose(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    assume(high == low or high - low > 1e-6 * max(abs(low), abs(high)))
    found = ticks(low, high)
    assert 2 <= len(found) <= 9
    step = found[1] - found[0]
    assert found[0] <= low + 1e-6 * step and found[-1] >= high - 1e-6 * step
    assert all(right - left == pytest.approx(step, rel=1e-6) for left, right in pairwise(found))


def test_ticks_are_round() -> None:
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(0.21, 0.29) == [0.2, 0.22, 0.24, 0.26, 0.28, 0.3]
    assert ticks(0, 0) == [-0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.6]
    assert log_ticks(1000, 100_000) == [1000, 10_000, 100_000]
    assert log_ticks(5, 5) == [1, 10]


def test_long_legends_take_more_rows() -> None:
    lines = {f"a rather long name of a line, number {n}": ([1, 2], [n, n]) for n in range(8)}
    svg = line_plot(Series(lines=lines, x_label="x", y_label="y"))
    for node in drawn(svg).iter("text"):
        if re.search("number", node.text or ""):
            assert float(node.get("x", "0")) < WIDTH / 2 + 50
