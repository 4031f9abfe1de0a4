"""Lengths of documents → which documents share a sample. Pure.

In: lengths, in a fixed order, and a sample's capacity. Out: bins of document indices, by best-fit decreasing: the longest
document first, each into the fullest bin that still has room for it. Shakespeare's lines fill 512-token samples to more
than 99.9 % so; one line per padded sample fills 2 %. The result depends on the lengths and their order alone.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of indices into `lengths`. Every index is in exactly one bin; no bin's lengths add up to more than
    `capacity`, so no length may be larger."""
    bins: list[list[int]] = []
    by_room: dict[int, list[int]] = {}  # room left → bins that have it, the youngest last
    rooms: list[int] = []  # the keys of `by_room`, sorted: at most `capacity` of them, however many bins there are
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        place = bisect_left(rooms, length)
        if place < len(rooms):
            room = rooms[place]
            chosen = by_room[room].pop()
            if not by_room[room]:
                del by_room[room], rooms[place]
        else:
            room, chosen = capacity, len(bins)
            bins.append([])
        bins[chosen].append(index)
        left = room - length
        if left < 0:
            raise ValueError(f"a document of {length} tokens does not fit into a sample of {capacity}")
        if left in by_room:
            by_room[left].append(chosen)
        elif left:
            by_room[left] = [chosen]
            insort(rooms, left)
    return bins
