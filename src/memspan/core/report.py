"""One page over the results of claims: a self-contained HTML file with tables and SVG plots, no script, no resources.

The plots (`line_plot`, `bar_plot`) take their colours from the page's style, so that they follow a light or dark theme.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from memspan.core.evidence import number

if TYPE_CHECKING:
    from memspan.core.claims import Result
    from memspan.core.evidence import JudgedPart, Series

WIDTH, HEIGHT = 620, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 32, 14, 46
_COLOURS = 6
_MARKS = {"holds": "✓", "partly": "≈", "fails": "✗", "void": "∅", "untestable": "?", "crashed": "!", "timeout": "!"}

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #5b6470; --line: #d5dae1; --grid: #e8ebef;
  --c1: #0072b2; --c2: #d55e00; --c3: #009e73; --c4: #aa3377; --c5: #b07d00; --c6: #3f9bd1;
  --holds: #12713f; --partly: #8a5a00; --fails: #b3261e; --other: #5b6470; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e6e9ed; --soft: #9aa4b0; --line: #363d46;
  --grid: #262b32; --c1: #56b4e9; --c2: #f0894f; --c3: #35c79a; --c4: #e08fbf; --c5: #e6b84d; --c6: #9ecbea;
  --holds: #4fc98a; --partly: #e6b84d; --fails: #ff8a80; --other: #9aa4b0; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 3rem; } h3 { font-size: 1rem; margin-bottom: .2rem; }
p.small, .small, figcaption { color: var(--soft); font-size: .85rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; margin: .6rem 0; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; } a { color: var(--c1); }
.v { font-weight: 600; white-space: nowrap; color: var(--other); } .holds { color: var(--holds); }
.partly { color: var(--partly); } .fails, .crashed, .timeout { color: var(--fails); }
pre { background: var(--grid); padding: .8rem; overflow-x: auto; font-size: .8rem; } figure { margin: 1rem 0; }
svg { width: 100%; max-width: 620px; height: auto; display: block; } svg.bar { max-width: 160px; width: 160px; }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft); } .grid { stroke: var(--grid); }
.axis { stroke: var(--line); } .limit { stroke: var(--fails); stroke-width: 1.5; stroke-dasharray: 5 4; }
svg text.limit-text { fill: var(--fails); } .curve { fill: none; stroke-width: 2; }
.s1 { stroke: var(--c1); } .s2 { stroke: var(--c2); } .s3 { stroke: var(--c3); }
.s4 { stroke: var(--c4); } .s5 { stroke: var(--c5); } .s6 { stroke: var(--c6); }
.f1 { fill: var(--c1); } .f2 { fill: var(--c2); } .f3 { fill: var(--c3); }
.f4 { fill: var(--c4); } .f5 { fill: var(--c5); } .f6 { fill: var(--c6); } .f0 { fill: var(--soft); }
.d2 { stroke-dasharray: 8 4; } .d3 { stroke-dasharray: 2 3; }
"""


# --- plots -----------------------------------------------------------------------------------------------------------


