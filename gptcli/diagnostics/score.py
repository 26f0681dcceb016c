"""Perplexity and bits per byte of texts, with standard errors.

A document is scored after the beginning-of-text token, and its end counts as a token, as in
training; bytes are those of its text in UTF-8. A document longer than the context is scored in
overlapping windows, so that each token is predicted once.

Standard errors are those of a ratio of sums over documents (of one document: over its windows),
since tokens of one document are not independent.

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

STEP = 256  # tokens of one engine step
_ROWS = 8  # of logits that stay in the processor's cache

Sums = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Text:
    """Documents that are scored together, as one file's."""

    name: str
    documents: Sequence[str]


@dataclass(frozen=True, slots=True)
class Model:
    """A model to score with, under the name to show."""

    name: str
    engine: Engine
    tokenizer: Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSpec:
    """How documents are cut into windows.

    Attributes:
        length: tokens of a window.
        stride: tokens that are predicted in each window of a long document but the first.
        count_end: whether the end of a document counts as a token.
    """

    length: int
    stride: int
    count_end: bool = True


@dataclass(frozen=True, slots=True)
class Comparison:
    """A model compared with the first one; the fields are keys of `gptcli score --json`.

    Attributes:
        nats_per_token: the difference; None if the models' tokens differ.
        stderr: its standard error, from paired differences.
        bits_per_byte: the difference.
        bits_per_byte_stderr: its standard error; None for a single document if tokens differ.
        kl: mean Kullback-Leibler divergence of the next token's distribution from the first
            model's, in nats per token; None if tokens differ, as is `same_choice`.
        same_choice: share of tokens for which both models' likeliest token is the same.
    """

    nats_per_token: float | None
    stderr: float | None
    bits_per_byte: float
    bits_per_byte_stderr: float | None
    kl: float | None = None
    same_choice: float | None = None


@dataclass(slots=True)
class Score:
    """A text's score under one model.

    Attributes:
        document_bytes: (documents,) sizes in UTF-8.
        document_nats: (documents,) sums of -log probability.
        document_tokens: (documents,) predicted tokens.
        stderr: standard error of `nats_per_token`; None where it cannot be estimated.
        comparison: with the first model; None for the first.
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
        """Predicted tokens of all documents."""
        return int(self.document_tokens.sum())

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of all documents."""
        return int(self.document_bytes.sum())

    @property
    def nats_per_token(self) -> float:
        """Mean of -log probability."""
        return float(self.document_nats.sum()) / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(nats_per_token); infinity past the largest float."""
        return math.exp(self.nats_per_token) if self.nats_per_token < 709 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Total nats in bits, per byte: comparable between tokenizers."""
        return float(self.document_nats.sum()) / math.log(2) / self.bytes


class Window(NamedTuple):
    """Input ids, and the targets that the last of them predict."""

    document: int
    ids: Sequence[int]
    targets: Sequence[int]


def score(
    text: Text,
    models: Sequence[Model],
    spec: WindowSpec,
    progress: Callable[[float], object] = lambda _share: None,
) -> list[Score]:
    """The score of a text under each model, in their order.

    Args:
        text: with at least one document.
        models: those with the tokens of the first are run in lockstep with it.
        spec: a window no longer than any model's context.
        progress: called with the share that is done.

    Raises:
        InputError: there is nothing to predict.
        RunError: logits that are not finite.
    """
    with_first = [n for n, model in enumerate(models) if has_same_tokens(model, models[0])]
    groups = [with_first, *([n] for n in range(len(models)) if n not in with_first)]
    tallies: dict[int, _Tally] = {}
    for done, group in enumerate(groups):

        def report(share: float, done: int = done) -> None:
            progress((done + share) / len(groups))

        counted = _tally(text, [models[n] for n in group], spec, report)
        tallies |= dict(zip(group, counted, strict=True))
    sizes = np.array([len(document.encode()) for document in text.documents], np.float64)
    return [
        _score(text, model, tallies[n], sizes, tallies[0] if n else None)
        for n, model in enumerate(models)
    ]


def has_same_tokens(one: Model, other: Model) -> bool:
    """Whether two models have the same ids for the same text."""
    a, b = one.tokenizer, other.tokenizer
    same = (a.n_vocab, a.eos_ids) == (b.n_vocab, b.eos_ids)
    return (
        same
        and one.engine.config.vocab_size == other.engine.config.vocab_size
        and (a is b or all(a.token_bytes(id) == b.token_bytes(id) for id in range(a.n_vocab)))
    )


