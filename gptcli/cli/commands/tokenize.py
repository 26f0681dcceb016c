"""`gptcli tokenize`: text to tokens and back. Never imports torch."""

import codecs
import sys
from collections.abc import Iterable, Iterator
from itertools import cycle
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

from gptcli.cli.command import CommandFunction, Only
from gptcli.cli.model_loading import find_model
from gptcli.cli.options import OUTPUT, Json, Quiet
from gptcli.cli.prompt_input import argument_text, notice_special, parse_ids
from gptcli.cli.render import console
from gptcli.core.errors import InputError, UsageError
from gptcli.core.escape import shown
from gptcli.core.options import Argument, Option
from gptcli.core.units import plural
from gptcli.generation.model_spec import ModelSpec
from gptcli.generation.text_options import INPUT, Special

if TYPE_CHECKING:
    from gptcli.checkpoint.resolve import Target
    from gptcli.tokenizer.tokenizer import Tokenizer

SCHEMA = "gptcli.tokenize/1"
_CHUNK = 1 << 18  # bytes
_STDIN = "standard input"
_STYLES = ("black on green", "black on yellow", "black on cyan", "black on magenta")


@CommandFunction
def tokenize(
    model: Annotated[ModelSpec, Only("model", "config", "weights", "offline")],
    text: Annotated[
        str | None, Argument('Text to tokenize; "-" reads standard input.', metavar="TEXT")
    ] = None,
    file: Annotated[
        Path | None, Option("Read the text from a file.", INPUT, short="-f", metavar="FILE")
    ] = None,
    special: Special = False,
    count: Annotated[
        bool, Option("Print only the number of tokens; for texts of any size.", OUTPUT)
    ] = False,
    decode: Annotated[
        str | None,
        Option(
            'Print the text of token ids; "-" reads them from standard input.',
            INPUT,
            metavar="IDS",
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the tokens of a text, count them, or turn ids back into text.

    The text is the argument, a file or standard input; no newline is dropped. The ids are those of
    a prompt, with the beginning-of-text token if the tokenizer adds one. In a pipe they are one
    line.
    """
    console.Settings.quiet = quiet
    if decode is not None:
        _refuse_beside_decode(text=text, file=file, count=count, special=special)
        typed = "".join(_pieces(None)) if decode == "-" else decode
        _show_decoded(model, parse_ids(typed, "decode"), json=json)
        return
    if text is not None and file is not None:
        raise UsageError("file", "cannot be used together with TEXT")
    target = find_model(model, need_weights=False)
    tokenizer = _tokenizer(model, target)
    given = _pieces(file) if text is None or text == "-" else [argument_text(text)]
    read = _CountedText(given, keep=json)
    pieces = read if special else _with_notice(read, tokenizer)
    encoded = tokenizer.encode_stream(pieces, special=special)
    if json:
        _print_json(target.name, tokenizer, read, encoded, count=count)
    elif count:
        sys.stdout.write(f"{sum(map(len, encoded))}\n")
    elif console.is_terminal(sys.stdout):
        _show_pieces(tokenizer, _flat(encoded))
    else:
        _print_ids(encoded)


class _CountedText:
    """Pieces of text, counted while they are iterated over.

    Attributes:
        bytes, characters: of the pieces so far.
        text: the pieces so far, with `keep`.
    """

    def __init__(self, pieces: Iterable[str], *, keep: bool) -> None:
        self._pieces, self._keep = pieces, keep
        self.bytes = self.characters = 0
        self._kept: list[str] = []

    def __iter__(self) -> Iterator[str]:
        for piece in self._pieces:
            self.bytes += len(piece.encode(errors="replace"))
            self.characters += len(piece)
            if self._keep:
                self._kept.append(piece)
            yield piece

    @property
    def text(self) -> str:
        return "".join(self._kept)


def _refuse_beside_decode(**others: object) -> None:
    for name, given in others.items():
        if given not in {None, False}:
            other = "TEXT" if name == "text" else f"`{name}`"
            raise UsageError("decode", f"cannot be used together with {other}")


def _tokenizer(model: ModelSpec, target: "Target") -> "Tokenizer":
    """The target's tokenizer; for weights without a config, that of their directory."""
    from gptcli.tokenizer.tokenizer import load_tokenizer

    config = target.config
    tokenizer = load_tokenizer(
        config.tokenizer if config else None,
        target.directory,
        vocab_size=config.vocab_size if config else None,
        offline=model.offline,
    )
    for line in tokenizer.notices:
        console.notice(line)
    return tokenizer


def _pieces(file: Path | None) -> Iterator[str]:
    """The text of a file, a pipe or, for None, standard input, without a byte-order mark.

    Raises:
        UsageError: standard input is a terminal.
        InputError: it cannot be read, or is not UTF-8.
    """
    if file is None:
        if sys.stdin is None or console.is_terminal(sys.stdin):
            raise UsageError("TEXT", "is missing", 'Try: gptcli tokenize "Once upon a time"')
        yield from _decoded(sys.stdin.buffer, _STDIN)
        return
    try:
        opened = file.open("rb")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not a usable file name"
        raise InputError(shown(file), f"cannot be read ({why})") from None
    with opened:
        yield from _decoded(opened, shown(file))


def _decoded(stream: IO[bytes], where: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    at = 0
    while True:
        try:
            data = stream.read(_CHUNK)
        except OSError as error:
            raise InputError(where, f"cannot be read ({error.strerror})") from None
        before = len(decoder.getstate()[0])  # bytes of an unfinished character
        try:
            yield decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            byte, place = error.object[error.start], at - before + error.start
            raise InputError(where, f"not UTF-8 (byte 0x{byte:02x} at {place:,})") from None
        if not data:
            return
        at += len(data)


def _with_notice(pieces: Iterable[str], tokenizer: "Tokenizer") -> Iterator[str]:
    """The same pieces; prints a notice if they spell a special token, which is read as text."""
    longest = max(map(len, tokenizer.special_tokens), default=0)
    tail, spelled = "", None
    for piece in pieces:
        if longest and spelled is None and (spelled := tokenizer.find_special_token(tail + piece)):
            notice_special(spelled, "text")
        tail = (tail + piece)[-longest:]
        yield piece


def _flat(encoded: Iterable[list[int]]) -> list[int]:
    return [id for ids in encoded for id in ids]


def _print_ids(encoded: Iterable[list[int]]) -> None:
    """Print the ids on one line, as they come."""
    between = ""
    for ids in filter(None, encoded):
        sys.stdout.write(between + " ".join(map(str, ids)))
        between = " "
    sys.stdout.write("\n")


def _show_pieces(tokenizer: "Tokenizer", ids: list[int]) -> None:
    """Print the tokens in alternating colours, or separated by bars, then their ids."""
    output = console.Output(colored=True)
    between = "" if console.wants_color(sys.stdout) else "|"
    for line in ([_text(tokenizer, id) for id in ids], [f" {id} " for id in ids]):
        for number, (text, style) in enumerate(zip(line, cycle(_STYLES), strict=False)):
            output.write(between if number else "")
            output.write(text, style)
        output.end()
    console.notice(f"{plural(len(ids), 'token')} of {tokenizer.name}")


def _print_json(
    name: str,
    tokenizer: "Tokenizer",
    read: _CountedText,
    encoded: Iterable[list[int]],
    *,
    count: bool,
) -> None:
    document = {"schema": SCHEMA, "model": name, "tokenizer": tokenizer.name}
    if count:
        tokens = sum(map(len, encoded))
        sizes = {"tokens": tokens, "bytes": read.bytes, "characters": read.characters}
        console.print_json({**document, **sizes})
        return
    ids = _flat(encoded)
    sizes = {"tokens": len(ids), "bytes": read.bytes, "characters": read.characters}
    pieces = [
        {"id": id, "text": _text(tokenizer, id), "bytes": tokenizer.token_bytes(id).hex()}
        for id in ids
    ]
    console.print_json({**document, **sizes, "text": read.text, "ids": ids, "pieces": pieces})


def _show_decoded(model: ModelSpec, ids: tuple[int, ...], *, json: bool) -> None:
    target = find_model(model, need_weights=False)
    tokenizer = _tokenizer(model, target)
    tokenizer.require_known(ids, "decode")
    text = tokenizer.decode(ids)
    if json:
        document = {"schema": SCHEMA, "model": target.name, "tokenizer": tokenizer.name}
        console.print_json({**document, "tokens": len(ids), "ids": ids, "text": text})
        return
    output = console.Output()
    output.write(text)
    output.end()


def _text(tokenizer: "Tokenizer", id: int) -> str:
    r"""A token's text; bytes that are not whole characters as `\xe2`."""
    return tokenizer.token_bytes(id).decode("utf-8", errors="backslashreplace")
