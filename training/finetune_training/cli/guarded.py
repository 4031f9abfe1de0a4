"""How a command ends when it fails.

In: a command's work. Out: its exit code, and one clear message instead of a traceback. All that a user sees of `finetune`
goes through the consoles of show/terminal.py.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

import typer

from finetune_training.contract.failure import FinetuneError, classify
from finetune_training.show.terminal import show_failure


def guarded(command: Callable[[], None]) -> None:
    """Any failure becomes one clear message and its exit code."""
    try:
        command()
    except typer.Exit:
        raise
    except BrokenPipeError:  # `finetune validate job.yaml | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise typer.Exit(1) from None
    except (Exception, KeyboardInterrupt) as error:
        failure = classify(error)
        show_failure(failure, log=None)
        if not isinstance(error, FinetuneError | KeyboardInterrupt):
            traceback.print_exc()
        raise typer.Exit(failure.exit_code) from error
