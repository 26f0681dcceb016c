"""Run a recorded job again, and report the first token of each record that differs.

The first differing token is reported with its margin: for greedy decoding its logit minus the
recorded token's, for sampling the distance in probability of the draw from the recorded token.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Ids
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from gptcli.batch.io.lines import line_of
from gptcli.batch.job import JobSpec
from gptcli.batch.request import Failure, Record, parse
from gptcli.batch.result_lines import Answer, RecordedAnswer, Sample, render
from gptcli.batch.runner import RecordStream
from gptcli.batch.worker import BatchWorker
from gptcli.core.errors import InputError
from gptcli.engine.interface import Engine, Span
from gptcli.generation.sequence import Sequence
from gptcli.sampling import sampler
from gptcli.sampling.filters import Row
from gptcli.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Choice:
    """A token, or the end of the text, for which `id` is None."""

    id: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Difference:
    """How a record differs from the recorded one.

    Attributes:
        sample: number of the sample; None where no token is to blame.
        token: which new token differs, from 1.
        recorded, now: the two tokens; `recorded` is None if no token fits the recorded text.
        margin: between the two, a logit or a probability (see `unit`); None without two tokens.
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


def replay(pairs: Iterable[Pair], worker: BatchWorker, engine: Engine) -> Iterator[Difference]:
    """Answer every request again; yields the differences in the order of the lines."""
    done: dict[int, RecordedAnswer] = {}
    found: list[Difference] = []

    def records() -> Iterator[Record | Failure | None]:
        for pair in pairs:
            done[pair.record.line] = pair.done
            yield pair.record

    def compare(result: Answer | Failure) -> None:
        line = result.line if isinstance(result, Failure) else result.record.line
        recorded = done.pop(line)
        if render(result, worker.spec) != recorded.data:
            found.append(_difference(recorded, result, worker, engine))

    worker.run(records(), compare)
    yield from sorted(found, key=lambda difference: difference.line)


def pairs_of(
    done: Iterable[RecordedAnswer],
    records: RecordStream,
    wanted: frozenset[int],
    name: str,
) -> Iterator[Pair]:
    """Recorded lines with their requests from the input; only the `wanted` lines, if any.

    Raises:
        InputError: the input is not the one that was answered.
        RunError: it cannot be read to its end.
    """
    for result in done:
        record = next((r for r in records if r is not None), None)
        if record is None:
            records.check()  # a truncated input is reported as such
        if record is None or record.line != result.line or record.sha256 != result.sha256:
            raise InputError(name, f"line {result.line} of the input is not the one answered here")
        if not wanted or result.line in wanted:
            yield Pair(result, record)


def echoed(done: Iterable[RecordedAnswer], spec: JobSpec, wanted: frozenset[int]) -> Iterator[Pair]:
    """Recorded lines with the requests that `echo` put in the output; failed ones have none."""
    spec = replace(spec, form="json", column=None)
    for result in done:
        if result.is_ok and (not wanted or result.line in wanted):
            line = line_of(result.line, json.dumps(result.value["request"]).encode())
            yield Pair(result, replace(parse(line, spec), sha256=result.sha256))


def _difference(
    recorded: RecordedAnswer, result: Answer | Failure, worker: BatchWorker, engine: Engine
) -> Difference:
    line = recorded.line
    if isinstance(result, Failure) or not recorded.is_ok:
        now_is = f"error {result.code}" if isinstance(result, Failure) else "ok"
        was = "ok" if recorded.is_ok else f"error {recorded.value.get('error')}"
        return Difference(line, f"recorded {was}, now {now_is}")
    for number, (old, new) in enumerate(
        zip(_samples(recorded.value, result), result.samples, strict=False)
    ):
        at, recorded_id = _first_difference(old, new, worker.tokenizer, result.prompt_ids)
        if at is not None:
            sequence = list(worker.sequences(result.record, result.prompt_ids))[number]
            sequence.ids.extend(new.ids[:at])
            logits, tokenizer = _next_logits(sequence, engine), worker.tokenizer
            now = new.ids[at] if at < len(new.ids) else tokenizer.eos_id
            if recorded_id is None:
                recorded_id = _recorded_id(old, sequence, logits, now, tokenizer)
            return _compared(line, sequence, logits, (recorded_id, now), tokenizer)
    return Difference(line, "the texts are equal, the records are not")


