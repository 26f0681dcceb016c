"""Read a prompt from the argument, standard input or a file.

Standard input is read for `-`, and without a prompt if it is not a terminal; never otherwise, so
that a shell loop over lines keeps its input.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from gptcli.cli.render import console
from gptcli.core.errors import InputError, UsageError
from gptcli.core.escape import shown
from gptcli.core.files import decode_utf8
from gptcli.core.options import Argument, Option
from gptcli.generation.text_options import INPUT, AllowEmpty

MAX_BYTES = 1 << 20
_STDIN = "standard input"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptInput:
    """The options that give a prompt."""

    prompt: Annotated[
        str | None, Argument('Text to continue; "-" reads standard input.', metavar="PROMPT")
    ] = None
    prompt_file: Annotated[
        Path | None, Option("Read the prompt from a file.", INPUT, short="-f", metavar="FILE")
    ] = None
    prompt_ids: Annotated[
        str | None, Option("The prompt as token ids instead of text.", INPUT, metavar="IDS")
    ] = None
    allow_empty: AllowEmpty = False

    def read(self) -> str | tuple[int, ...]:
        """The prompt: text, or token ids where those were given.

        Raises:
            UsageError, InputError: as `read_prompt` and `parse_ids`; or two prompts are given.
        """
        if self.prompt_ids is None:
            return read_prompt(self.prompt, self.prompt_file, allow_empty=self.allow_empty)
        if self.prompt is not None or self.prompt_file is not None:
            other = "PROMPT" if self.prompt is not None else "`prompt_file`"
            raise UsageError("prompt_ids", f"cannot be used together with {other}")
        return parse_ids(self.prompt_ids, "prompt_ids")


def parse_ids(text: str, option: str) -> tuple[int, ...]:
    """Token ids separated by blanks, commas or lines, also in brackets: `1 2 3`, `[1, 2, 3]`.

    Raises:
        UsageError: there is no id, or something that is not one.
    """
    words = text.strip().removeprefix("[").removesuffix("]").replace(",", " ").split()
    for word in words:
        if not (word.isascii() and word.isdigit() and len(word) < 10):
            raise UsageError(
                option, f'"{shown(word, 60)}" is not a token id (expected a whole number)'
            )
    if not words:
        raise UsageError(option, "is empty (expected at least one token id)")
    return tuple(map(int, words))


def read_prompt(argument: str | None, file: Path | None, *, allow_empty: bool = False) -> str:
    """The prompt as text; one final newline of standard input or a file is dropped.

    Raises:
        UsageError: no prompt, two of them, or one that is empty, too long or not UTF-8.
        InputError: the file or standard input is too long, not UTF-8 or not readable.
    """
    if argument is not None and file is not None:
        raise UsageError("prompt_file", "cannot be used together with PROMPT")
    if file is not None:
        text = _from_file(file)
    elif argument is not None and argument != "-":
        text = argument_text(argument)
    elif argument == "-" or not console.is_terminal(sys.stdin):
        text = _from_stdin(asked=argument == "-")
    else:
        raise _no_prompt()
    if not text and not allow_empty:
        hint = "Give a text, or use `allow_empty` to begin at the end-of-text token"
        raise UsageError("PROMPT", "is empty", hint)
    return text


def notice_special(token: str, where: str = "prompt") -> None:
    """Print a notice that a prompt spells a special token, which is read as text."""
    console.notice(
        f"{shown(token)} in a {where} is read as ordinary text; --special reads it as a token"
    )


def argument_text(argument: str) -> str:
    """A text from the command line.

    Raises:
        UsageError: it is not UTF-8, or too long.
    """
    # The bytes that the shell passed, however Python decoded them in this locale.
    data = os.fsencode(argument)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{data[error.start]:02x} at {error.start}"
        raise UsageError("PROMPT", f"not UTF-8 ({byte})") from None
    if len(data) > MAX_BYTES:
        raise UsageError(
            "PROMPT", f"too long ({len(data):,} bytes, expected at most {MAX_BYTES:,})"
        )
    return text


def _from_file(path: Path) -> str:
    """The text of a file; a pipe is one too, as in `-f <(...)`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not a usable file name"
        raise InputError(shown(path), f"cannot read the prompt ({why})") from None
    return _text(data, shown(path))


def _from_stdin(*, asked: bool) -> str:
    if sys.stdin is None:
        if asked:
            raise InputError(_STDIN, "is closed")
        raise _no_prompt()
    try:
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(_STDIN, f"cannot be read ({error.strerror})") from None
    return _text(data, _STDIN)


def _text(data: bytes, where: str) -> str:
    if len(data) > MAX_BYTES:
        raise InputError(where, f"too long for a prompt (expected at most {MAX_BYTES:,} bytes)")
    text = decode_utf8(data, where)
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")


def _no_prompt() -> UsageError:
    return UsageError("PROMPT", "is missing", 'Try: gptcli generate "Once upon a time"')
