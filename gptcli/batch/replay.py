"""Run a recorded job again, and report the first token of each record that differs.

Of a record that differs, the first differing token is named with its margin: for greedy texts how
much greater its logit is than the recorded token's; for drawn ones how far, in probability, the
draw was from giving the recorded token.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from gptcli.batch.io.lines import made_line
from gptcli.batch.job import JobSpec
from gptcli.batch.request import Failure, Record, parse
from gptcli.batch.result_lines import Answer, RecordedAnswer, Sample, render
from gptcli.batch.runner import RecordStream
from gptcli.batch.worker import Answerer
from gptcli.core.errors import InputError
from gptcli.engine.interface import Engine, Span
from gptcli.generation.sequence import Sequence as Text
from gptcli.sampling import sampler
from gptcli.sampling.filters import Row
from gptcli.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Choice:
    """One of two tokens; `id` is None for the end of the text."""

    id: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a record departs from what was recorded.

    Attributes:
        sample: which text of the record; None where the records differ in another way.
        token: which new token, from 1.
        recorded, now: the two candidates; `recorded` is None if no token fits the recorded text.
        margin: between the two, a logit or a probability (see `unit`); None without a candidate.
    """

    line: int
    what: str
    sample: int | None = None
    token: int | None = None
    recorded: Choice | None = None
    now: Choice | None = None
    margin: float | None = None
    unit: str = "logit"


class Pair(NamedTuple):
    """A recorded line and the request it answers."""

    done: RecordedAnswer
    record: Record | Failure


def replay(pairs: Iterable[Pair], answerer: Answerer, engine: Engine) -> Iterator[Difference]:
    """Answer every request again; the differences come in the order of the lines."""
    done: dict[int, RecordedAnswer] = {}
    found: list[Difference] = []

    def records() -> Iterator[Record | Failure | None]:
        for pair in pairs:
            done[pair.record.line] = pair.done
            yield pair.record

    def compare(result: Answer | Failure) -> None:
        line = result.line if isinstance(result, Failure) else result.record.line
        recorded = done.pop(line)
        if render(result, answerer.spec) != recorded.data:
            found.append(_difference(recorded, result, answerer, engine))

    answerer.run(records(), compare)
    yield from sorted(found, key=lambda difference: difference.line)


def pairs_of(
    done: Iterable[RecordedAnswer],
    records: RecordStream,
    wanted: frozenset[int],
    name: str,
) -> Iterator[Pair]:
    """Recorded lines with the requests that an input has for them; `wanted` empty is all.

    Raises:
        InputError: the input is another.
        RunError: it cannot be read to its end.
    """
    for result in done:
        record = next((r for r in records if r is not None), None)
        if record is None:
            records.check()  # an input that ends early is not another one
        if record is None or record.line != result.line or record.sha256 != result.sha256:
            raise InputError(name, f"line {result.line} of the input is not the one answered here")
        if not wanted or result.line in wanted:
            yield Pair(result, record)


def echoed(done: Iterable[RecordedAnswer], spec: JobSpec, wanted: frozenset[int]) -> Iterator[Pair]:
    """Recorded lines with the requests that the output keeps; failed ones have none."""
    spec = replace(spec, form="json", column=None)
    for result in done:
        if result.is_ok and (not wanted or result.line in wanted):
            line = made_line(result.line, json.dumps(result.value["request"]).encode())
            yield Pair(result, replace(parse(line, spec), sha256=result.sha256))


def _difference(
    recorded: RecordedAnswer, result: Answer | Failure, answerer: Answerer, engine: Engine
) -> Difference:
    line = recorded.line
    if isinstance(result, Failure) or not recorded.is_ok:
        now_is = f"error {result.code}" if isinstance(result, Failure) else "ok"
        was = "ok" if recorded.is_ok else f"error {recorded.value.get('error')}"
        return Difference(line, f"recorded {was}, now {now_is}")
    for number, (old, new) in enumerate(
        zip(_samples(recorded.value, result), result.samples, strict=False)
    ):
        at, recorded_id = _first_difference(old, new, answerer.tokenizer, result.prompt_ids)
        if at is not None:
            text = list(answerer.texts(result.record, result.prompt_ids))[number]
            text.ids.extend(new.ids[:at])
            logits, tokenizer = _logits(text, engine), answerer.tokenizer
            now = new.ids[at] if at < len(new.ids) else tokenizer.eos_id
            if recorded_id is None:
                recorded_id = _recorded_id(old, text, logits, now, tokenizer)
            return _compared(line, text, logits, (recorded_id, now), tokenizer)
    return Difference(line, "the texts are equal, the records are not")


