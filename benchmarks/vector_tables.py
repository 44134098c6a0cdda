"""The tables of vector_index.py."""

from __future__ import annotations

from typing import Any

from common import machine_line, size, table


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _good(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [result for result in report["results"] if "error" not in result]


def build_table(report: dict[str, Any]) -> str:
    """Build, files, memory, opening."""
    rows = []
    raw = 4 * report["rows"] * report["dim"]
    for r in _good(report):
        b, s = r["build"], r["serve"]
        rows.append(
            [
                r["name"],
                _number(b["cpu_seconds"]),
                size(b["peak_private"]),
                size(b["file_bytes"]) + (f" + {size(raw)} raw" if b["needs_raw_file"] else ""),
                size(s["private"]),
                size(s["mapped"]),
                f"{1e3 * s['open_seconds']:.0f}",
                f"{s['latency']['p50_us']:.0f} / {s['latency']['p99_us']:.0f}",
            ]
        )
    header = ["index", "build CPU s", "its private peak", "files", "private", "mapped", "open ms", "a call µs p50/p99"]
    return table(header, rows)


def warm_table(report: dict[str, Any]) -> str:
    """Queries a second at each recall."""
    results = _good(report)
    levels = list(results[0]["levels"]) if results else []
    rows = []
    for r in results:
        cells = [f"{_number(r['levels'][level]['qps_1'])} / {_number(r['levels'][level]['qps_2'])}" for level in levels]
        rows.append([r["name"], *cells])
    return table(["warm QPS, 1 / 2 threads", *[f"at {float(level):.2f}" for level in levels]], rows)


def cold_table(report: dict[str, Any]) -> str:
    """Cold queries a second, with what the disk gave for each."""
    results = [r for r in _good(report) if "levels" in r.get("cold", {})]
    levels = list(results[0]["levels"]) if results else []
    rows = []
    for r in results:
        found = {str(c["level"]): c for c in r["cold"]["levels"]}
        cells = []
        for level in levels:
            c = found.get(level)
            cells.append(
                f"{c['qps']:.0f} ({c['recall']:.3f}; {c['p50_ms']:.1f} / {c['p99_ms']:.1f} ms; {size(c['disk_bytes'])})"
                if c
                else "–"
            )
        rows.append([r["name"], *cells])
    return table(["cold QPS (recall; p50/p99; read)", *[f"at {float(level):.2f}" for level in levels]], rows)


def add_table(report: dict[str, Any]) -> str:
    """A fifth more rows of other topics."""
    rows = [
        [
            r["name"],
            _number(r["add"]["per_second"]),
            _number(r["add"]["per_cpu_second"]),
            f"{r['add']['recall_before']:.3f}",
            f"{r['add']['recall_old']:.3f}",
            f"{r['add']['recall_new']:.3f}",
        ]
        for r in _good(report)
        if "per_second" in r.get("add", {})
    ]
    return (
        table(["adding a fifth", "rows/s", "rows/CPU s", "recall before", "after", "of new topics"], rows)
        if rows
        else ""
    )


def limit_lines(report: dict[str, Any]) -> list[str]:
    """The machine's limits, and what memspan touches of them for a query."""
    disk = report["limits"]["disk"]
    parts = [f"{d['block'] // 1024} KB QD {d['depth']} {d['per_second']:,.0f}/s ({d['us']:.0f} µs)" for d in disk]
    lines = [f"disk, random direct reads: {', '.join(parts) or 'not offered'}"]
    lines.append(f"memory, one core: {report['limits']['stream_bytes_per_second'] / 1e9:.1f} GB/s")
    for r in _good(report):
        if r["kind"] != "memspan":
            continue
        deep = max((d["per_second"] for d in disk if d["block"] == 16384), default=None)
        for level, found in r["levels"].items():
            if found.get("bytes") is None:
                continue
            least = found["bytes"] / report["limits"]["stream_bytes_per_second"]
            line = f"memspan at {level}: {found['lists']:.0f} lists, {size(found['bytes'])} a query"
            line += f"; read at memory's speed {1 / least:,.0f} QPS"
            line += f", its {found['reads']:.0f} pieces at the disk's {deep / found['reads']:,.0f}" if deep else ""
            lines.append(line)
        asked = ", ".join(f"{p['setting']:g}: {p['recall']:.3f}" for p in r["serve"]["points"])
        lines.append(f"memspan, recall asked and found: {asked}")
    return lines


def verdict_lines(report: dict[str, Any]) -> list[str]:
    """memspan's speed over the fastest peer's, of any memory, and of those that keep to a tenth of the rows."""
    results = _good(report)
    ours = next((r for r in results if r["kind"] == "memspan"), None)
    peers = [r for r in results if r["kind"] != "memspan"]
    if ours is None or not peers:
        return []
    budget = 0.4 * report["rows"] * report["dim"]
    lines = []
    for level, found in ours["levels"].items():
        parts = []
        for word, some in (
            ("any peer", peers),
            ("a tenth of the rows", [p for p in peers if p["serve"]["private"] <= budget]),
        ):
            speeds = [(p["levels"][level]["qps_1"] or 0, p["name"]) for p in some]
            if speeds and found["qps_1"] and max(speeds)[0]:
                parts.append(f"{found['qps_1'] / max(speeds)[0]:.2f}x {max(speeds)[1]} ({word})")
        cold = [
            (c["qps"], p["name"])
            for p in peers
            for c in p.get("cold", {}).get("levels", [])
            if str(c["level"]) == level
        ]
        mine = next((c["qps"] for c in ours.get("cold", {}).get("levels", []) if str(c["level"]) == level), None)
        if cold and mine:
            parts.append(f"cold {mine / max(cold)[0]:.1f}x {max(cold)[1]}")
        lines.append(f"memspan at {level}: {'; '.join(parts)}")
    return lines


def show(report: dict[str, Any]) -> str:
    """All of it."""
    blocks = [
        f"{report['rows']:,} x {report['dim']} float32, recall@10",
        build_table(report),
        warm_table(report),
        cold_table(report),
        add_table(report),
        "\n".join(limit_lines(report)),
        "\n".join(verdict_lines(report)),
        "\n".join(f"{r['name']}: skipped, {r['error']}" for r in report["results"] if "error" in r),
        machine_line(report["machine"]),
    ]
    return "\n\n".join(block for block in blocks if block)
