"""What is wrong with one record of a batch, in a code for programs and a sentence for people."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NoReturn

from gptcli.core.escape import described, shown


class BadRecordError(Exception):
    """One record cannot be answered; the others can."""

    def __init__(self, code: str, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(message)


def refuse_type(name: str, expected: str, value: object) -> NoReturn:
    """`name: expected text, got a list`."""
    raise BadRecordError("wrong_type", f"{name}: expected {expected}, got {described(value)}")


def refuse_unknown(request: Mapping[str, Any], known: tuple[str, ...], where: str = "") -> None:
    """Name the first field that means nothing, and the nearest that does."""
    for name in request:
        if name not in known:
            near = get_close_matches(name[:100].lower(), known, n=1)
            meant = f' (did you mean "{near[0]}"?)' if near else ""
            raise BadRecordError(
                "unknown_field", f'unknown field "{where}{shown(name, 60)}"{meant}'
            )


def require_unicode(name: str, text: str) -> None:
    r"""Refuse what JSON's \ud800 leaves: half a character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"a lone surrogate, U+{ord(text[error.start]):04X} at character {error.start + 1:,}"
        raise BadRecordError("not_unicode", f"{name}: not valid Unicode ({found})") from None