def _samples(value: Mapping[str, Any], result: Answer) -> list[dict[str, Any]]:
    """The recorded samples in our own shape, whatever the record's."""
    if result.record.openai is None:
        return list(value.get("samples") or [value])
    echoed = len(result.prompt) if result.record.openai["echo"] else 0
    choices = value["response"]["body"]["choices"]
    return [{"completion": choice["text"][echoed:]} for choice in choices]


def _first_difference(
    old: Mapping[str, Any], new: Sample, tokenizer: Tokenizer, prompt: Ids[int]
) -> tuple[int | None, int | None]:
    """Position and recorded id of the first new token that differs; None, None without one.

    Without recorded ids the texts are compared: the position may be late where several tokens make
    one character, and the id is None.
    """
    ids: Ids[int] | None = old.get("ids")
    if ids is not None:
        at = next((i for i, (a, b) in enumerate(zip(ids, new.ids, strict=False)) if a != b), None)
        if at is None and len(ids) != len(new.ids):
            at = min(len(ids), len(new.ids))
        return at, None if at is None or at >= len(ids) else ids[at]
    recorded, decoder, text = str(old["completion"]), tokenizer.decoder(prompt), ""
    if recorded == new.text:
        return None, None
    for at, id in enumerate(new.ids):
        text += decoder.feed(id)
        if not recorded.startswith(text):
            return at, None
    return len(new.ids), None


def _recorded_id(
    old: Mapping[str, Any],
    sequence: Sequence,
    logits: Row,
    now: int | None,
    tokenizer: Tokenizer,
) -> int | None:
    """The recorded token if its id was not: the likeliest that fits the text, or its end."""
    if old.get("ids") is not None:
        return tokenizer.eos_id
    rest = str(old["completion"]).removeprefix(tokenizer.decode(sequence.ids, sequence.prompt))
    return _likeliest(rest, logits, now, tokenizer) if rest else tokenizer.eos_id


def _compared(
    line: int,
    sequence: Sequence,
    logits: Row,
    ids: tuple[int | None, int | None],
    tokenizer: Tokenizer,
) -> Difference:
    """The recorded next token of a sequence against the one it has now."""
    recorded, now = ids
    margin, unit = None, "logit"
    if recorded is not None and now is not None and recorded != now:
        margin, unit = _margin(sequence, logits, recorded, now)
    return Difference(
        line,
        "another token",
        sample=sequence.sample,
        token=len(sequence.ids) + 1,
        recorded=_choice(recorded, tokenizer),
        now=_choice(now, tokenizer),
        margin=margin,
        unit=unit,
    )


def _next_logits(sequence: Sequence, engine: Engine) -> Row:
    """(n_vocab,) logits of the next token, processed but not divided by the temperature."""
    ids = [*sequence.prompt, *sequence.ids][-sequence.context :]
    row = engine.step([Span(engine.new_cache(len(ids)), ids)])[0, : sequence.n_vocab]
    return sequence.processed(row)


def _likeliest(rest: str, logits: Row, but: int | None, tokenizer: Tokenizer) -> int | None:
    """The likeliest token other than `but` that `rest` begins with; None if there is none."""
    data = rest.encode()
    for id in (-logits).argsort(kind="stable").tolist():
        token = tokenizer.token_bytes(id)
        if id != but and token and data.startswith(token):
            return int(id)
    return None


def _margin(sequence: Sequence, logits: Row, recorded: int, now: int) -> tuple[float, str]:
    if sequence.params.greedy:
        return float(logits[now] - logits[recorded]), "logit"
    u = sampler.uniform(sequence.seed, sequence.record, sequence.sample, len(sequence.ids))
    upper = sampler.probabilities(logits, sequence.params).cumsum()
    low = float(upper[recorded - 1]) if recorded > 0 else 0.0
    return max(low - u, u - float(upper[recorded]), 0.0), "probability"


def _choice(id: int | None, tokenizer: Tokenizer) -> Choice | None:
    if id is None:
        return None
    if id in tokenizer.eos_ids:
        return Choice(None, "end of text")
    return Choice(id, tokenizer.decode([id]))