def windows(text: Text, tokenizer: Tokenizer, spec: WindowSpec) -> Iterator[Window]:
    """The windows of each document; each of its tokens is the target of one window."""
    end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    start = tokenizer.encode_prompt("") or end
    for number, document in enumerate(text.documents):
        ids = tokenizer.encode(document, None)
        ids = [*start, *ids, *end] if spec.count_end else [*start, *ids]
        stop = min(spec.length + 1, len(ids))
        if stop > 1:
            yield Window(number, ids[: stop - 1], ids[1:stop])
        while stop < len(ids):
            begin = stop - 1 - (spec.length - spec.stride)
            targets = ids[stop : stop + spec.stride]
            stop += len(targets)
            yield Window(number, ids[begin : stop - 1], targets)


class _Chunk(NamedTuple):
    """The ids of a window from `start` to `stop`, which are computed in one step."""

    window: Window
    start: int
    stop: int

    @property
    def targets(self) -> Sequence[int]:
        """The targets of the last of its ids; the ids before them are context alone."""
        shift = len(self.window.ids) - len(self.window.targets)
        return self.window.targets[max(0, self.start - shift) : max(0, self.stop - shift)]


def _steps(windows: Iterator[Window]) -> Iterator[list[_Chunk]]:
    """Chunks of at most STEP tokens together; no step has two chunks of one window."""
    step: list[_Chunk] = []
    room = STEP
    for window in windows:
        for start in range(0, len(window.ids), STEP):
            chunk = _Chunk(window, start, min(start + STEP, len(window.ids)))
            if chunk.stop - start > room:
                yield step
                step, room = [], STEP
            step.append(chunk)
            room -= chunk.stop - start
    if step:
        yield step


@dataclass(slots=True)
class _Tally:
    """Sums of one model; `documents`, `nats` and `tokens` have an entry for each window."""

    documents: list[int] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    squared_nats: float = 0.0
    squared_differences: float = 0.0  # of each token's nats from the first model's
    kl: float = 0.0
    same_choice: int = 0

    def add(self, chunk: _Chunk, nats: Sums) -> None:
        """Count the nats of a chunk's targets."""
        if chunk.start == 0:
            self.documents.append(chunk.window.document)
            self.nats.append(0.0)
            self.tokens.append(0)
        self.nats[-1] += float(nats.sum())
        self.tokens[-1] += len(nats)
        self.squared_nats += float((nats**2).sum())

    def by_document(self, count: int) -> tuple[Sums, Sums]:
        """(count,) nats and (count,) tokens."""
        return (
            _group_sums(self.documents, self.nats, count),
            _group_sums(self.documents, self.tokens, count),
        )


class _Prefill:
    """Computes the logits of one model's steps."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cache: Any = None  # of a window that goes on in the next step

    def logits(self, step: Sequence[_Chunk]) -> Row:
        """(N, V) for the targets of the chunks in order.

        Raises:
            RunError: they are not finite.
        """
        spans = []
        for chunk in step:
            if chunk.start == 0:
                self._cache = self._engine.new_cache(len(chunk.window.ids))
            ids = chunk.window.ids[chunk.start : chunk.stop]
            spans.append(Span(self._cache, ids, len(chunk.targets)))
        logits = self._engine.step(spans)
        refuse_non_finite(logits, position=1)
        return logits


def _tally(
    text: Text, models: Sequence[Model], spec: WindowSpec, progress: Callable[[float], object]
) -> list[_Tally]:
    """Run models of the same tokens in lockstep, so that two models' logits can be compared."""
    tallies = [_Tally() for _ in models]
    prefills = [_Prefill(model.engine) for model in models]
    for step in _steps(windows(text, models[0].tokenizer, spec)):
        targets = np.array([id for chunk in step for id in chunk.targets], np.int64)
        first: tuple[_Predictions, Sums] | None = None
        for tally, prefill in zip(tallies, prefills, strict=True):
            predictions = _Predictions(prefill.logits(step))
            nats, start = predictions.nats(targets), 0
            for chunk in step:
                tally.add(chunk, nats[start : start + len(chunk.targets)])
                start += len(chunk.targets)
            if first is None:
                first = predictions, nats
                continue
            first_predictions, first_nats = first
            tally.squared_differences += float(((nats - first_nats) ** 2).sum())
            tally.kl += predictions.kl_from(first_predictions)
            tally.same_choice += int((predictions.best == first_predictions.best).sum())
        progress((step[-1].window.document + 1) / len(text.documents))
    return tallies


