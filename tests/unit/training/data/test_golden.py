"""What is learnt of a row with the most used model families, as golden/ has it: whole texts, to be read by a person.

In: families.py, and rows as people have them in files. Out: a file per family: each row as the tokenizer's tokens say it, what is
learnt between ⟦ and ⟧, ⏎ where a line ends; or why the row is refused. Write golden/ anew, to be read as a diff:
FINETUNE_GOLDEN=write pytest tests/unit/training/data/test_golden.py
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import chat_template_utils

from finetune_training.chat.habits import end_of_turn, ends_of_turns, habits_of, thoughts_of
from finetune_training.chat.template import template_of
from finetune_training.contract.dataset import Columns, LossOn, RowKind
from finetune_training.contract.failure import FinetuneError
from finetune_training.data.notices import notices
from finetune_training.data.render import Document, Options, Outcome, render
from finetune_training.data.shards import IGNORE
from finetune_training.predict.prompts import encode
from finetune_training.sources.columns import detect
from finetune_training.sources.conversion import convert
from finetune_training.sources.rows import Messages, Row
from tests.templates import TOOL
from tests.unit.training.data.families import FAMILIES, FOLDER, Family, tokenizer_of

GOLDEN = FOLDER / "golden"
_EARLIER = [{"role": "user", "content": "What is the sky like?"}, {"role": "assistant", "content": "It is blue."}]
_LATER = [{"role": "user", "content": "And the sea?"}, {"role": "assistant", "content": "The sea is green."}]
_RULE = {"role": "system", "content": "Say what is true."}
_CALL = {
    "id": "call12345",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Bergen"}'},
}
_TOOLS = [
    {"role": "user", "content": "What is the weather like in Bergen?"},
    {"role": "assistant", "content": None, "tool_calls": [_CALL]},
    {"role": "tool", "tool_call_id": "call12345", "name": "weather", "content": "rain"},
    {"role": "assistant", "content": "Rain falls in Bergen."},
]


def _thinking(message: dict[str, Any], thought: str) -> dict[str, Any]:
    return {**message, "reasoning_content": thought}


def _inline(message: dict[str, Any], thought: str) -> dict[str, Any]:
    return {**message, "content": f"<think>\n{thought}\n</think>\n\n{message['content']}"}


_ONE_THOUGHT = [_EARLIER[0], _thinking(_EARLIER[1], "Look up.")]
_THOUGHTS = [*_ONE_THOUGHT, _LATER[0], _thinking(_LATER[1], "Look down.")]
_INLINE = [_EARLIER[0], _inline(_EARLIER[1], "Look up."), _LATER[0], _inline(_LATER[1], "Look down.")]
SHAPES: dict[str, dict[str, Any]] = {
    "one turn": {"messages": _EARLIER},
    "several turns with a system prompt": {"messages": [_RULE, *_EARLIER, *_LATER]},
    "the first answer has weight 0": {"messages": [_EARLIER[0], {**_EARLIER[1], "weight": 0}, *_LATER]},
    "a tool's call, its result, an answer": {"messages": _TOOLS, "tools": [TOOL]},
    "a turn with thoughts (reasoning_content)": {"messages": _ONE_THOUGHT},
    "several turns with thoughts (reasoning_content)": {"messages": _THOUGHTS},
    "several turns with thoughts (<think> in content)": {"messages": _INLINE},
    "a prompt and its completion": {"prompt": "What is the sky like?", "completion": " It is blue."},
    "a text": {"text": "The sky is blue.\nThe sea is green."},
}
CONVERSATIONS = [name for name, row in SHAPES.items() if "messages" in row]
IN_PARTS = [
    "several turns with a system prompt",
    "the first answer has weight 0",
    "several turns with thoughts (reasoning_content)",
]
"""Also with the other values of lossOn."""


class Frozen(datetime.datetime):
    """A day on which golden files are written."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Frozen:
        return cls(2026, 1, 31, tzinfo=tz)


