"""What came of each fault: build/bench/faults.json, and the same as a table in Markdown."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class Soak:
    """What came of many jobs. `ends`: how many came to what; `missed`: faults that came too late; `early_bytes`,
    `late_bytes`: the operator's memory after a third of the jobs, and after all."""

    seed: int
    minutes: float
    ends: dict[str, int]
    missed: int
    attempts: int
    early_bytes: int
    late_bytes: int


class Book:
    """Each entry is written at once: what was measured stays when a later test fails."""

    def write(self, entry: Entry) -> None:
        print(f"\n{row(entry)}")
        book = self._read()
        known = {each["fault"]: each for each in book.get("faults", [])} | {entry.fault: asdict(entry)}
        self._write(book | {"faults": list(known.values())})

    def write_soak(self, soak: Soak) -> None:
        print(f"\n{soak}")
        self._write(self._read() | {"soak": asdict(soak)})

    def _read(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}
        return found

    def _write(self, book: dict[str, Any]) -> None:
        FILE.parent.mkdir(parents=True, exist_ok=True)
        FILE.write_text(json.dumps(book, indent=2, ensure_ascii=False))


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