def _samples(value: Mapping[str, Any], result: Answer) -> list[dict[str, Any]]:
    """The recorded texts, in our form whatever the record's."""
    if result.record.openai is None:
        return list(value.get("samples") or [value])
    echoed = len(result.prompt) if result.record.openai["echo"] else 0
    choices = value["response"]["body"]["choices"]
    return [{"completion": choice["text"][echoed:]} for choice in choices]


def _first_difference(
    old: Mapping[str, Any], new: Sample, tokenizer: Tokenizer, prompt: Sequence[int]
) -> tuple[int | None, int | None]:
    """Position and recorded id of the first new token that differs; None, None without one.

    Without recorded ids the text decides, so the position may be late where tokens are parts of
    one character, and the id is not known yet.
    """
    ids: Sequence[int] | None = old.get("ids")
    if ids is not None:
        at = next((i for i, (a, b) in enumerate(zip(ids, new.ids, strict=False)) if a != b), None)
        if at is None and len(ids) != len(new.ids):
            at = min(len(ids), len(new.ids))
        return at, None if at is None or at >= len(ids) else ids[at]
    text, decoder, written = str(old["completion"]), tokenizer.decoder(prompt), ""
    if text == new.text:
        return None, None
    for at, id in enumerate(new.ids):
        written += decoder.feed(id)
        if not text.startswith(written):
            return at, None
    return len(new.ids), None


def _recorded_id(
    old: Mapping[str, Any],
    text: Text,
    logits: Row,
    now: int | None,
    tokenizer: Tokenizer,
) -> int | None:
    """The recorded token where its id was not: the end of the text, or the likeliest that fits."""
    if old.get("ids") is not None:
        return tokenizer.eos_id
    rest = str(old["completion"]).removeprefix(tokenizer.decode(text.ids, text.prompt))
    return _likeliest(rest, logits, now, tokenizer) if rest else tokenizer.eos_id


def _compared(
    line: int,
    text: Text,
    logits: Row,
    ids: tuple[int | None, int | None],
    tokenizer: Tokenizer,
) -> Difference:
    """Two candidates for the next token of `text`: the recorded one, and what it is now."""
    recorded, now = ids
    margin, unit = None, "logit"
    if recorded is not None and now is not None and recorded != now:
        margin, unit = _margin(text, logits, recorded, now)
    return Difference(
        line,
        "another token",
        sample=text.sample,
        token=len(text.ids) + 1,
        recorded=_choice(recorded, tokenizer),
        now=_choice(now, tokenizer),
        margin=margin,
        unit=unit,
    )


def _logits(text: Text, engine: Engine) -> Row:
    """(n_vocab,): of what follows the text, as it was drawn from before the temperature."""
    ids = [*text.prompt, *text.ids][-text.context :]
    row = engine.step([Span(engine.new_cache(len(ids)), ids)])[0, : text.n_vocab]
    return text.processed(row)


def _likeliest(rest: str, logits: Row, but: int | None, tokenizer: Tokenizer) -> int | None:
    """The best token with which a text can go on; None if none can, or the text ends."""
    data = rest.encode()
    for id in (-logits).argsort(kind="stable").tolist():
        token = tokenizer.token_bytes(id)
        if id != but and token and data.startswith(token):
            return int(id)
    return None


def _margin(text: Text, logits: Row, recorded: int, now: int) -> tuple[float, str]:
    if text.params.greedy:
        return float(logits[now] - logits[recorded]), "logit"
    u = sampler.uniform(text.seed, text.record, text.sample, len(text.ids))
    upper = sampler.probabilities(logits, text.params).cumsum()
    low = float(upper[recorded - 1]) if recorded > 0 else 0.0
    return max(low - u, u - float(upper[recorded]), 0.0), "probability"


def _choice(id: int | None, tokenizer: Tokenizer) -> Choice | None:
    if id is None:
        return None
    if id in tokenizer.eos_ids:
        return Choice(None, "end of text")
    return Choice(id, tokenizer.decode([id]))
