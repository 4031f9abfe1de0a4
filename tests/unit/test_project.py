"""The project itself: what its files promise each other, and what no tool checks."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECTS = ("training", "operator")
LOCKS = {each: ROOT / each / "requirements.lock" for each in PROJECTS} | {"development": ROOT / "requirements-dev.lock"}
MAKEFILE = (ROOT / "Makefile").read_text()
# Each generated document and the command (of `make generate`) that prints it.
GENERATED = {
    "docs/fields.md": ("-m", "finetune_training.contract.fields"),
    "docs/fields-cluster.md": ("-m", "finetune_operator.api.reference"),
    "charts/finetune-operator/values.schema.json": ("-m", "finetune_operator.api.chart", "schema"),
    "charts/finetune-operator/files/crd.yaml": ("-m", "finetune_operator.api.chart", "crd"),
}

LEANING = (
    *("and", "but", "so", "or", "nor", "neither", "then", "also"),
    *("it", "its", "they", "their", "this", "these", "that", "those", "others", "such", "one_that", "one_which"),
)
"""No test's name begins with one of these words: it would be half of a sentence whose beginning is the name above it."""


def locked(path: Path) -> dict[str, str]:
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    pins = (line.split("==") for line in lines if line)
    return {canonicalize_name(name): version for name, version in pins}


@pytest.mark.parametrize(
    "name",
    [
        *(str(path.relative_to(ROOT)) for path in LOCKS.values()),
        "images/build.py",
        ".github/workflows/ci.yaml",
        ".ci/run",
        "Makefile",
    ],
)
def test_no_file_names_a_registry_or_a_place_on_one_machine(name: str) -> None:
    found = re.findall(
        r"\w+://\S+|--(?:extra-)?index-url\S*|(?<![\w.$}/])/(?:work|root|home|tmp|Users)/\S*", (ROOT / name).read_text()
    )
    assert found == []


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_everything_to_one_version(name: str) -> None:
    requirements = [line for line in LOCKS[name].read_text().splitlines() if line and not line.startswith("#")]
    assert len(requirements) > 3
    assert [line for line in requirements if not re.match(r"[a-z0-9._-]+==[\w.!+]+(\s+#|$)", line)] == []


def test_the_locks_agree() -> None:
    pins: dict[str, set[str]] = {}
    for path in LOCKS.values():
        for name, version in locked(path).items():
            pins.setdefault(name, set()).add(version)
    assert {name: versions for name, versions in pins.items() if len(versions) > 1} == {}, "run `make lock`"


@pytest.mark.parametrize("project", PROJECTS)
def test_the_lock_has_what_the_projects_ask_for(project: str) -> None:
    pins = locked(LOCKS[project])
    wanted = map(Requirement, tomllib.loads((ROOT / project / "pyproject.toml").read_text())["project"]["dependencies"])
    unmet = [str(each) for each in wanted if pins.get(canonicalize_name(each.name), "0") not in each.specifier]
    assert unmet == [], "run `make lock`"


