"""What the command line costs before it does anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from finetune_training.cli.main import _as_argument
from tests.cli import environment

EXAMPLE = Path(__file__).parents[4] / "examples" / "finetunejob.yaml"
HEAVY = ("torch", "ray", "deepspeed", "transformers", "datasets", "pyarrow", "matplotlib")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["schema"], ["validate", str(EXAMPLE)], ["run", "no-such-file.yaml"]],
    ids=" ".join,
)
def test_what_needs_no_model_and_no_cluster_imports_neither(arguments: list[str], tmp_path: Path) -> None:
    script = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('loaded', [name for name in {HEAVY} if name in sys.modules]))\n"
        "from finetune_training.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=tmp_path, env=environment(), capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "loaded []", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("question", "written"),
    [
        ("What is\n  Rust?", "'What is Rust?'"),
        ("Hello", "Hello"),
        ("it's $HOME", """'it'"'"'s $HOME'"""),
        ("--help me", "-- '--help me'"),
        ("word " * 30, f"'{' '.join(['word'] * 12)}'"),
        ("x" * 90, "x" * 60),
    ],
)
def test_a_question_is_suggested_as_a_shell_takes_it(question: str, written: str) -> None:
    assert _as_argument(question) == written
