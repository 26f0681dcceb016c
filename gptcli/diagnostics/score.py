"""How well models predict texts: nats per token, perplexity and bits per byte, with errors.

A document is read from the beginning of text, and its end counts as a token, as in training; the
bytes are those of its UTF-8 alone. One longer than the context is read in windows that overlap, so
that each token is predicted once, by what stands before it.

Standard errors are those of a ratio of sums over documents (over the windows of a single one),
for the tokens of a document are no independent draws.

Shapes: N predicted tokens of a step, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gptcli.core.errors import InputError
from gptcli.core.escape import shown
from gptcli.engine.interface import Engine, Span
from gptcli.sampling.filters import Row
from gptcli.sampling.sampler import refuse_non_finite
from gptcli.tokenizer.tokenizer import Tokenizer

STEP = 256  # tokens computed at a time
_BLOCK = 8

Sums = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Text:
    """Documents to be scored together."""

    name: str
    documents: Sequence[str]


@dataclass(frozen=True, slots=True)
class Model:
    """What is scored."""

    name: str
    engine: Engine
    tokenizer: Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How texts are read.

    Attributes:
        length: tokens that the model sees at a time.
        stride: tokens that are predicted in each window of a long document but the first.
        ends: whether the end of a document counts as a token.
    """

    length: int
    stride: int
    ends: bool = True


@dataclass(frozen=True, slots=True)
class Comparison:
    """A model beside the first of several.

    Attributes:
        nats_per_token: the difference; None where the tokens are others.
        stderr: of that, from the paired differences.
        bits_per_byte: the difference.
        bits_per_byte_stderr: of that; None for a single document in other tokens.
        kl: mean Kullback-Leibler divergence of the next token's distribution from the first
            model's, in nats a token.
        same_choice: the share of places at which both models' likeliest token is the same.
    """

    nats_per_token: float | None
    stderr: float | None
    bits_per_byte: float
    bits_per_byte_stderr: float | None
    kl: float | None = None
    same_choice: float | None = None


@dataclass(slots=True)
class Score:
    """A text under a model.

    `document_nats` and `document_tokens` have one number for each document.
    """

    model: str
    text: str
    document_bytes: Sums
    document_nats: Sums
    document_tokens: Sums
    stderr: float | None
    comparison: Comparison | None = None

    @property
    def tokens(self) -> int:
        """Tokens that were predicted."""
        return int(self.document_tokens.sum())

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the documents."""
        return int(self.document_bytes.sum())

    @property
    def nats_per_token(self) -> float:
        """The mean surprise."""
        return float(self.document_nats.sum()) / self.tokens

    @property
    def perplexity(self) -> float:
        """The exponential of that; infinity past the largest float."""
        return math.exp(self.nats_per_token) if self.nats_per_token < 709 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers."""
        return float(self.document_nats.sum()) / math.log(2) / self.bytes


class Window(NamedTuple):
    """Ids that are read from an empty cache; the last ones predict the targets."""

    document: int
    ids: Sequence[int]
    targets: Sequence[int]


def score(
    text: Text,
    models: Sequence[Model],
    reading: Reading,
    progress: Callable[[float], object] = lambda _share: None,
) -> list[Score]:
    """A text under each model, in their order; all but the first compared with the first.

    Args:
        text: with at least one document.
        models: those whose tokens are the first one's are run beside it.
        reading: as long a window as every model has.
        progress: told the share that is done.

    Raises:
        InputError: there is nothing to predict.
        RunError: logits that are not finite.
    """
    beside = [n for n, model in enumerate(models) if has_same_tokens(model, models[0])]
    groups = [beside, *([n] for n in range(len(models)) if n not in beside)]
    tallies: dict[int, _Tally] = {}
    for done, group in enumerate(groups):

        def told(share: float, done: int = done) -> None:
            progress((done + share) / len(groups))

        found = _read(text, [models[n] for n in group], reading, told)
        tallies |= dict(zip(group, found, strict=True))
    sizes = np.array([len(document.encode()) for document in text.documents], np.float64)
    return [
        _score(text, model, tallies[n], sizes, tallies[0] if n else None)
        for n, model in enumerate(models)
    ]


