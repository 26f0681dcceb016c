"""Suggest the nearest existing name for a misspelt one."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

_SEPARATORS = re.compile(r"[-_.\s]+")
_MIN_PART = 3  # letters of a part of a name that is looked for in other names
_MAX_WORD = 200  # letters that are compared
_TYPO = 0.9  # difflib's ratio of names of ten letters that differ by one more or one less


def nearest(word: str, names: Iterable[str], meant: Mapping[str, str] | None = None) -> str | None:
    """The name nearest to `word`, None if none is near. Case, dashes and underscores are ignored.

    In this order: a synonym in `meant` (other programs' name → ours), the same letters, a single
    typo, the shortest name that begins with the word, the shortest that contains it, a similar one.
    """
    by_letters = {_letters(name): name for name in sorted(names, key=len, reverse=True)}
    wanted = _letters(word[:_MAX_WORD])
    for other, name in (meant or {}).items():
        if _letters(other) == wanted and name in by_letters.values():
            return name
    if wanted in by_letters:
        return by_letters[wanted]
    if typo := get_close_matches(wanted, by_letters, n=1, cutoff=_TYPO):
        return by_letters[typo[0]]
    if len(wanted) >= _MIN_PART:
        beginning = [letters for letters in by_letters if letters.startswith(wanted)]
        holding = [letters for letters in by_letters if wanted in letters]
        if near := beginning or holding:
            return by_letters[min(near, key=len)]
    alike = get_close_matches(wanted, by_letters, n=1)
    return by_letters[alike[0]] if alike else None


def did_you_mean(name: str | None, quoted: str = '"{}"') -> str:
    """`Did you mean "name"?`; empty without a name."""
    return "" if name is None else f"Did you mean {quoted.format(name)}?"


def _letters(name: str) -> str:
    return _SEPARATORS.sub("", name.lower())
