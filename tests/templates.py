"""The chat templates that TRL ships, a tokenizer that knows their tokens, and a conversation of each shape.

In: nothing but the locked environment. Out: what the sweep of all templates is run on.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from finetune_training.chat.template import Message
from finetune_training.model.tokenizer import load_tokenizer
from finetune_training.sources.rows import Messages
from tests.tiny import write_tokenizer

_TOKENS = re.compile(
    r"<[|｜][^<>\n{}]+?[|｜]>|<(?:start|end)_of_turn>|<\|[a-z_]+>|<[a-z_]+\|>|<end_of_utterance>|\[gMASK\]|<sop>"
)

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells it.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def originals() -> dict[str, str]:
    """TRL's name of a template → its text, as models have it."""
    found = importlib.util.find_spec("trl")
    assert found is not None
    assert found.origin is not None
    paths = sorted((Path(found.origin).parent / "chat_templates").glob("*.jinja"))
    return {path.stem: path.read_text(encoding="utf-8") for path in paths if not path.stem.endswith("_training")}


def tokenizer_of_all(folder: Path) -> Any:
    """A tokenizer to which every template's tokens are special."""
    tokenizer = load_tokenizer(write_tokenizer(folder, chat_template=None), trust_remote_code=False)
    tokens = sorted({token for text in originals().values() for token in _TOKENS.findall(text)} | {"<s>", "</s>"})
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
    return tokenizer


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str, **fields: Any) -> Message:
    return {"role": "assistant", "content": content, **fields}


_CALL = {"type": "function", "id": "call00001", "function": {"name": "weather", "arguments": {"city": "Bergen"}}}
_RESULT = {"role": "tool", "name": "weather", "tool_call_id": "call00001", "content": "rain"}
SHAPES = {
    "one": Messages([_user("ask1"), _assistant("say1")], "one"),
    "several": Messages([_user("ask1"), _assistant("say1"), _user("ask2"), _assistant("say2")], "several"),
    "system": Messages([{"role": "system", "content": "rule"}, _user("ask1"), _assistant("say1")], "system"),
    "tools": Messages(
        [_user("ask1"), _assistant("", tool_calls=[_CALL]), _RESULT, _assistant("say2")], "tools", (TOOL,)
    ),
    "thoughts": Messages(
        [
            _user("ask1"),
            _assistant("say1", reasoning_content="muse1"),
            _user("ask2"),
            _assistant("say2", reasoning_content="muse2"),
        ],
        "thoughts",
    ),
    "inline": Messages(
        [
            _user("ask1"),
            _assistant("<think>\nmuse1\n</think>\n\nsay1"),
            _user("ask2"),
            _assistant("<think>\nmuse2\n</think>\n\nsay2"),
        ],
        "inline",
    ),
}
