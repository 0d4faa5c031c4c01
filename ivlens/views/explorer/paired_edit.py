"""The edit of one prompt made in its partner too, which asks the same in other words."""

import re


def same_edit(before: str, after: str, partner: str) -> str | None:
    """The ``partner`` with the words that differ between ``before`` and ``after`` replaced where they last occur.

    None where they do not occur in it, or nothing was replaced.
    """
    start = _alike(before, after)
    rest = _alike(before[start:][::-1], after[start:][::-1])
    while start and before[start - 1].isalnum():  # whole words
        start -= 1
    while rest and before[-rest].isalnum():
        rest -= 1
    old, new = (text[start : len(text) - rest].strip() for text in (before, after))
    found = list(re.finditer(rf"(?<!\w){re.escape(old)}(?!\w)", partner)) if old and old != new else []
    return partner[: found[-1].start()] + new + partner[found[-1].end() :] if found else None


def _alike(one: str, other: str) -> int:
    """How many letters two texts have in common at their beginnings."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
