"""Constrained decoding: a mask of the tokens that a grammar allows next.

The grammar is a JSON schema, a regular expression, a list of choices or a Lark grammar;
`llguidance` compiles it and computes the masks. A mask depends only on the grammar, the vocabulary
and the sequence's new tokens.
"""

import importlib
import json
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gptcli.core.errors import RunError, UsageError
from gptcli.core.escape import described, shown
from gptcli.sampling.params import Constraint
from gptcli.sampling.processors import TextError

# JSON with the spaces of Python's json.dumps. If any whitespace were allowed, a small model would
# generate whitespace without end.
_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_NO_FORCING = '%llguidance {"no_forcing": true}\n'
_REGEX_PROBLEM = re.compile(r"regex parse error:\n(?P<lines>.*)\nerror: (?P<problem>[^\n]*)", re.S)
_LARK_PROBLEM = re.compile(r"(?:at )?(?P<line>\d+)\((?P<column>\d+)\): (?P<problem>[^\n]*)")


class ConstraintError(TextError):
    """A constraint too complex for llguidance's limits: the sequence cannot go on."""

    code = "constraint_failed"


class Vocabulary(Hashable, Protocol):
    """What a constraint needs of a tokenizer."""

    @property
    def n_vocab(self) -> int:
        """The vocabulary size: ids from here on have no token."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """The end-of-text tokens."""

    @property
    def special_tokens(self) -> Sequence[str]:
        """Names of the special tokens."""

    def id_of(self, token: str) -> int | None:
        """The id of a special token; None if there is none."""

    def token_bytes(self, id: int) -> bytes:
        """The bytes that a token stands for."""

    def encode(self, text: str) -> list[int]:
        """Text → ids."""


class Matcher:
    """The state of a constraint after the new tokens of one sequence.

    Each call gets all new tokens so far; where they do not continue those of the last call (after a
    restart, or rejected draft tokens) the state is rolled back.
    """

    def __init__(self, compiled: Any, n_vocab: int) -> None:
        """`compiled` is an `llguidance.LLMatcher` that has consumed nothing."""
        self._compiled, self._n_vocab = compiled, n_vocab
        self._consumed: list[int] = []

    def allowed(self, ids: Sequence[int]) -> NDArray[np.bool_]:
        """New tokens so far → (V,) whether each token may follow.

        An end-of-text token may where the text is complete; no token may where `must_end`.

        Raises:
            ConstraintError: the grammar is too complex, or the vocabulary cannot spell it.
        """
        self._follow(ids)
        bits = np.frombuffer(self._compiled.compute_bitmask(), np.uint8)
        self._refuse_error()
        return np.unpackbits(bits, count=self._n_vocab, bitorder="little").view(np.bool_)

    def must_end(self, ids: Sequence[int]) -> bool:
        """Whether the text is complete and nothing may follow."""
        self._follow(ids)
        return bool(self._compiled.is_stopped())

    def is_complete(self, ids: Sequence[int]) -> bool:
        """Whether the text may end here."""
        self._follow(ids)
        return bool(self._compiled.is_accepting())

    def possible(self, ids: Sequence[int], draft: Sequence[int]) -> int:
        """How many of the draft tokens, from the first, the grammar allows."""
        self._follow(ids)
        return int(self._compiled.validate_tokens(list(draft)))

    def _follow(self, ids: Sequence[int]) -> None:
        ids = list(ids)
        if ids[: len(self._consumed)] != self._consumed:
            pairs = zip(ids, self._consumed, strict=False)
            common = next((i for i, (a, b) in enumerate(pairs) if a != b), len(ids))
            self._compiled.rollback(len(self._consumed) - common)
            del self._consumed[common:]
        new = ids[len(self._consumed) :]
        if new and not self._compiled.consume_tokens(new):
            self._refuse_error()
        self._consumed += new

    def _refuse_error(self) -> None:
        if self._compiled.is_error():
            found = shown(self._compiled.get_error().partition("\n")[0], 200)
            if found.startswith("NoExtension"):
                found = "no token of this vocabulary spells what must follow"
            raise ConstraintError("constraint", f"the text cannot go on ({found})")


@lru_cache(maxsize=1024)
def check_compiles(constraint: Constraint) -> None:
    """Refuse a constraint that does not compile.

    Raises:
        UsageError: it does not; says where, by JSON pointer, character, or line and column.
        RunError: llguidance is not installed.
    """
    kind, source = constraint
    for text in source if kind == "choices" else (source,):
        _check_text(kind, text)
    schema = _schema(str(source)) if kind == "json_schema" else {}
    if (problem := _problem(_grammar(constraint))) is None:
        return
    place = _pointer(schema, problem) if kind == "json_schema" else ""
    if kind == "grammar" and (found := _LARK_PROBLEM.match(problem)):
        place = f"line {found['line']}, column {found['column']}"
        problem = found["problem"] if "regex parse error" not in problem else problem
    message = f"{place}: {_one_line(problem)}" if place else _one_line(problem)
    raise UsageError(kind, f"cannot be compiled ({shown(message, 300)})")


def matcher(constraint: Constraint | None, vocabulary: Vocabulary) -> Matcher | None:
    """A new matcher for one sequence; None without a constraint.

    Raises:
        RunError: llguidance is not installed, or the grammar is too large.
    """
    if constraint is None:
        return None
    return Matcher(_compiled(constraint, vocabulary).deep_copy(), vocabulary.n_vocab)


@lru_cache(maxsize=256)
def _compiled(constraint: Constraint, vocabulary: Vocabulary) -> Any:
    trie, has_all_bytes = _trie(vocabulary)
    grammar = _grammar(constraint) if has_all_bytes else _unforced(_grammar(constraint))
    compiled = _llguidance().LLMatcher(trie, grammar, log_level=0)
    if compiled.is_error():
        problem = compiled.get_error().partition("\n")[0]
        raise ConstraintError(constraint.kind, f"cannot be compiled ({shown(problem, 200)})")
    return compiled


def _check_text(kind: str, text: object) -> None:
    if not isinstance(text, str):
        raise UsageError(kind, f"must be a text, got {described(text)}")
    if kind == "choices" and not text:
        raise UsageError(kind, "must not be empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"U+{ord(text[error.start]):04X} at character {error.start + 1:,}"
        raise UsageError(kind, f"is not valid Unicode (a lone surrogate, {found})") from None


def _schema(text: str) -> dict[str, object]:
    try:
        schema = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UsageError("json_schema", f"is not JSON ({place}: {error.msg})") from None
    except RecursionError:
        raise UsageError("json_schema", "is nested too deeply") from None
    if not isinstance(schema, dict):
        raise UsageError("json_schema", f"must be a JSON object, got {described(schema)}")
    return schema


def _grammar(constraint: Constraint) -> str:
    """The constraint in llguidance's own grammar format."""
    compiler = _llguidance().LLMatcher
    source = constraint.source
    if constraint.kind == "json_schema":
        return str(compiler.grammar_from_json_schema(source, defaults=_JSON_STYLE))
    if constraint.kind == "grammar":
        return str(compiler.grammar_from_lark(source))
    if constraint.kind == "choices":
        source = "|".join("".join(map(_escaped, choice)) for choice in source)
    return str(compiler.grammar_from_regex(source))