def line_plot(series: Series, names: Sequence[str] = ()) -> str:
    """An SVG of lines with axes, ticks, a legend, and the threshold when there is one.

    `names` are those of all plots of a page, so that a name has one colour in all of them.
    """
    points = {name: [(x, y) for x, y in zip(*xy, strict=True) if y is not None] for name, xy in series.lines.items()}
    xs = [x for line in points.values() for x, _ in line]
    ys = [y for line in points.values() for _, y in line]
    if not xs:
        return '<p class="small">Nothing to plot: no value is finite.</p>'
    x_ticks = log_ticks(min(xs), max(xs)) if series.log_x else ticks(min(xs), max(xs))
    shape: Callable[[float], float] = math.log10 if series.log_x else float
    across = _scale(shape(x_ticks[0]), shape(x_ticks[-1]), _LEFT, WIDTH - _RIGHT)
    places = {name: place for place, name in enumerate(names or points)}
    legend, top = _legend({name: places[name] for name in points})
    frame, up = _frame(series, ys, top)
    for tick in x_ticks:
        x = across(shape(tick))
        frame.append(f'<text x="{x:.1f}" y="{HEIGHT - _BOTTOM + 18}" text-anchor="middle">{number(tick)}</text>')
    for name, line in points.items():
        colour, dash = places[name] % _COLOURS + 1, places[name] % 3 + 1
        path = " ".join(f"{across(shape(x)):.1f},{up(y):.1f}" for x, y in sorted(line))
        frame.append(f'<polyline class="curve s{colour} d{dash}" points="{path}"/>')
        frame += [
            f'<circle class="f{colour}" cx="{across(shape(x)):.1f}" cy="{up(y):.1f}" r="3">'
            f"<title>{escape(name)}: {number(x)}, {number(y)}</title></circle>"
            for x, y in line
        ]
    return _svg(series, frame + legend)


