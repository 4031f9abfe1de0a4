"""A run's losses → whether it still learns.

In: each step, and the scores on the held-out rows. Out: nothing, a warning, or a User error before anything of it is saved. What
is not finite never recovers. A run that diverges may also stay finite for ever: a model that knows no more than one that
guesses, with every token as likely as any other (loss ln V), for several steps, having known more before, has diverged too.
Seen are both: losses far above that, and a dead model, whose loss is ln V to the last digit.
"""

from __future__ import annotations

import math

from finetune_training.contract.failure import FinetuneError, user_error
from finetune_training.events.progress import Step, Warned
from finetune_training.events.result import Scores

_IN_A_ROW = 10
"""Steps: a spike or two, as of a batch of odd rows, is no divergence."""
_KNOWS, _KNOWS_NOTHING = 0.9, 0.98
"""Of the loss of guessing: with less than the one a model knows something, with more than the other nothing. One that has not
learnt yet is about there, on either side of guessing."""


class Divergence:
    """`vocabulary`: tokens that the model may say. `baseline`: the base model's scores, if it was evaluated. Every rank is given
    the same, so that every rank decides the same."""

    def __init__(self, vocabulary: int, baseline: Scores | None = None) -> None:
        self._guessing = math.log(vocabulary)
        self._better_once = baseline is not None and self._knows(baseline.loss)
        self._worse_since = 0

    @property
    def in_doubt(self) -> bool:
        """The last steps knew nothing any more: their checkpoints would push out those that did."""
        return self._better_once and self._worse_since > 0

    def check(self, step: Step) -> None:
        """Raises a User error: this step, or the last few, show that the run has diverged."""
        if not math.isfinite(step.loss):
            raise _not_finite(f"The loss of step {step.step} is {step.loss}.")
        if step.gradient_norm is not None and not math.isfinite(step.gradient_norm):
            raise _not_finite(f"The gradient of step {step.step} has norm {step.gradient_norm}.")
        self._better_once = self._better_once or self._knows(step.loss)
        if not self._knows_nothing(step.loss):
            self._worse_since = 0
            return
        self._worse_since = self._worse_since or step.step
        if self._better_once and step.step - self._worse_since + 1 >= _IN_A_ROW:
            raise self._diverged(f"Since step {self._worse_since} the loss", step.loss)

    def compare(self, base: Scores | None, tuned: Scores) -> Warned | None:
        """What is to be said of the trained model. Raises a User error: its loss is not finite, or it knows nothing and its base
        does."""
        if not math.isfinite(tuned.loss):
            raise _not_finite(f"The trained model's loss on the held-out rows is {tuned.loss}.")
        if base is None or tuned.loss <= base.loss:
            return None
        if self._knows(base.loss) and self._knows_nothing(tuned.loss):
            raise self._diverged("The trained model's loss on the held-out rows", tuned.loss)
        return Warned(
            f"On the held-out rows the trained model is worse than its base: loss {tuned.loss:.4g} against {base.loss:.4g}. "
            "Fewer steps, a lower learningRate, or rows that are more like the held-out ones may help; "
            "evaluation.everySteps shows where it turned."
        )

    def _knows(self, loss: float) -> bool:
        return loss < _KNOWS * self._guessing

    def _knows_nothing(self, loss: float) -> bool:
        return loss > _KNOWS_NOTHING * self._guessing

    def _diverged(self, what: str, loss: float) -> FinetuneError:
        return user_error(
            "LossDiverged",
            f"{what} is that of a model that knows nothing: {loss:.4g}, and guessing among all tokens has "
            f"{self._guessing:.4g}. The run has diverged, and no step mends that.",
            "Lower spec.training.learningRate, or warm up longer, and start anew (--fresh, or another metadata.name). "
            "`finetune checkpoints list` names what was saved before, if anything was.",
        )


def _not_finite(what: str) -> FinetuneError:
    return user_error(
        "LossNotFinite",
        what,
        "Lower spec.training.learningRate, or set spec.training.precision: FP32 to see whether BF16 is the cause.",
    )