def _escaped(character: str) -> str:
    """A regular expression that matches this character."""
    return character if character.isalnum() else f"\\x{{{ord(character):x}}}"


def _problem(grammar: str) -> str | None:
    is_error, messages = _llguidance().LLMatcher.validate_grammar_with_warnings(grammar)
    return str(messages[0]) if is_error else None


def _one_line(problem: str) -> str:
    """The position and the message of a regular expression's multi-line error."""
    found = _REGEX_PROBLEM.search(problem)
    if found is None:
        return " ".join(problem.split())
    carets = [line.index("^") for line in found["lines"].split("\n") if "^" in line]
    place = f"character {carets[-1] - 3}: " if carets else ""  # the expression is indented by 4
    return place + found["problem"]


def _pointer(schema: dict[str, object], problem: str) -> str:
    """JSON pointer of the innermost part that has this problem; "" is the whole schema."""
    shared = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    place = ""
    for pointer, part in _parts(schema, ""):
        grammar = _grammar(Constraint("json_schema", json.dumps({**part, **shared})))
        if len(pointer) > len(place) and _problem(grammar) == problem:
            place = pointer
    return place


def _parts(value: object, pointer: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The objects in a JSON value, with their JSON pointers."""
    if isinstance(value, Mapping):
        if pointer:
            yield pointer, value
        for name, part in value.items():
            yield from _parts(part, f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}")
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _parts(part, f"{pointer}/{index}")


class _Tokens:
    """A vocabulary with the interface that llguidance expects."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.bos_token_id = None
        self.tokens = [vocabulary.token_bytes(id) for id in range(vocabulary.n_vocab)]
        empty = {id for id, data in enumerate(self.tokens) if data in {b"", b"\xef\xbf\xbd"}}
        ends = sorted(vocabulary.eos_ids)
        if not ends:  # llguidance needs one: an id past the vocabulary
            ends = [len(self.tokens)]
            self.tokens.append(b"<end>")
        self.eos_token_id, self.ends = ends[0], ends
        ids = map(vocabulary.id_of, vocabulary.special_tokens)
        special = [id for id in ids if id is not None]
        self.special_token_ids = sorted({*empty, *ends, *special})
        self._encode = vocabulary.encode
        ordinary = set(range(len(self.tokens))).difference(self.special_token_ids)
        self._byte_ids = {self.tokens[id]: id for id in ordinary if len(self.tokens[id]) == 1}
        self.has_all_bytes = len(self._byte_ids) == 256

    def __call__(self, data: bytes) -> list[int]:
        """Tokenize text that the grammar forces."""
        ids = self._encode(data.decode(errors="replace"))
        if b"".join(self.tokens[id] for id in ids if id < len(self.tokens)) == data:
            return ids
        return [self._byte_ids[byte] for n in data if (byte := bytes([n])) in self._byte_ids]


@lru_cache(maxsize=4)
def _trie(vocabulary: Vocabulary) -> tuple[Any, bool]:
    """The tokenizer for llguidance (0.2 s for 50,000 tokens), and whether it has all 256 bytes."""
    tokens = _Tokens(vocabulary)
    wrapper = _llguidance().TokenizerWrapper(tokens)
    return _llguidance().LLTokenizer(wrapper, eos_token=tokens.ends), tokens.has_all_bytes


def _unforced(grammar: str) -> str:
    """The grammar without forced tokens.

    Tokens of WordPiece and Unigram imply a blank or not, so that forced text may have no tokens.
    """
    (found,) = json.loads(grammar)["grammars"]
    rules = found.get("lark_grammar") or "start: %json " + json.dumps(found["json_schema"])
    return str(_llguidance().LLMatcher.grammar_from_lark(_NO_FORCING + rules))


@cache
def _llguidance() -> Any:
    try:
        return importlib.import_module("llguidance")
    except ImportError:
        hint = "Run \"pip install 'gptcli[constrain]'\""
        raise RunError(
            "constrained output", "needs llguidance, which is not installed", hint
        ) from None