def bar_plot(series: Series) -> str:
    """An SVG of grouped bars, one group for each label, one colour for each line."""
    labels = list(dict.fromkeys(label for x, _ in series.lines.values() for label in x))
    ys = [y for _, values in series.lines.values() for y in values if y is not None]
    if not ys:
        return '<p class="small">Nothing to plot: no value is finite.</p>'
    legend, top = _legend({name: place for place, name in enumerate(series.lines)})
    frame, up = _frame(series, [0.0, *ys], top)
    group = (WIDTH - _LEFT - _RIGHT) / len(labels)
    width = 0.8 * group / len(series.lines)
    fit = max(3, int(group / 7))
    for column, label in enumerate(labels):
        x = _LEFT + (column + 0.5) * group
        short = label if len(label) <= fit else label[: fit - 1] + "…"
        frame.append(
            f'<text x="{x:.1f}" y="{HEIGHT - _BOTTOM + 18}" text-anchor="middle">'
            f"{escape(short)}<title>{escape(label)}</title></text>"
        )
    for place, (name, (x_labels, values)) in enumerate(series.lines.items()):
        for label, y in zip(x_labels, values, strict=True):
            if y is None:
                continue
            x = _LEFT + labels.index(label) * group + 0.1 * group + place * width
            low, high = sorted((up(0.0), up(y)))
            hint = f"<title>{escape(name)}, {escape(label)}: {number(y)}</title>"
            frame.append(
                f'<rect class="f{place % _COLOURS + 1}" x="{x:.1f}" y="{low:.1f}" width="{max(width - 1, 1):.1f}" '
                f'height="{max(high - low, 0.5):.1f}">{hint}</rect>'
            )
    return _svg(series, frame + legend)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) that enclose low and high."""
    if high <= low:
        span = abs(low) or 1.0
        low, high = low - span / 2, high + span / 2
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 12 - math.floor(math.log10(step))) for place in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten that enclose low and high."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _frame(series: Series, ys: Sequence[float], top: float) -> tuple[list[str], Callable[[float], float]]:
    """Axes, grid, labels and threshold, and the scale of y."""
    levels = [*ys] if series.threshold is None else [*ys, series.threshold]
    y_ticks = ticks(min(levels), max(levels))
    up = _scale(y_ticks[0], y_ticks[-1], HEIGHT - _BOTTOM, top)
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    out = []
    for tick in y_ticks:
        out.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>')
        out.append(f'<text x="{_LEFT - 8}" y="{up(tick) + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    out.append(f'<path class="axis" fill="none" d="M{_LEFT},{top:.0f}V{bottom}H{right}"/>')
    out.append(f'<text x="{(_LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(series.x_label)}</text>')
    middle = (top + bottom) / 2
    out.append(
        f'<text x="14" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 14 {middle:.0f})">'
        f"{escape(series.y_label)}</text>"
    )
    if series.threshold is not None:
        y = up(series.threshold)
        out.append(f'<line class="limit" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        label = f"threshold {number(series.threshold)}"
        out.append(f'<text class="limit-text" x="{right}" y="{y - 5:.1f}" text-anchor="end">{label}</text>')
    return out, up


def _legend(places: Mapping[str, int]) -> tuple[list[str], float]:
    """The names beside their colours, in as many rows as they need, and where the plot begins below them."""
    out, x, y = [], float(_LEFT), float(_TOP)
    for name, place in places.items():
        needed = 30 + 6.8 * len(name)
        if x > _LEFT and x + needed > WIDTH - _RIGHT:
            x, y = float(_LEFT), y + 18
        out.append(f'<rect class="f{place % _COLOURS + 1}" x="{x:.0f}" y="{y - 6:.0f}" width="12" height="8"/>')
        out.append(f'<text x="{x + 18:.0f}" y="{y + 2:.0f}">{escape(name)}</text>')
        x += needed
    return out, y + 18


def _svg(series: Series, elements: Iterable[str]) -> str:
    title = escape(series.title or f"{series.y_label} by {series.x_label}")
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{"".join(elements)}</svg>'


def _bullet(judged: JudgedPart) -> str:
    """Value over baseline as two small bars, with a stroke at the threshold."""
    part = judged.part
    if part.value is None or part.threshold is None:
        return ""
    limit = part.threshold.limit(part.baseline)
    levels = [0.0, part.value, limit, *([] if part.baseline is None else [part.baseline])]
    across = _scale(min(levels), max(levels), 2.0, 158.0)
    bars = []
    for y, value, colour in ((3, part.value, "f1"), (14, part.baseline, "f0")):
        if value is not None:
            low, high = sorted((across(0.0), across(value)))
            bars.append(f'<rect class="{colour}" x="{low:.1f}" y="{y}" width="{max(high - low, 1):.1f}" height="8"/>')
    x = across(limit)
    label = escape(f"value {number(part.value)}, baseline {number(part.baseline)}, threshold {number(limit)}")
    stroke = f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="25"/>'
    return f'<svg class="bar" viewBox="0 0 160 25" role="img" aria-label="{label}">{"".join(bars)}{stroke}</svg>'


# --- the page --------------------------------------------------------------------------------------------------------


def page(results: Sequence[Result]) -> str:
    """The whole HTML page: a summary of all claims, then one section for each."""
    counts: dict[str, int] = {}
    for result in results:
        key = result.verdict or result.state
        counts[key] = counts.get(key, 0) + 1
    summary = ", ".join(f"{count} {name}" for name, count in counts.items()) or "no results yet"
    rows = "".join(_summary_row(result) for result in results)
    head = "".join(f"<th{kind}>{name}</th>" for name, kind in _SUMMARY)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>memspan claims</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{STYLE}</style></head>\n<body><main>\n<h1>Do the papers’ claims hold here?</h1>\n"
        f"<p>{len(results)} claims: {escape(summary)}.</p>\n"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>\n'
        '<p class="small">holds: the threshold is met; partly: better than the baseline, but not by the threshold; '
        "fails: neither; void: there was no gap to close; untestable: not on this machine. "
        "Thresholds were fixed before the run.</p>\n"
        + "\n".join(_section(result) for result in results)
        + "\n</main></body></html>\n"
    )


_SUMMARY = (("system", ""), ("claim", ""), ("verdict", ""), ("said", ""), ("size", ""), ("seconds", ' class="n"'))


def _summary_row(result: Result) -> str:
    said = "–" if not result.expected else result.expected if result.as_said else f"{result.expected} (not kept)"
    late = " (over its time)" if result.over_time else ""
    return (
        f'<tr><td><a href="#{escape(result.slug)}">{escape(result.slug)}</a></td><td>{escape(result.title)}</td>'
        f"<td>{_badge(result.verdict or result.state)}</td><td>{said}</td>"
        f'<td>{result.size}</td><td class="n">{number(round(result.seconds, 1))}{late}</td></tr>'
    )


def _badge(verdict: str) -> str:
    return f'<span class="v {verdict}">{_MARKS.get(verdict, "")} {verdict}</span>'


def _section(result: Result) -> str:
    machine = result.machine
    ran = [
        f"{result.size}, seeds {', '.join(map(str, result.seeds))}, {number(round(result.seconds, 1))} s",
        f"{number(result.peak_rss / 2**20)} MiB at most" if result.peak_rss else "",
        f"{machine.get('cpu')}, {machine.get('cores')} cores, {number(round(machine.get('ram', 0) / 2**30, 1))} GiB",
        f"Python {machine.get('python')}, torch {machine.get('torch') or 'not installed'}",
        f"memspan {result.memspan}" + (f" at {result.commit}" if result.commit else ""),
        result.date,
    ]
    out = [
        f'<section id="{escape(result.slug)}">',
        f"<h2>{escape(result.slug)}: {escape(result.title)}</h2>",
        f"<p>{_badge(result.verdict or result.state)}"
        + ("" if result.as_said or not result.expected else f", although the claim’s file says “{result.expected}”")
        + "</p>",
        f'<p class="small">{escape(" · ".join(line for line in ran if line))}</p>',
    ]
    if result.error:
        out.append(f"<pre>{escape(result.error)}</pre>")
    if result.parts:
        names = (("statement", ""), ("measured", ""), ("value", " n"), ("baseline", " n"), ("threshold", ""))
        head = "".join(f'<th class="{kind.strip()}">{name}</th>' for name, kind in (*names, ("", ""), ("verdict", "")))
        body = "".join(_part_row(judged) for judged in result.parts)
        out.append(f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')
    for judged in result.parts:
        out += _details(judged)
    return "\n".join([*out, "</section>"])


def _part_row(judged: JudgedPart) -> str:
    part = judged.part
    spread = ""
    if len(set(judged.values)) > 1:
        spread = f'<br><span class="small">{number(min(judged.values))} to {number(max(judged.values))}</span>'
    rival = f'<br><span class="small">{escape(part.baseline_name)}</span>' if part.baseline_name else ""
    return (
        f"<tr><td>{escape(part.name)}</td><td>{escape(part.metric)}</td>"
        f'<td class="n">{number(part.value)}{spread}</td><td class="n">{number(part.baseline)}{rival}</td>'
        f"<td>{escape(str(part.threshold or '–'))}</td><td>{_bullet(judged)}</td><td>{_badge(judged.verdict)}</td></tr>"
    )


def _details(judged: JudgedPart) -> list[str]:
    """Reason, note, plot and table of one part."""
    part = judged.part
    out = [f"<h3>{escape(part.name)}</h3>", f"<p>{escape(judged.reason)}. {escape(part.note)}</p>"]
    if part.series is not None:
        plot = bar_plot(part.series) if part.series.kind == "bar" else line_plot(part.series)
        caption = f"<figcaption>{escape(part.series.title)}</figcaption>" if part.series.title else ""
        out.append(f"<figure>{plot}{caption}</figure>")
    if part.rows:
        out.append(f'<div class="wide">{_table(part.rows)}</div>')
    return out


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    numeric = {
        column
        for column in columns
        if all(
            isinstance(row.get(column), int | float | None) and not isinstance(row.get(column), bool) for row in rows
        )
    }
    kind = {column: ' class="n"' if column in numeric else "" for column in columns}
    head = "".join(f"<th{kind[column]}>{escape(column)}</th>" for column in columns)
    body = ""
    for row in rows:
        cells = {key: number(row.get(key)) if key in numeric else escape(str(row.get(key, ""))) for key in columns}
        body += "<tr>" + "".join(f"<td{kind[key]}>{cell}</td>" for key, cell in cells.items()) + "</tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