@pytest.fixture(autouse=True)
def _frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template_utils, "datetime", Frozen)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def tokenizer(family: str, tmp_path: Path) -> Any:
    return tokenizer_of(FAMILIES[family], tmp_path)


def test_what_is_learnt_is_what_was_read_and_found_good(family: str, tokenizer: Any) -> None:
    text = "\n".join([*_head(FAMILIES[family], tokenizer), *_sections(tokenizer)])
    path = GOLDEN / f"{family}.txt"
    if os.environ.get("FINETUNE_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


def test_there_is_no_golden_file_of_a_family_that_is_no_more() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == FAMILIES.keys()


def row_of(shape: str) -> Row:
    columns = SHAPES[shape]
    found = convert(columns, detect(columns, kind=RowKind.AUTO, named=Columns(), where="row"), where="row")
    assert found is not None
    return found


def outcome_of(shape: str, tokenizer: Any, loss_on: LossOn = LossOn.ASSISTANT) -> Outcome:
    return render([row_of(shape)], tokenizer, Options(4096, loss_on))[0]


def test_what_is_learnt_is_the_assistants_turn_and_nothing_around_it(family: str, tokenizer: Any) -> None:
    """Read from the files: no header, nothing that others said, one end, and the begin token not twice."""
    _, *sections = (GOLDEN / f"{family}.txt").read_text(encoding="utf-8").split("──── ")
    begin = FAMILIES[family].begin
    ends = {tokenizer.convert_ids_to_tokens(end) for end in ends_of_turns(tokenizer)} | {tokenizer.eos_token}
    header = habits_of(template_of(tokenizer, training=False)).header.strip() if tokenizer.chat_template else ""
    for section in sections:
        shape, _, text = section.replace("⏎\n", "\n").partition("\n")
        assert not begin or begin * 2 not in text, shape
        if "lossOn: All" in shape or shape == "a text" or text.startswith("refused"):
            continue
        runs = re.findall(r"⟦(.*?)⟧", text, re.DOTALL)
        assert runs, shape
        for run in runs:
            said = re.sub("|".join(re.escape(end) for end in ends), "", run)
            assert not any(words in run for words in ("like?", "And the sea?", "Say what", "rain\n")), (shape, run)
            assert not (header and run.lstrip().startswith(header)), (shape, run)  # gpt-oss writes it after a thought
            assert sum(run.count(end) for end in ends) <= 1, (shape, run)
            assert said.strip(), shape


def _head(family: Family, tokenizer: Any) -> list[str]:
    end = end_of_turn(tokenizer)
    ends = "none" if end is None else tokenizer.convert_ids_to_tokens(end)
    special = " ".join(dict.fromkeys([*tokenizer.all_special_tokens, *family.special]))
    return [f"begin {family.begin or 'none'}   end {family.end}   end of turn {ends}", f"special: {special}", ""]


def _sections(tokenizer: Any) -> Iterator[str]:
    for shape in SHAPES:
        usual = _told(shape, tokenizer, LossOn.ASSISTANT)
        yield from (f"──── {shape}", usual, "")
        for loss_on in (LossOn.COMPLETION, LossOn.ALL) if shape in IN_PARTS else ():
            other = _told(shape, tokenizer, loss_on)
            if other != usual:
                yield from (f"──── {shape}, lossOn: {loss_on}", other, "")


def _told(shape: str, tokenizer: Any, loss_on: LossOn) -> str:
    try:
        outcome = outcome_of(shape, tokenizer, loss_on)
    except FinetuneError as error:
        failure = error.failure
        return f"refused, {failure.reason}: {failure.message}\n{failure.remedy}"
    lost = "".join(f"warned: the chat template leaves out {what}\n" for what in outcome.lost)
    return lost + "".join(shown(document, tokenizer) for document in outcome.documents)


def shown(document: Document, tokenizer: Any) -> str:
    """The document as text, from its tokens."""
    pairs = zip(document.input_ids, document.labels, strict=True)
    text = ""
    for is_learnt, run in groupby(pairs, key=lambda pair: pair[1] != IGNORE):
        said = _text([token for token, _ in run], tokenizer)
        text += f"⟦{said}⟧" if is_learnt else said
    return text.replace("\n", "⏎\n")


def _text(ids: list[int], tokenizer: Any) -> str:
    """A decoder drops the blank that begins a text: not of what is the middle of one."""
    if tokenizer.backend_tokenizer.normalizer is None:
        return str(tokenizer.decode(ids, skip_special_tokens=False))
    pieces = "".join(tokenizer.convert_ids_to_tokens(ids)).replace("▁", " ")
    return re.sub(r"<0x([0-9A-F]{2})>", lambda found: chr(int(found[1], 16)), pieces)


def _learnt_runs(document: Document) -> list[tuple[int, int]]:
    """Where learning begins and stops, in tokens."""
    places = [place for place, label in enumerate(document.labels) if label != IGNORE]
    begins = [place for place in places if place - 1 not in places]
    return [(begin, next(stop for stop in range(begin, begin + 4096) if stop not in places)) for begin in begins]


def _trained(tokenizer: Any, loss_on: LossOn = LossOn.ASSISTANT) -> Iterator[tuple[str, Messages, Document]]:
    """The conversations that are not refused."""
    for shape in CONVERSATIONS:
        row = row_of(shape)
        assert isinstance(row, Messages)
        try:
            [document] = outcome_of(shape, tokenizer, loss_on).documents
        except FinetuneError:
            continue
        yield shape, row, document


def test_what_ends_a_turn_in_training_ends_an_answer(family: str, tokenizer: Any) -> None:
    for shape, row, document in _trained(tokenizer):
        last = [document.input_ids[stop - 1] for _, stop in _learnt_runs(document)]
        assert last[-1] == end_of_turn(tokenizer), shape
        if row.tools:
            assert set(last) == set(ends_of_turns(tokenizer)), shape
        elif family == "gpt_oss":  # into earlier turns it writes an end at which nobody stops: it is not learnt
            assert set(tokenizer.all_special_ids).isdisjoint(last[:-1]), shape
        else:
            assert set(last) == {end_of_turn(tokenizer)}, shape


def test_a_prompt_has_the_tokens_that_training_gave_it(family: str, tokenizer: Any) -> None:
    for shape, row, document in _trained(tokenizer):
        first = next(place for place, message in enumerate(row.messages) if message["role"] == "assistant")
        _check_prompt(tokenizer, row, first, document.input_ids[: document.prompt], f"{family}, {shape}")
    for shape, row, document in _trained(tokenizer, LossOn.COMPLETION):
        [(begin, _)] = _learnt_runs(document)
        _check_prompt(tokenizer, row, len(row.messages) - 1, document.input_ids[:begin], f"{family}, {shape}")


def _check_prompt(tokenizer: Any, row: Messages, until: int, trained: list[int], named: str) -> None:
    asked = encode(tokenizer, Messages(row.messages[:until], "row", row.tools), chat=True)
    if named.startswith(
        "mistral, several turns with a system"
    ):  # it writes the system prompt only where an answer is asked
        assert "leaves out messages of system" in _told(named.partition(", ")[2], tokenizer, LossOn.ASSISTANT)
        return
    opens = habits_of(template_of(tokenizer, training=False)).opens_thoughts
    if opens and "leaves out the assistant's thoughts" in _told(named.partition(", ")[2], tokenizer, LossOn.ASSISTANT):
        return  # of earlier turns, as TRL's form does
    if opens and not thoughts_of(row.messages[until])[0]:
        [_] = [
            said for said in notices([row], tokenizer, Options(4096, LossOn.ASSISTANT)) if "begins a thought" in said
        ]
        return
    assert trained == asked, named
