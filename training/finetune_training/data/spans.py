"""Where the assistant's turns are in a conversation's text, of a template that does not mark them. Pure.

In: a `Conversation` and its text. Out: a character span per turn. The last turn is what the whole has after the prompt. For
the earlier ones the words of all turns are changed at once, and what stays is what the template writes between them: so two
renderings more do for a conversation of any length, and it does not matter that templates leave out what was thought in
earlier turns. Only where that is in the text in several ways, or in none, is each turn looked for alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from finetune_training.chat.habits import Habits, common
from finetune_training.chat.template import Span
from finetune_training.data.turns import Conversation

_STAND_IN = "finetuneturn{}q"
"""The changed words of the turn at a place. Letters and digits only: templates strip, quote and escape all else."""


def find_turns(conversation: Conversation, places: Sequence[int], text: str) -> dict[int, Span | None]:
    """Where the turns of the messages at `places` are in the conversation's text; None: it cannot be told."""
    last = len(conversation.messages) - 1
    found = {place: _by_prefix(conversation, place, text) for place in places if place == last}
    sought = [place for place in places if found.get(place) is None]
    found |= _by_change(conversation, sought, text)
    for place in (place for place in sought if found.get(place) is None):
        alone = None if place == last else _by_prefix(conversation, place, text)
        found[place] = alone or _by_change(conversation, [place], text).get(place)
    return {place: found[place] for place in places}


def _by_prefix(conversation: Conversation, place: int, text: str) -> Span | None:
    before = conversation.tried(place, asks=True)
    last = place == len(conversation.messages) - 1
    through = text if last else conversation.tried(place + 1)
    if before is None or through is None or not text.startswith(through):
        return None
    stated = before.removesuffix(conversation.habits.header)
    starts = [before, *(stated + header for header in conversation.habits.headers)]
    return next(((len(start), len(through)) for start in starts if through.startswith(start)), None)


def _by_change(conversation: Conversation, places: Sequence[int], text: str) -> dict[int, Span]:
    """The spans of those turns that can be changed and told. Empty: the text around them is not the same any more, or the turns
    quote it."""
    places, gaps = _gaps(conversation, places) if places else ((), [])
    begins = _aligned(gaps, text)
    if not begins:
        return {}
    starts = [_start(text, begin, gap, conversation.habits) for begin, gap in zip(begins[:-1], gaps[:-1], strict=True)]
    return dict(zip(places, zip(starts, begins[1:], strict=True), strict=True))


def _start(text: str, begin: int, gap: str, habits: Habits) -> int:
    """Where the turn after a gap starts: the prompt may go on where the shorter header ends, and begin a thought."""
    start, shorter = begin + len(gap), habits.headers[-1]
    longer = habits.header.removeprefix(shorter)
    return start + len(longer) if gap.endswith(shorter) and text.startswith(longer, start) else start


def _gaps(conversation: Conversation, places: Sequence[int]) -> tuple[Sequence[int], list[str]]:
    """The turns that can be changed, and what stays around them, from where one has ended to where the next one begins: one
    text more than there are turns."""
    pieces = _pieces(conversation, places)
    begins = [_begin(before, conversation, place) for place, before in zip(places, pieces[:-1], strict=bool(pieces))]
    ends = [_end(after, conversation, place) for place, after in zip(places, pieces[1:], strict=bool(pieces))]
    clear = [place for place, *cuts in zip(places, begins, ends, strict=False) if None not in cuts]
    if len(clear) < len(begins):
        return _gaps(conversation, clear) if clear else ((), [])
    cuts = zip([0, *ends], [*begins, None], strict=True)
    return places, [piece[start:stop] for piece, (start, stop) in zip(pieces, cuts, strict=False)]


def _pieces(conversation: Conversation, places: Sequence[int]) -> list[str]:
    """The text around the stand-ins; empty: they are not there once each."""
    changed = conversation
    for place in places:
        change = changed.calling if changed.calls(place) else changed.saying
        changed = change(place, _STAND_IN.format(place))
    rest = changed.tried() or ""
    if any(rest.count(_STAND_IN.format(place)) != 1 for place in places):
        return []
    pieces = []
    for place in places:
        piece, _, rest = rest.partition(_STAND_IN.format(place))
        pieces.append(piece)
    return [*pieces, rest]


def _begin(piece: str, conversation: Conversation, place: int) -> int | None:
    """Where the turn begins in what comes before its words: after the last header, the shorter one, or before it where the prompt
    does not write it after a tool's result. Where there is none: before the call, or the words."""
    habits = conversation.habits
    header = habits.headers[-1]
    found = piece.rfind(header) + len(header)
    if header and found >= len(header) and not any(end in piece[found:] for end in habits.ends):
        resumed = [before["role"] for before in conversation.messages[:place][-1:]] == ["tool"]
        return found - len(header) if resumed and not habits.calls.resumes else found
    if conversation.calls(place):
        alone = len(conversation.messages[place]["tool_calls"]) == 1 and habits.calls.lead
        return piece.rfind(habits.calls.lead) if alone and habits.calls.lead in piece else None
    if header:
        return len(piece) if conversation.template.special_before(piece) else None
    return len(piece.removesuffix(habits.lead))


def _end(piece: str, conversation: Conversation, place: int) -> int | None:
    """How much of what follows a turn's words belongs to the turn: what follows them where a conversation ends."""
    habits = conversation.habits
    if conversation.calls(place):
        end = habits.calls.end
        return piece.index(end) + len(end) if end and end in piece else None
    same = common(piece, habits.after)
    if same == len(habits.after) or conversation.template.ends(habits.after[:same]):
        return same
    token = conversation.template.special_at(piece)
    return len(piece) - len(piece.lstrip()) + len(token) if token else None


def _aligned(gaps: Sequence[str], text: str) -> list[int]:
    """Where each of the gaps begins, the first at the text's beginning and the last at its end. Empty: nowhere, or in more
    ways than one, as when a turn quotes what the template writes: then the first ways from either end differ."""
    if not gaps or not text.startswith(gaps[0]) or not text.endswith(gaps[-1]):
        return []
    first, last = len(gaps[0]), len(text) - len(gaps[-1])
    from_left: list[int] = []
    from_right: list[int] = []
    at, until = first, last
    for gap in gaps[1:-1]:
        from_left.append(text.find(gap, at, last))
        at = from_left[-1] + len(gap)
    for gap in gaps[-2:0:-1]:
        until = text.rfind(gap, first, until)
        from_right.insert(0, until)
    told = from_left == from_right and -1 not in from_left and at <= last
    return [0, *from_left, last] if told else []