class _Predictions:
    """Distributions of the next token, from (N, V) logits.

    Attributes:
        best: (N,) the likeliest token of each.
        log_normalizers: (N,) the log of each row's sum of exp(logit).
    """

    def __init__(self, logits: Row) -> None:
        self.logits = logits
        self.best = logits.argmax(axis=1)
        self.log_normalizers = np.empty(len(logits))
        for rows in self._blocks():
            top = logits[rows].max(axis=1, keepdims=True)
            total = np.exp(logits[rows] - top).sum(axis=1, dtype=np.float64)
            self.log_normalizers[rows] = top[:, 0] + np.log(total)

    def _blocks(self) -> Iterator[slice]:
        return (slice(start, start + _ROWS) for start in range(0, len(self.logits), _ROWS))

    def nats(self, targets: NDArray[np.int64]) -> Sums:
        """(N,) targets → (N,) -log probability of each."""
        return self.log_normalizers - self.logits[np.arange(len(targets)), targets]

    def kl_from(self, first: "_Predictions") -> float:
        """The Kullback-Leibler divergence from another model's distributions, summed over rows."""
        total = 0.0
        for rows in self._blocks():
            log_p = first.logits[rows] - first.log_normalizers[rows, None].astype(np.float32)
            difference = first.logits[rows] - self.logits[rows]
            total += float(np.einsum("nv,nv->", np.exp(log_p), difference))
        return total + float((self.log_normalizers - first.log_normalizers).sum())


def _score(text: Text, model: Model, tally: _Tally, sizes: Sums, first: _Tally | None) -> Score:
    nats, tokens = tally.by_document(len(sizes))
    if not tokens.any():
        hint = "Give more text, or a tokenizer that has an end of text"
        raise InputError(
            shown(text.name), "has no token that could be predicted from one before it", hint
        )
    error = _ratio_error(*_independent_sums(tally, tally.nats), tally.squared_nats)
    found = Score(model.name, text.name, sizes, nats, tokens, error)
    if first is not None:
        found.comparison = _comparison(found, tally, first)
    return found


def _comparison(found: Score, tally: _Tally, first: _Tally) -> Comparison:
    first_nats, _ = first.by_document(len(found.document_bytes))
    per_byte = 1 / math.log(2) / found.bytes
    differences = found.document_nats - first_nats
    bits = float(differences.sum()) * per_byte
    if tally.tokens != first.tokens or tally.documents != first.documents:
        error = _ratio_error(differences, found.document_bytes)
        return Comparison(None, None, bits, None if error is None else error / math.log(2))
    by_window = [b - a for a, b in zip(first.nats, tally.nats, strict=True)]
    error = _ratio_error(*_independent_sums(tally, by_window), tally.squared_differences)
    return Comparison(
        float(differences.sum()) / found.tokens,
        error,
        bits,
        None if error is None else error * found.tokens * per_byte,
        tally.kl / found.tokens,
        tally.same_choice / found.tokens,
    )


def _independent_sums(tally: _Tally, by_window: Sequence[float]) -> tuple[Sums, Sums]:
    """Sums and token counts of the independent parts: documents, or the windows of a single one."""
    if len(set(tally.documents)) < 2:
        return np.array(by_window), np.array(tally.tokens, np.float64)
    documents = np.unique(tally.documents, return_inverse=True)[1]
    return _group_sums(documents, by_window), _group_sums(documents, tally.tokens)


def _group_sums(groups: ArrayLike, values: ArrayLike, count: int = 0) -> Sums:
    """Sums of the values of each group, numbered from 0; at least `count` groups."""
    return np.bincount(groups, values, count).astype(np.float64)


def _ratio_error(sums: Sums, counts: Sums, squares: float | None = None) -> float | None:
    """The standard error of the ratio estimator sum(sums) / sum(counts) over independent pairs.

    For a single pair: the standard error of the mean of its terms, if their `squares` are given.
    """
    n, count = len(sums), float(counts.sum())
    mean = float(sums.sum()) / count
    if n > 1:
        return math.sqrt(n / (n - 1) * float(((sums - mean * counts) ** 2).sum())) / count
    if squares is None or count < 2:
        return None
    return math.sqrt(max(0.0, squares / count - mean**2) / (count - 1))