def has_same_tokens(one: Model, other: Model) -> bool:
    """Whether two models read and predict the same ids."""
    a, b = one.tokenizer, other.tokenizer
    same = (a.n_vocab, a.eos_ids) == (b.n_vocab, b.eos_ids)
    return (
        same
        and one.engine.config.vocab_size == other.engine.config.vocab_size
        and (a is b or all(a.token_bytes(id) == b.token_bytes(id) for id in range(a.n_vocab)))
    )


def windows(text: Text, tokenizer: Tokenizer, reading: Reading) -> Iterator[Window]:
    """What is read of each document; each of its tokens is the target of one window."""
    end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    start = tokenizer.prompt("") or end
    for number, document in enumerate(text.documents):
        ids = tokenizer.encode(document, None)
        ids = [*start, *ids, *end] if reading.ends else [*start, *ids]
        stop = min(reading.length + 1, len(ids))
        if stop > 1:
            yield Window(number, ids[: stop - 1], ids[1:stop])
        while stop < len(ids):
            begin = stop - 1 - (reading.length - reading.stride)
            further = ids[stop : stop + reading.stride]
            stop += len(further)
            yield Window(number, ids[begin : stop - 1], further)


class _Piece(NamedTuple):
    """Part of a window that is computed in one step."""

    window: Window
    start: int
    stop: int

    @property
    def targets(self) -> Sequence[int]:
        """Of the last so many of its ids."""
        shift = len(self.window.ids) - len(self.window.targets)
        return self.window.targets[max(0, self.start - shift) : max(0, self.stop - shift)]


def _steps(windows: Iterator[Window]) -> Iterator[list[_Piece]]:
    """Pieces of together at most STEP tokens; no window is twice in one."""
    step: list[_Piece] = []
    room = STEP
    for window in windows:
        for start in range(0, len(window.ids), STEP):
            piece = _Piece(window, start, min(start + STEP, len(window.ids)))
            if piece.stop - start > room:
                yield step
                step, room = [], STEP
            step.append(piece)
            room -= piece.stop - start
    if step:
        yield step


@dataclass(slots=True)
class _Tally:
    """Sums of one model over each window."""

    documents: list[int] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    squares: float = 0.0
    apart_squares: float = 0.0  # of the differences from the first model
    divergence: float = 0.0
    same: int = 0

    def add(self, piece: _Piece, nats: Sums) -> None:
        """The nats of a piece's targets; its window goes on, or begins."""
        if piece.start == 0:
            self.documents.append(piece.window.document)
            self.nats.append(0.0)
            self.tokens.append(0)
        self.nats[-1] += float(nats.sum())
        self.tokens[-1] += len(nats)
        self.squares += float((nats**2).sum())

    def by_document(self, count: int) -> tuple[Sums, Sums]:
        """(count,) nats and tokens."""
        return _sums(self.documents, self.nats, count), _sums(self.documents, self.tokens, count)


