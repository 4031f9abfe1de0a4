"""What came of each fault: build/bench/faults.json, and the same as a table in Markdown."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.cluster.layout import ROOT

FILE = ROOT / "build" / "bench" / "faults.json"


@dataclass(frozen=True)
class Entry:
    """`end`: what the job came to; `recovery_seconds`: from the fault to the first new step; `lost_steps`: done again;
    `released_seconds`: from the job's end until its pods were gone; `said`: the sentence that the user reads."""

    fault: str
    end: str
    recovery_seconds: float | None
    lost_steps: int | None
    said: str
    released_seconds: float | None = None


@dataclass
class Book:
    entries: list[Entry] = field(default_factory=list)

    def write(self, entry: Entry) -> None:
        """At once: what was measured stays when a later test fails."""
        self.entries.append(entry)
        print(f"\n{row(entry)}")
        FILE.parent.mkdir(parents=True, exist_ok=True)
        known: dict[str, Any] = {}
        if FILE.exists():
            known = {each["fault"]: each for each in json.loads(FILE.read_text())["faults"]}
        known[entry.fault] = asdict(entry)
        FILE.write_text(json.dumps({"faults": list(known.values())}, indent=2, ensure_ascii=False))


def row(entry: Entry) -> str:
    """A line of the table."""

    def number(value: float | None, unit: str = "") -> str:
        return "–" if value is None else f"{value:.0f}{unit}"

    said = entry.said.replace("|", "/").replace("\n", " ")
    cells = (
        entry.fault, entry.end, number(entry.recovery_seconds, " s"), number(entry.lost_steps),
        number(entry.released_seconds, " s"), said,
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"
