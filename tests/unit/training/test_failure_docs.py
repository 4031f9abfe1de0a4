"""docs/failures.md says what the code says: every reason that can be raised, in its class, and the exit codes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from finetune_training.contract import failure
from finetune_training.contract.failure import EXIT_CODES, FailureClass, Reason
from finetune_training.driver.repair import STARTED_AGAIN

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "training" / "finetune_training"
PAGE = (ROOT / "docs" / "failures.md").read_text(encoding="utf-8")
RAISERS = {
    "user_error": FailureClass.USER,
    "data_error": FailureClass.DATA,
    "infrastructure_error": FailureClass.INFRASTRUCTURE,
}
# Under this heading a reason is named as its class.
SHARED_HEADING = "Hang, Fenced, Interrupted, Unknown"

Found = tuple[FailureClass, str]


def reasons_in(source: str) -> Iterator[Found]:
    """Reasons in a module's source: the first argument of `user_error` and its like, and what follows a `FailureClass.…` in a
    call's arguments or in a tuple: a string, or a `Reason.…`. Raises for a reason that is neither."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RAISERS:
            first = node.args[0] if node.args else None
            if (said := literal(first)) is None:
                raise AssertionError(f"line {node.lineno}: {node.func.id} wants its reason as a literal, first")
            yield RAISERS[node.func.id], said
        values = node.args if isinstance(node, ast.Call) else node.elts if isinstance(node, ast.Tuple) else []
        for cls, reason in pairwise(values):
            if not (
                isinstance(cls, ast.Attribute) and isinstance(cls.value, ast.Name) and cls.value.id == "FailureClass"
            ):
                continue
            if (said := literal(reason)) is not None:
                yield FailureClass[cls.attr], said


def literal(node: ast.expr | None) -> str | None:
    """The reason that stands there, if it does."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Reason":
        return Reason[node.attr].value
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def reasons_on(page: str) -> list[Found]:
    """Reasons in a page's tables: the first cell of each row, below the heading with the class."""
    found = []
    for section in page.split("\n## ")[1:]:
        heading, _, body = section.partition("\n")
        if heading in ("Classes and exit codes", "On a cluster"):
            continue
        for reason in re.findall(r"^\| `(\w+)` \|", body, re.MULTILINE):
            found.append((FailureClass(reason if heading == SHARED_HEADING else heading), reason))
    return found


def test_every_reason_in_the_code_is_explained_and_no_other() -> None:
    raised = {reason for path in PACKAGE.rglob("*.py") for reason in reasons_in(path.read_text(encoding="utf-8"))}
    explained = reasons_on(PAGE)
    assert len(raised) > 50
    assert {"missing": raised - set(explained), "gone": set(explained) - raised} == {"missing": set(), "gone": set()}
    assert len(explained) == len(set(explained))


def test_the_exit_codes_on_the_page_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", PAGE, re.MULTILINE)
    assert [(FailureClass(name), int(code)) for name, code in rows] == list(EXIT_CODES.items())


def test_the_tree_of_failures_is_that_of_the_code() -> None:
    """Drawn with all classes and, but for what a person has to mend, with all reasons."""
    tree = (failure.__doc__ or "").split("Failure  ")[1]
    codes = {
        FailureClass(name): int(code) for name, code in re.findall(r"^    [├└]── (\w+) +(\d+)  \S", tree, re.MULTILINE)
    }
    assert codes == EXIT_CODES
    drawn: list[Found] = []
    for branch in re.split(r"^    [├└]── ", tree, flags=re.MULTILINE)[1:]:
        cls = FailureClass(branch.split()[0])
        drawn += [(cls, reason) for reason in re.findall(r"^    [│ ]   [├└]── (\w+)", branch, re.MULTILINE)]
    mended = (FailureClass.USER, FailureClass.DATA)
    assert sorted(drawn) == sorted(each for each in reasons_on(PAGE) if each[0] not in mended)
    assert set(re.findall(r"── (\w+) +[╮│╯─]", tree)) == set(STARTED_AGAIN)


def test_every_row_says_what_it_means_and_what_to_do() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert rows
    assert [
        row for row in rows if len(row.split(" | ")) < 3 or not all(cell.strip(" |") for cell in row.split(" | "))
    ] == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('raise user_error("A", "message")', {(FailureClass.USER, "A")}),
        ('Failure(FailureClass.FENCED, "B", "message")', {(FailureClass.FENCED, "B")}),
        ('X = {"a.B": (FailureClass.DATA, "C")}', {(FailureClass.DATA, "C")}),
        ('X = (("text", FailureClass.UNKNOWN, "D"),)', {(FailureClass.UNKNOWN, "D")}),
        ("raise user_error(Reason.DISK_FULL, message)", {(FailureClass.USER, "DiskFull")}),
        ("X = (FailureClass.DATA, Reason.NETWORK)", {(FailureClass.DATA, "Network")}),
        ("Failure(FailureClass.USER, reason, message)", set()),
    ],
)
def test_a_reason_is_found_wherever_code_names_one(source: str, expected: set[Found]) -> None:
    assert set(reasons_in(source)) == expected


def test_a_reason_that_is_no_literal_is_refused() -> None:
    with pytest.raises(AssertionError, match="line 1: user_error wants its reason as a literal"):
        list(reasons_in("raise user_error(reason, message)"))