class _Reader:
    """One model, reading steps."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cache: Any = None  # of the window whose pieces are in several steps

    def logits(self, step: Sequence[_Piece]) -> Row:
        """(N, V), for the targets of the pieces in order.

        Raises:
            RunError: they are not finite.
        """
        spans = []
        for piece in step:
            if piece.start == 0:
                self._cache = self._engine.new_cache(len(piece.window.ids))
            ids = piece.window.ids[piece.start : piece.stop]
            spans.append(Span(self._cache, ids, len(piece.targets)))
        logits = self._engine.step(spans)
        refuse_non_finite(logits, position=1)
        return logits


def _read(
    text: Text, models: Sequence[Model], reading: Reading, progress: Callable[[float], object]
) -> list[_Tally]:
    """Models of the same tokens, step by step beside one another."""
    tallies = [_Tally() for _ in models]
    readers = [_Reader(model.engine) for model in models]
    for step in _steps(windows(text, models[0].tokenizer, reading)):
        targets = np.array([id for piece in step for id in piece.targets], np.int64)
        first: tuple[_Predictions, Sums] | None = None
        for tally, reader in zip(tallies, readers, strict=True):
            found = _Predictions(reader.logits(step))
            nats, at = found.nats(targets), 0
            for piece in step:
                tally.add(piece, nats[at : at + len(piece.targets)])
                at += len(piece.targets)
            first = first or (found, nats)
            tally.apart_squares += float(((nats - first[1]) ** 2).sum())
            if found is not first[0]:
                tally.divergence += found.divergence_from(first[0])
                tally.same += int((found.best == first[0].best).sum())
        progress((step[-1].window.document + 1) / len(text.documents))
    return tallies


class _Predictions:
    """Distributions of the next token, from (N, V) logits."""

    def __init__(self, logits: Row) -> None:
        self.logits = logits
        self.best = logits.argmax(axis=1)
        self.log_total = np.empty(len(logits))  # of the sum of exponentials
        for block in self.blocks():
            top = logits[block].max(axis=1, keepdims=True)
            total = np.exp(logits[block] - top).sum(axis=1, dtype=np.float64)
            self.log_total[block] = top[:, 0] + np.log(total)

    def blocks(self) -> Iterator[slice]:
        """A few rows at a time, which stay in the processor's cache."""
        return (slice(at, at + _BLOCK) for at in range(0, len(self.logits), _BLOCK))

    def nats(self, targets: NDArray[np.int64]) -> Sums:
        """(N,) the surprise of each target."""
        return self.log_total - self.logits[np.arange(len(targets)), targets]

    def divergence_from(self, first: "_Predictions") -> float:
        """The sum over rows of the Kullback-Leibler divergence from another's distributions."""
        total = 0.0
        for block in self.blocks():
            p = np.exp(first.logits[block] - first.log_total[block, None].astype(np.float32))
            total += float(np.einsum("nv,nv->", p, first.logits[block] - self.logits[block]))
        return total + float((self.log_total - first.log_total).sum())


def _score(text: Text, model: Model, tally: _Tally, sizes: Sums, first: _Tally | None) -> Score:
    nats, tokens = tally.by_document(len(sizes))
    if not tokens.any():
        hint = "Give more text, or a tokenizer that has an end of text"
        raise InputError(shown(text.name), "has no token that another stands before", hint)
    found = Score(model.name, text.name, sizes, nats, tokens, _error(tally))
    if first is not None:
        found.comparison = _comparison(found, tally, first)
    return found


def _error(tally: _Tally) -> float | None:
    """The standard error of the nats per token."""
    return _ratio_error(*_units(tally, tally.nats), tally.squares)


def _comparison(found: Score, tally: _Tally, first: _Tally) -> Comparison:
    nats, _ = first.by_document(len(found.document_bytes))
    per_byte = 1 / math.log(2) / found.bytes
    apart = found.document_nats - nats
    bits = float(apart.sum()) * per_byte
    if tally.tokens != first.tokens or tally.documents != first.documents:
        error = _ratio_error(apart, found.document_bytes)
        return Comparison(None, None, bits, None if error is None else error / math.log(2))
    sums = [b - a for a, b in zip(first.nats, tally.nats, strict=True)]
    error = _ratio_error(*_units(tally, sums), tally.apart_squares)
    return Comparison(
        float(apart.sum()) / found.tokens,
        error,
        bits,
        None if error is None else error * found.tokens * per_byte,
        tally.divergence / found.tokens,
        tally.same / found.tokens,
    )


def _units(tally: _Tally, sums: Sequence[float]) -> tuple[Sums, Sums]:
    """Sums and counts of what is drawn independently: documents, or the windows of one."""
    if len(set(tally.documents)) < 2:
        return np.array(sums), np.array(tally.tokens, np.float64)
    places = np.unique(tally.documents, return_inverse=True)[1]
    return _sums(places, sums), _sums(places, tally.tokens)


def _sums(places: ArrayLike, values: ArrayLike, count: int = 0) -> Sums:
    return np.bincount(places, values, count).astype(np.float64)


def _ratio_error(sums: Sums, counts: Sums, squares: float | None = None) -> float | None:
    """The standard error of sum(sums) / sum(counts), over independent pairs.

    Of a single pair it is that of its terms, if the sum of their squares is known.
    """
    n, count = len(sums), float(counts.sum())
    mean = float(sums.sum()) / count
    if n > 1:
        return math.sqrt(n / (n - 1) * float(((sums - mean * counts) ** 2).sum())) / count
    if squares is None or count < 2:
        return None
    return math.sqrt(max(0.0, squares / count - mean**2) / (count - 1))
