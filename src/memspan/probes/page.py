"""The report card as one HTML file: no script, no resources, readable in light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from memspan.core.evidence import Series
from memspan.core.report import STYLE, line_plot
from memspan.probes.card import Card
from memspan.probes.run import Report

_LEFT, _WIDTH, _ROW = 190, 620, 20
_COLOURS = 6


def page(card: Card) -> str:
    """The whole page: scores, then what is behind them exam by exam, then what was not sat."""
    sat = [exam for exam in card.exams if any(card.report(exam, subject) for subject in card.subjects)]
    named = escape(", ".join(card.subjects))
    out = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>memspan report card</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{STYLE}</style></head>\n<body><main>\n<h1>What is remembered</h1>",
        f"<p>{len(sat)} exams, {len(card.subjects)} subjects: {named}.</p>",
        f"<figure>{_scores(card, sat)}<figcaption>Scores from 0 to 1 with 95 % intervals; the stroke is what a guesser "
        "reaches by likelihood. All subjects sat the same items.</figcaption></figure>"
        if sat
        else "",
        _summary(card, sat),
        *[_exam(card, exam) for exam in sat],
        _refused(card),
        "</main></body></html>\n",
    ]
    return "\n".join(part for part in out if part)


def _scores(card: Card, sat: Sequence[str]) -> str:
    """A row a subject and exam: its score as a dot on its interval, and a stroke at chance."""
    rows, y = [], 34.0
    for place, subject in enumerate(card.subjects):
        left = _LEFT + (place % 2) * 215
        at = 12 + (place // 2) * 16
        rows.append(f'<rect class="f{place % _COLOURS + 1}" x="{left}" y="{at - 7}" width="12" height="8"/>')
        rows.append(f'<text x="{left + 18}" y="{at + 1}">{escape(_short(subject, 30))}</text>')
    y += (len(card.subjects) - 1) // 2 * 16
    top = y - 10
    body = []
    for exam in sat:
        body.append(f'<text x="{_LEFT - 12}" y="{y + 4:.0f}" text-anchor="end">{escape(_short(exam, 24))}</text>')
        for place, subject in enumerate(card.subjects):
            report = card.report(exam, subject)
            if report is None:
                continue
            colour = place % _COLOURS + 1
            low, high = (_across(value) for value in report.interval)
            hint = f"{subject}, {exam}: {report.score:.0%} ({report.interval[0]:.0%} to {report.interval[1]:.0%})"
            body.append(f'<line class="curve s{colour}" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
            body.append(
                f'<circle class="f{colour}" cx="{_across(report.score):.1f}" cy="{y:.1f}" r="4.5">'
                f"<title>{escape(hint)}</title></circle>"
            )
            if report.chance is not None:
                x = _across(report.chance)
                body.append(f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 8:.1f}" y2="{y + 8:.1f}"/>')
            y += _ROW
        y += 8
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x = _across(tick)
        rows.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.0f}" y2="{y - 8:.0f}"/>')
        rows.append(f'<text x="{x:.1f}" y="{y + 8:.0f}" text-anchor="middle">{tick:g}</text>')
    label = escape(f"scores of {', '.join(card.subjects)}")
    return f'<svg viewBox="0 0 {_WIDTH} {y + 16:.0f}" role="img" aria-label="{label}">{"".join(rows + body)}</svg>'


def _across(value: float) -> float:
    return _LEFT + value * (_WIDTH - _LEFT - 24)


def _summary(card: Card, sat: Sequence[str]) -> str:
    """Exams by subjects; from the second on, the difference from the first."""
    gaps = {(one.exam, one.subject): one for one in card.differences()}
    rows = []
    for exam in sat:
        cells = [f'<a href="#{escape(exam)}">{escape(exam)}</a>']
        for subject in card.subjects:
            report = card.report(exam, subject)
            if report is None:
                cells.append('<span class="small">not sat</span>')
                continue
            low, high = report.interval
            notes = [f"{low:.0%} – {high:.0%}", f"by {report.form}", f"{report.n} items"]
            if report.failures:
                notes.append(f"{report.failures} unreadable")
            if (gap := gaps.get((exam, subject))) is not None:
                notes.append(f"{100 * gap.value:+.0f} points ({100 * gap.low:+.0f} to {100 * gap.high:+.0f})")
            cells.append(f'<b>{report.score:.0%}</b><br><span class="small">{"<br>".join(notes)}</span>')
        rows.append(cells)
    first = escape(card.subjects[0]) if card.subjects else ""
    note = f'<p class="small">Points are against {first}, over the same items.</p>' if gaps else ""
    return _html_table(["exam", *(escape(subject) for subject in card.subjects)], rows) + note if rows else ""


def _exam(card: Card, exam: str) -> str:
    reports = [report for subject in card.subjects if (report := card.report(exam, subject)) is not None]
    out = [f'<section id="{escape(exam)}"><h2>{escape(exam)}</h2>']
    by_length = {report.subject: _by_length(report) for report in reports}
    if any(len(found) > 1 for found in by_length.values()):
        lines = {name: ([x for x, *_ in found], [y for _, y, _ in found]) for name, found in by_length.items()}
        title = f"{exam}: score by length"
        series = Series(lines=lines, x_label="tokens shown, estimated", y_label="score", title=title)
        out.append(_figure(series, card.subjects))
    held = {
        name: ([size for _, _, size in found if size], [y for _, y, size in found if size])
        for name, found in by_length.items()
    }
    if held := {name: both for name, both in held.items() if both[0]}:
        title, held_by = f"{exam}: score by bytes", "bytes held of the context or in the store"
        series = Series(lines=held, x_label=held_by, y_label="score", title=title, log_x=True)
        out.append(_figure(series, card.subjects, "a point a length"))
    out += [_tasks(reports), _figures(reports), "</section>"]
    return "\n".join(part for part in out if part)


def _by_length(report: Report) -> list[tuple[int, float, int]]:
    """Length, mean score, most bytes."""
    found = []
    for (length,), items in report.by("length").items():
        held = max((int(item.more.get("bytes", 0)) for item in items), default=0)
        found.append((int(length or 0), sum(item.score for item in items) / len(items), held))
    return sorted(found)


def _figure(series: Series, names: Sequence[str], more: str = "") -> str:
    said = escape(series.title) + (f"; {escape(more)}" if more else "")
    return f"<figure>{line_plot(series, names)}<figcaption>{said}</figcaption></figure>"


def _tasks(reports: Sequence[Report]) -> str:
    """Scores by the exam's first group."""
    name = reports[0].breakdown[0]
    values = list(dict.fromkeys(key for report in reports for key in report.by(name)))
    rows = []
    for value in values:
        cells = [escape(str(value[0]))]
        for report in reports:
            scores = [item.score for item in report.by(name).get(value, [])]
            cells.append(
                f'{sum(scores) / len(scores):.0%} <span class="small">of {len(scores)}</span>' if scores else ""
            )
        rows.append(cells)
    return _html_table([escape(name), *(escape(report.subject) for report in reports)], rows)


def _figures(reports: Sequence[Report]) -> str:
    """What stands beside the score, such as recall of the evidence."""
    found = {report.subject: report.figures() for report in reports}
    names = list(dict.fromkeys(name for figures in found.values() for name in figures))
    rows = []
    for name in names:
        cells = [escape(name)]
        for figures in found.values():
            one = figures.get(name)
            cells.append(
                "" if one is None else f'{one.value:.0%} <span class="small">{one.low:.0%} – {one.high:.0%}</span>'
            )
        rows.append(cells)
    return _html_table(["beside the score", *(escape(name) for name in found)], rows) if rows else ""


def _refused(card: Card) -> str:
    rows: list[list[Any]] = [
        [escape(one.exam), escape(one.subject or "all"), escape(one.reason)] for one in card.refusals
    ]
    return f"<h2>Not sat</h2>{_html_table(['exam', 'subject', 'why'], rows)}" if rows else ""


def _html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{column}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
