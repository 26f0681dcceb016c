"""Read training texts: plain or gzipped files with `<|endoftext|>` lines between documents."""

import gzip
import hashlib
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from gptcli.core.errors import InputError, UsageError
from gptcli.core.escape import shown
from gptcli.core.files import decode_utf8, read_bounded

SEPARATOR = "<|endoftext|>"
MAX_BYTES = 1 << 34
_GZIP = b"\x1f\x8b"
_SEPARATOR = re.compile(rf"(?m)^{re.escape(SEPARATOR)}$")  # in a longer line it is ordinary text

# Typographic characters → ASCII: one spelling each is easier to learn.
_FOLDED = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201a": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u201e": '"',
        "\u2013": "-",
        "\u2014": "--",
        "\u2026": "...",
        "\u00a0": " ",
    }
)


@dataclass(frozen=True, slots=True)
class TextSource:
    """One TEXT argument: a file and its weight, how often it is read relative to its size.

    `start` is the weight at the beginning of the training and `end` at its end; it changes
    linearly. With all weights 1, every token of all files is read equally often.
    """

    path: Path
    start: float = 1.0
    end: float = 1.0


def parse_source(argument: str) -> TextSource:
    """Parse `FILE`, `FILE@WEIGHT` or `FILE@START:END`; an existing file with an @ in its name wins.

    Raises:
        UsageError: a weight is not a number >= 0.
    """
    name, at, weights = argument.rpartition("@")
    if not at or Path(argument).exists():
        return TextSource(Path(argument))
    try:
        numbers = [float(part) for part in weights.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) not in {1, 2} or not all(0 <= number < 1e6 for number in numbers):
        expected = "expected FILE@WEIGHT or FILE@START:END with weights of 0 or more"
        raise UsageError("sources", f'"{shown(argument)}" ({expected})')
    return TextSource(Path(name), numbers[0], numbers[-1])


@dataclass(frozen=True, slots=True)
class Text:
    """The documents of a file, in order, and the sha256 of the file itself (gzipped or not)."""

    path: Path
    documents: tuple[str, ...]
    sha256: str

    @property
    def size(self) -> int:
        """UTF-8 bytes of the documents, without separators."""
        return sum(len(document.encode()) for document in self.documents)


def read_text(path: Path, *, fold_quotes: bool = False) -> Text:
    """All documents of a file; gzip is recognised by its first bytes, not by the file's name.

    Raises:
        InputError: not readable, not UTF-8, a damaged or truncated gzip, or without text.
    """
    data = read_bounded(path, MAX_BYTES)
    digest = hashlib.sha256(data).hexdigest()
    text = decode_utf8(_decompress(data, path), path)
    documents = split_documents(text, fold_quotes=fold_quotes)
    if not documents:
        raise InputError(shown(path), "has no text")
    return Text(path, documents, digest)


def split_documents(text: str, *, fold_quotes: bool = False) -> tuple[str, ...]:
    """Split a text at its `<|endoftext|>` lines; documents lose empty lines around them."""
    text = text.replace("\r\n", "\n")
    if fold_quotes:
        text = text.translate(_FOLDED)
    return tuple(piece for part in _SEPARATOR.split(text) if (piece := part.strip("\n")))


def _decompress(data: bytes, path: Path) -> bytes:
    if not data.startswith(_GZIP):
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        why = "ends early" if isinstance(error, EOFError) else "is damaged"
        raise InputError(shown(path), f"the gzip file {why}") from None


def split_validation(
    documents: tuple[str, ...], share: float
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Documents → those to train on and those to validate on, at least one of each.

    Held out are the documents with the lowest sha256, a choice that depends on the texts alone. Of
    a single document the end is held out, from a new line on if possible.
    """
    if len(documents) == 1:
        return _split_document(documents[0], share)
    count = min(max(1, round(share * len(documents))), len(documents) - 1)
    order = sorted(documents, key=lambda document: hashlib.sha256(document.encode()).digest())
    chosen = set(order[:count])  # a set, so that equal documents fall on the same side
    train = tuple(document for document in documents if document not in chosen)
    return train or documents, tuple(order[:count])


def _split_document(document: str, share: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    middle = max(1, int(len(document) * (1 - share)))
    line = document.rfind("\n", middle // 2, middle)
    at = line + 1 if line > 0 else middle
    return (document[:at],), (document[at:],)
