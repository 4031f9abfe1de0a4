"""The data's part of a FineTuneJob: where the rows are, what they hold, and what of them is learnt.

In: plain values. Out: a frozen `DatasetSpec` of the `Job` in spec.py, under the same rules.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import Field, field_validator

from finetune_training.contract.record import Strict, Uri


class Format(StrEnum):
    """How a source's files are written."""

    AUTO = "Auto"
    JSONL = "JSONL"
    CSV = "CSV"
    PARQUET = "Parquet"
    ARROW = "Arrow"
    TEXT = "Text"


class SampleBy(StrEnum):
    """What one row of a text file is (the names of HF `datasets`)."""

    LINE = "Line"
    PARAGRAPH = "Paragraph"
    DOCUMENT = "Document"


class RowKind(StrEnum):
    """What one row holds."""

    AUTO = "Auto"
    MESSAGES = "Messages"
    PROMPT_COMPLETION = "PromptCompletion"
    TEXT = "Text"


class LossOn(StrEnum):
    """Which tokens are learnt."""

    ASSISTANT = "Assistant"
    COMPLETION = "Completion"
    ALL = "All"


class Source(Strict):
    """Files of one kind."""

    uri: Uri
    """A file or a glob: `data/*.jsonl`, `s3://bucket/plays/**/*.parquet`."""
    format: Format = Format.AUTO
    """Auto decides by the file name's ending (.jsonl, .json, .csv, .parquet, .arrow, .txt, .md)."""
    sample_by: SampleBy = SampleBy.LINE
    """For Text: what one row is. A Document longer than `maxLength` is cut into several samples; nothing is lost."""


class Validation(Strict):
    """The held-out rows: a share of the training sources, or sources of their own. Neither: no evaluation."""

    fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    """Share of the rows that is held out, chosen by a hash of each row's content: the same rows in every run, and never
    a row that also trains. Ignored when `uri` is set. 0: nothing is held out."""
    uri: str = Field(default="", max_length=2048)
    """A source of held-out rows."""
    format: Format = Format.AUTO
    """As in `dataset.train`."""
    sample_by: SampleBy = SampleBy.LINE
    """As in `dataset.train`."""


class Columns(Strict):
    """Names of the columns, where they differ from the usual ones."""

    messages: str = ""
    """Column with the list of messages."""
    prompt: str = ""
    """Column with the prompt."""
    completion: str = ""
    """Column with the completion."""
    text: str = ""
    """Column with the text."""
    system: str = ""
    """Column with a conversation's system prompt, where the list of messages has none. Empty: `system`."""
    tools: str = ""
    """Column with the tools that the template is given: a list, or JSON text of one. Empty: `tools`, or OpenAI's old
    `functions`."""


GIVEN_TO_TEMPLATES: Final = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
"""What every chat template is given with each conversation; rows say it, not the spec."""


class DatasetSpec(Strict):
    """The rows and what becomes of them."""

    train: Annotated[list[Source], Field(min_length=1, max_length=16)]
    """Where the training rows come from."""
    validation: Validation = Validation()
    """Where the held-out rows come from."""
    kind: RowKind = RowKind.AUTO
    """What a row holds. Auto looks at the columns: `messages` or ShareGPT's `conversations`; `prompt` and `completion`
    or Alpaca's `instruction` and `output`; `text`. Messages also takes the columns of PromptCompletion: they become two
    turns, as they do by themselves beside a column `system`, `history` or `tools`."""
    columns: Columns = Columns()
    """Names of the columns, where they differ."""
    chat_template: str = ""
    """Jinja template for Messages. Empty: the tokenizer's. Where TRL ships a training form of exactly this template, that
    form renders the rows; the artifact keeps the template itself."""
    chat_template_args: dict[str, Any] = Field(default={})
    """What the chat template asks for, by its own names, e.g. `enable_thinking: false`. Becomes a part of the artifact's
    template."""
    max_length: Annotated[int, Field(ge=16, le=1_048_576)] = 2048
    """Tokens in one packed sample. Longer rows are cut (Messages, PromptCompletion) or split (Text)."""
    packing: bool = True
    """Several rows in one sample, each blind to the others. Without it, each row is a sample of its own and padding is
    wasted work."""
    loss_on: LossOn = LossOn.ASSISTANT
    """Assistant: the assistant's turns (Messages), the completion (PromptCompletion), everything (Text). Completion:
    the last turn or the completion. All: every token."""

    @field_validator("chat_template_args")
    @classmethod
    def _names_that_are_free(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        for name in arguments:
            if not name.isidentifier() or name in GIVEN_TO_TEMPLATES:
                given = ", ".join(sorted(GIVEN_TO_TEMPLATES))
                raise ValueError(f"{name!r} is no name for an argument: a word that is none of {given}")
        return arguments
