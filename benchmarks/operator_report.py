"""What was measured beside what is expected on two cores.

In: the figures of each size. Out: expectations with what was found, and tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

_MEGABYTES = {1000: 150, 10_000: 350}
_TIMES_THE_FLOOR, _WRITES, _CPU_MILLISECONDS, _GROWTH = 1.5, 5, 8.0, 1.15
Size = Mapping[str, Any]


def expectations(sizes: Mapping[str, Size]) -> list[dict[str, Any]]:
    """Each with what was found, and whether it is met."""
    found = []
    for jobs, size in ((int(jobs), size) for jobs, size in sizes.items()):
        for what, value, at_most in _of_size(jobs, size):
            found.append(
                {"jobs": jobs, "what": what, "found": round(value, 2), "atMost": at_most, "met": value <= at_most}
            )
    if len(sizes) > 1:
        costs = [cpu_milliseconds(int(jobs), size) for jobs, size in sizes.items()]
        value, (smallest, *_, largest) = costs[-1] / costs[0], sizes
        found.append(
            {
                "jobs": int(largest),
                "what": f"CPU per job, times that of {smallest} jobs",
                "found": round(value, 2),
                "atMost": _GROWTH,
                "met": value <= _GROWTH,
            }
        )
    return found


def _of_size(jobs: int, size: Size) -> Iterator[tuple[str, float, float]]:
    yield (
        "time up to Running, times the floor",
        _both(size, "seconds") / _both(size["floor"], "seconds"),
        _TIMES_THE_FLOOR,
    )
    if jobs in _MEGABYTES:
        yield "peak memory, MB", max(size["peakMegabytes"], size["restart"]["peakMegabytes"]), _MEGABYTES[jobs]
    yield "writes per job up to Running, children included", _both(size, "writesOfJobs") / jobs, _WRITES
    yield "writes on restart", size["restart"]["writes"], 0
    yield "CPU per job up to Running, ms", cpu_milliseconds(jobs, size), _CPU_MILLISECONDS


def cpu_milliseconds(jobs: int, size: Size) -> float:
    """Of the operator, for one job up to Running."""
    return 1000 * _both(size, "cpuSeconds") / jobs


def _both(phases: Size, key: str) -> float:
    return float(phases["start"][key] + phases["running"][key])


def show(report: Mapping[str, Any]) -> None:
    """Tables for people."""
    console = Console(width=110)
    for jobs, size in report["sizes"].items():
        console.print(_figures(int(jobs), size))
    table = Table("jobs", "expected", "at most", "found", "", title="Expectations on two cores")
    for each in report["expectations"]:
        met = "met" if each["met"] else "NOT MET"
        table.add_row(f"{each['jobs']:,}", each["what"], f"{each['atMost']:g}", f"{each['found']:g}", met)
    console.print(table)


def _figures(jobs: int, size: Size) -> Table:
    table = Table(
        "", "seconds", "floor", "CPU s", "floor", "writes", "reads", "looks", "p50 ms", "p99 ms", title=f"{jobs:,} jobs"
    )
    for phase in ("start", "running", "restart"):
        each, floor = size[phase], size["floor"].get(phase, {})
        latency = each["reconcileMilliseconds"]
        table.add_row(
            phase,
            f"{each['seconds']:.1f}", f"{floor['seconds']:.1f}" if floor else "",
            f"{each['cpuSeconds']:.1f}", f"{floor['cpuSeconds']:.1f}" if floor else "",
            *(f"{each[key]:,}" for key in ("writes", "reads", "reconciles")),
            str(latency["p50"]), str(latency["p99"]),
        )  # fmt: skip
    agree = "the same" if size["writesByTheApiServer"] == _both(size, "writesOfJobs") else "NOT the same"
    table.caption = (
        f"peak {size['peakMegabytes']:.0f} MB, idle {size['idleMegabytes']:.0f} MB, after the restart "
        f"{size['restart']['peakMegabytes']:.0f} MB; the API server counts {size['writesByTheApiServer']:,} writes, {agree}"
    )
    return table
