"""docs/architecture.md shows the house as it is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"training": ROOT / "training" / "finetune_training", "operator": ROOT / "operator" / "finetune_operator"}
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def section(package: str) -> str:
    return PAGE.split(f"## {package}: ")[1].split("\n## ")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_is_on_the_page_with_its_purpose_and_no_other(package: str) -> None:
    purposes = {
        init.parent.name: ast.get_docstring(ast.parse(init.read_text(encoding="utf-8")))
        for init in PACKAGES[package].glob("*/__init__.py")
    }
    assert dict(re.findall(r"^\| `(\w+)/` \| (.*) \|$", section(package), re.MULTILINE)) == purposes


def test_every_room_that_a_journey_enters_is_there() -> None:
    rooms = {f"{path.parent.name}/{path.stem}" for root in PACKAGES.values() for path in root.glob("*/*.py")}
    named = set(re.findall(r"`(\w+/\w+)`", PAGE.split("## Four journeys")[1]))
    assert named
    assert named <= rooms, named - rooms
