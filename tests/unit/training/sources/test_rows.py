"""What a row is wherever it stands, and lines that are none."""

from __future__ import annotations

import pytest

from finetune_training.contract.failure import FailureClass, FinetuneError
from finetune_training.sources.rows import Messages, PromptCompletion, Row, Text, identity, parse

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1', "f:3: not JSON: Expecting ',' delimiter, at column 8"),
        ("[1]", "f:3: a row should be a JSON object, but is a list"),
        ("[" * 100_000, "f:3: not JSON: nested too deeply"),
    ],
)
def test_broken_json_is_said_with_its_place(text: str, says: str) -> None:
    with pytest.raises(FinetuneError) as caught:
        parse(text, where="f:3")
    assert caught.value.failure.cls is FailureClass.DATA
    assert caught.value.failure.message.startswith(says)


def test_identity_depends_on_content_alone() -> None:
    same: list[Row] = [Text("a", "f:1"), Text("a", "g:2")]
    other: list[Row] = [
        Text("b", "f:1"),
        PromptCompletion("", "a", "f:1"),
        PromptCompletion("a", "", "f:1"),
        Messages(CHAT, "f:1"),
    ]
    assert len({identity(row) for row in same}) == 1
    assert len({identity(row) for row in [*same, *other]}) == 5
    reordered = Messages([dict(reversed(list(message.items()))) for message in CHAT], "f:1")
    assert identity(reordered) == identity(Messages(CHAT, "f:2"))


def test_identity_never_changes() -> None:
    """Shards and the choice of held-out rows hang on it: a new value is a new prepare.DATA_FORMAT."""
    assert identity(Text("To be", "")) == 6626981271089423070
    assert identity(Messages(CHAT, "")) == 10769828892899036032


def test_tools_and_what_is_not_learnt_are_content() -> None:
    plain = Messages(CHAT, "")
    others = [
        Messages(CHAT, "", (TOOL,)),
        Messages(CHAT, "", (TOOL, TOOL)),
        Messages(CHAT, "", unlearnt=frozenset({1})),
    ]
    assert plain.content == 'Messages\0[{"content": "q", "role": "user"}, {"content": "a", "role": "assistant"}]'
    assert len({identity(row) for row in [plain, *others]}) == 4
    assert all(row.content.startswith(plain.content) for row in others)


def test_half_a_surrogate_pair_is_a_data_error() -> None:
    with pytest.raises(FinetuneError, match="f:1: half of a surrogate pair"):
        identity(Text("\ud800", "f:1"))