def test_the_lock_has_what_the_tests_ask_for() -> None:
    lines = (line.split("#")[0].strip() for line in (ROOT / "requirements-dev.in").read_text().splitlines())
    assert {canonicalize_name(line) for line in lines if line} - locked(LOCKS["development"]).keys() == set(), (
        "run `make lock`"
    )


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_document_is_fresh(name: str) -> None:
    printed = subprocess.run([sys.executable, *GENERATED[name]], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (ROOT / name).read_text() == printed.stdout, "run `make generate`"


def test_make_alone_lists_every_target() -> None:
    # A make above this test (`make test`) must not hand its own flags down.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    listed = subprocess.run(["make"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^\.PHONY: (\S+)$", MAKEFILE, re.MULTILINE)
    assert "demo" in targets
    assert [target for target in targets if not re.search(rf"^  {target} +\S", listed, re.MULTILINE)] == []


def test_every_target_that_is_no_file_is_phony() -> None:
    targets = re.findall(r"^([a-z][\w-]*):(?!=)", MAKEFILE, re.MULTILINE)
    assert set(targets) == set(re.findall(r"^\.PHONY: (\S+)$", MAKEFILE, re.MULTILINE))


def test_the_documents_name_only_targets_that_there_are() -> None:
    pages = {page.name: page.read_text() for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))}
    code = {name: "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL)) for name, text in pages.items()}
    code[".ci/run"] = (ROOT / ".ci" / "run").read_text()
    call = re.compile(r"(?:^\s*|`|\$ )(?:stage \S+ )?make ([a-z][\w-]*)", re.MULTILINE)
    named = {(name, target) for name, text in code.items() for target in call.findall(text)}
    assert {("README.md", "demo"), (".ci/run", "test")} <= named
    assert [name for name in sorted(named) if f"\n.PHONY: {name[1]}\n" not in MAKEFILE] == []


@pytest.mark.parametrize(("folder", "longest"), [*((each, 300) for each in PROJECTS), ("tests", 400)])
def test_no_module_is_longer_than_a_person_reads_at_once(folder: str, longest: int) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert lengths
    assert {path.name: length for path, length in lengths.items() if length > longest} == {}


@pytest.mark.parametrize("project", PROJECTS)
def test_functions_are_read_on_one_screen(project: str) -> None:
    """None has more than 45 lines, and of ten, nine have 20 at most."""
    nodes = [node for path in (ROOT / project).rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = [(node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions]
    assert [(name, length) for name, length in lengths if length > 45] == []
    assert sum(length <= 20 for _, length in lengths) >= 0.9 * len(lengths)


def test_the_name_of_a_test_stands_alone() -> None:
    """Whoever reads it reads one line, of what has failed."""
    modules = (path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    names = [name for text in modules for name in re.findall(r"^ *(?:async )?def test_(\w+)", text, re.MULTILINE)]
    assert len(names) > 900
    assert [name for name in names if f"{name}_".startswith(tuple(f"{each}_" for each in LEANING))] == []
    assert [name for name in names if len(f"test_{name}") > 100] == []


@pytest.mark.parametrize("project", PROJECTS)
def test_no_folder_has_more_modules_than_a_person_sees_at_once(project: str) -> None:
    modules = Counter(path.parent for path in (ROOT / project).rglob("*.py") if path.name != "__init__.py")
    assert modules
    assert {folder.name: number for folder, number in modules.items() if number > 16} == {}


@pytest.mark.parametrize("project", PROJECTS)
def test_every_module_says_why_it_exists(project: str) -> None:
    modules = [path for path in (ROOT / project).rglob("*.py") if path.stat().st_size]
    assert [path.name for path in modules if not path.read_text().startswith('"""')] == []


@pytest.mark.parametrize("project", PROJECTS)
def test_what_a_constant_means_stands_under_it(project: str) -> None:
    """As a docstring, which editors show wherever the constant is used. Above it may stand the name of a section."""
    above = []
    for path in (ROOT / project).rglob("*.py"):
        text = path.read_text()
        lines = text.splitlines()
        constants = [each for each in ast.parse(text).body if isinstance(each, ast.Assign | ast.AnnAssign)]
        above += [
            f"{path.name}: {lines[each.lineno - 2]}" for each in constants if lines[each.lineno - 2].startswith("#")
        ]
    assert [each for each in above if ": # ──" not in each] == []


def test_the_contract_with_the_operator_needs_only_pydantic_and_yaml() -> None:
    folder = ROOT / "training" / "finetune_training" / "contract"
    modules = sorted(f"finetune_training.contract.{path.stem}" for path in folder.glob("[!_]*.py"))
    assert {"finetune_training.contract.spec", "finetune_training.contract.failure"} < set(modules)
    script = (
        "import sys; before = set(sys.modules)\n"
        f"import {', '.join(modules)}\n"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    pydantic_and_its_own = {"pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}
    loaded = {name for name in done.stdout.split() if not name.startswith(("_", "cython_"))}
    assert loaded == {"finetune_training", "yaml", *pydantic_and_its_own}
