"""A status as any client of the API server reads it: the JSON, without the operator's own models."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_training.contract.moment import seconds
from tests.unit.operator.worlds import Object


@dataclass(frozen=True)
class Status:
    """`status` of a FineTuneJob."""

    body: Object

    @property
    def attempt(self) -> int:
        return int(self.body.get("attempt", 0))

    @property
    def failed(self) -> int:
        return int(self.body.get("failed", 0))

    @property
    def out_of_memory(self) -> int:
        return int(self.body.get("outOfMemory", 0))

    @property
    def attempts(self) -> tuple[Object, ...]:
        return tuple(self.body.get("attempts", ()))

    @property
    def phase(self) -> str:
        return str(self.body.get("phase", ""))

    @property
    def start(self) -> float | None:
        return seconds(self.body.get("startTime"))

    @property
    def completion(self) -> float | None:
        return seconds(self.body.get("completionTime"))

    @property
    def next_attempt(self) -> float | None:
        return seconds(self.body.get("nextAttemptTime"))

    def condition(self, kind: str) -> Object:
        """The condition of that type, or nothing."""
        return next((each for each in self.body.get("conditions", ()) if each["type"] == kind), {})

    def holds(self, kind: str) -> bool:
        return bool(self.condition(kind).get("status") == "True")

    @property
    def ended(self) -> bool:
        return self.holds("Complete") or self.holds("Failed")
