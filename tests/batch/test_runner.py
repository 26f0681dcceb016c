"""The batch job: the same bytes whatever the batch size, the order, the shards and the resumes."""

import gzip
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from batch_jobs import (
    SPEC,
    Canned,
    Short,
    bytes_tokenizer,
    prompts,
    read,
    tiny_model,
    worker,
    write,
)
from engines import engine_of

from gptcli.batch.job import JobSpec, Shard
from gptcli.batch.request import Failure
from gptcli.batch.runner import WINDOW_RECORDS, InterruptedJobError, OrderedWriter, Tally
from gptcli.batch.worker import BatchWorker
from gptcli.core.errors import InputError, RunError, UsageError
from gptcli.generation.decode import Generation, Prompt
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import untrained
from gptcli.sampling.params import SamplingParams


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prompts(tmp_path_factory.mktemp("batch") / "in.jsonl", 40)


@pytest.fixture(scope="module")
def expected(source: Path) -> bytes:
    output = source.with_name("expected.jsonl")
    write(source, output, rows=5)
    return output.read_bytes()


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 32])
def test_every_batch_size_writes_the_same_bytes(
    source: Path, expected: bytes, tmp_path: Path, rows: int
) -> None:
    write(source, tmp_path / "out", rows=rows)
    assert (tmp_path / "out").read_bytes() == expected


def test_a_limit_of_tokens_changes_no_bytes(source: Path, expected: bytes, tmp_path: Path) -> None:
    limited = worker(rows=8, max_tokens=60)
    held: dict[int, int] = {}  # texts at a time → tokens

    def look() -> None:
        held[limited.active] = max(held.get(limited.active, 0), limited.held_tokens)

    limited.on_token = look
    write(source, tmp_path / "out", answers=lambda: limited)
    assert (tmp_path / "out").read_bytes() == expected
    assert max(tokens for texts, tokens in held.items() if texts > 1) <= 60


def test_memory_that_runs_out_changes_no_bytes(
    source: Path, expected: bytes, tmp_path: Path
) -> None:
    short, said = Short(tiny_model(), MemoryError(), most=2), []
    answers = BatchWorker(short, bytes_tokenizer(), SPEC, rows=8)
    answers.on_fewer = said.append
    write(source, tmp_path / "out", answers=lambda: answers)
    assert (tmp_path / "out").read_bytes() == expected
    assert said == [4, 2]
    assert answers.active == answers.held_tokens == 0


class Shuffled:
    """Answers a few records at a time, in any order."""

    def __init__(self, seed: int) -> None:
        self._random, self._inner = random.Random(seed), worker(rows=3)

    def run(self, records: object, emit: object) -> None:
        waiting = list(records)  # type: ignore[call-overload]
        self._random.shuffle(waiting)
        self._inner.run(iter(waiting), emit)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_work_changes_no_bytes(
    source: Path, expected: bytes, tmp_path: Path, seed: int
) -> None:
    write(source, tmp_path / "out", answers=lambda: Shuffled(seed))
    assert (tmp_path / "out").read_bytes() == expected


def test_each_line_has_one_answer_in_its_place(source: Path, expected: bytes) -> None:
    lines = source.read_text(encoding="utf-8").split("\n")
    numbers = [n for n, line in enumerate(lines, 1) if line.strip()]
    records = [json.loads(line) for line in expected.splitlines()[1:]]
    assert [record["line"] for record in records] == numbers
    assert {record["status"] for record in records} == {"ok", "error"}
    assert expected.isascii()


def test_a_text_is_what_generate_writes_with_the_records_seed(tmp_path: Path) -> None:
    (tmp_path / "in").write_text('{"prompt": "hello", "seed": 11, "id": "a"}\n{"prompt": "hello"}')
    write(tmp_path / "in", tmp_path / "out")
    model, tokenizer = tiny_model(), bytes_tokenizer()
    for record, seed, name in zip(read(tmp_path / "out"), (11, SPEC.seed), ("", "2"), strict=True):
        prompt = Prompt(model, tokenizer.encode("hello"), 6)
        alone = Generation(
            prompt,
            SPEC.params,
            seed=seed,
            record=name,
            eos_ids=frozenset({256}),
            n_vocab=tokenizer.n_vocab,
        )
        assert tokenizer.decode([token.id for token in alone]) == record["completion"]
        assert (record["finish_reason"], record["new_tokens"]) == ("length", 6)


def test_order_and_company_change_no_text_of_a_record_with_an_id(tmp_path: Path) -> None:
    def texts(name: str, records: list[dict], **changes: object) -> dict[object, object]:
        lines = [json.dumps(record) for record in records]
        (tmp_path / name).write_text("\n".join(["", *lines]), encoding="utf-8")
        write(tmp_path / name, tmp_path / f"{name}.out", replace(SPEC, **changes))  # type: ignore[arg-type]
        results = read(tmp_path / f"{name}.out")
        return {
            result.get("custom_id", result["id"]): result.get("completion") or result["response"]
            for result in results
        }

    records = [{"id": id, "prompt": "x", "num_samples": 1 + id % 2} for id in range(1, 9)]
    records[4] = {"custom_id": "4", "body": {"prompt": "x"}}
    singles = [record for record in records if record.get("num_samples") == 1]
    expected = texts("whole", singles)
    assert len(set(map(str, expected.values()))) == len(expected)
    assert texts("reversed", singles[::-1]) == expected
    assert texts("fewer", singles[1:]) == {id: expected[id] for id in list(expected)[1:]}
    by_line = texts("first", singles, format=1)
    assert texts("again", singles[::-1], format=1) != by_line
    assert by_line.keys() == expected.keys()
    assert by_line != expected


def test_records_that_share_an_id_share_their_draws(tmp_path: Path) -> None:
    (tmp_path / "in").write_text('{"id": 1, "prompt": "x"}\n' * 2 + '{"prompt": "x"}\n' * 2)
    write(tmp_path / "in", tmp_path / "out")
    assert [record["status"] for record in read(tmp_path / "out")] == ["ok", "error", "ok", "ok"]
    write(tmp_path / "in", tmp_path / "unchecked", replace(SPEC, check_ids=False))
    texts = [record["completion"] for record in read(tmp_path / "unchecked")]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


def test_stop_strings_end_a_text_and_are_named(tmp_path: Path) -> None:
    (tmp_path / "in").write_text('{"prompt": "hello"}')
    write(tmp_path / "in", tmp_path / "free", replace(SPEC, ids=True))
    free = read(tmp_path / "free")[0]
    text = bytes(free["ids"]).decode(errors="replace")
    stop = text[2]
    write(tmp_path / "in", tmp_path / "out", replace(SPEC, stop=(stop,)))
    record = read(tmp_path / "out")[0]
    assert record["completion"] == text[: text.index(stop)]
    assert (record["finish_reason"], record["stop"]) == ("stop", stop)
    write(tmp_path / "in", tmp_path / "kept", replace(SPEC, stop=(stop,), keep_stop=True))
    assert read(tmp_path / "kept")[0]["completion"] == record["completion"] + stop


def test_shards_hold_the_same_lines(source: Path, expected: bytes, tmp_path: Path) -> None:
    lines, canned = set(expected.splitlines()[1:]), Canned(source)
    for count, answers in ((3, None), (1, lambda: canned), (7, lambda: canned)):
        found: list[bytes] = []
        for index in range(1, count + 1):
            output = tmp_path / f"{index}of{count}"
            write(source, output, replace(SPEC, shard=Shard(index, count)), answers=answers)
            found += output.read_bytes().splitlines()[1:]
        assert len(found) == len(lines)
        assert set(found) == lines


def test_a_job_interrupted_anywhere_resumes_to_the_same_bytes(
    source: Path, expected: bytes, tmp_path: Path
) -> None:
    output, rng, rounds = tmp_path / "out", random.Random(0), 0
    while output.read_bytes() != expected if output.exists() else True:
        left = rng.randrange(5, 50)

        def poll() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise InterruptedJobError

        inner = worker(rows=rng.randrange(1, 9))
        inner.on_token = poll
        try:
            write(source, output, mode="resume", answers=lambda inner=inner: inner)
        except InterruptedJobError:
            assert expected.startswith(output.read_bytes())
        rounds += 1
    assert rounds > 3


def test_resuming_a_whole_job_loads_no_model(source: Path, expected: bytes, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(expected)

    def load() -> None:
        raise AssertionError("loaded")

    tally = write(source, tmp_path / "out", mode="resume", answers=load)
    assert (tally.resumed, tally.records) == (40 + 2, 40 + 2)


def test_an_endless_slow_record_bounds_what_is_held() -> None:
    """Finished records wait for the first; reading pauses, and goes on."""

    class Lines:
        count = 0

        def append(self, line: bytes) -> None:
            self.count += 1

        def tick(self) -> None: ...

    lines = Lines()
    writer = OrderedWriter(lines, SPEC, Tally())
    for line in range(1, WINDOW_RECORDS + 1):
        writer.expect(line)
        if line > 1:
            writer.put(Failure(line, "", None, "c", "m"))
    assert writer.is_full
    assert lines.count == 0
    writer.put(Failure(1, "", None, "c", "m"))
    assert not writer.is_full
    assert lines.count == WINDOW_RECORDS


@pytest.mark.parametrize("changed", ["prompt", "missing", "more"])
def test_another_input_is_refused_and_nothing_changes(
    source: Path, expected: bytes, tmp_path: Path, changed: str
) -> None:
    lines = source.read_text(encoding="utf-8").split("\n")
    other = {
        "prompt": [lines[0].replace("prompt 0", "prompt 9"), *lines[1:]],
        "missing": lines[:10],
        "more": ["{}", *lines],
    }[changed]
    (tmp_path / "in").write_text("\n".join(other), encoding="utf-8")
    (tmp_path / "out").write_bytes(expected + b'{"torn')
    with pytest.raises(InputError, match=r"line|input"):
        write(tmp_path / "in", tmp_path / "out", mode="resume")
    assert (tmp_path / "out").read_bytes() == expected + b'{"torn'


def test_another_job_is_refused_and_what_differs_is_named(source: Path, tmp_path: Path) -> None:
    write(source, tmp_path / "out")
    before = (tmp_path / "out").read_bytes()
    params = replace(SPEC.params, temperature=0.5)
    with pytest.raises(InputError) as caught:
        write(source, tmp_path / "out", replace(SPEC, params=params, seed=8), mode="resume")
    assert "`temperature` 1.2 instead of 0.5, `seed` 7 instead of 8" in str(caught.value)
    assert (tmp_path / "out").read_bytes() == before


def test_retry_answers_failed_records_whose_lines_were_mended(tmp_path: Path) -> None:
    bad, good = '{"promt": "b"}', '{"prompt": "b"}'
    source, output = tmp_path / "in", tmp_path / "out"
    lines = ['{"prompt": "a"}', bad, '{"prompt": "c"}', "{"]
    source.write_text("\n".join(lines))
    assert write(source, output).failed == 2
    lines[1] = good
    source.write_text("\n".join(lines))
    with pytest.raises(InputError, match="`retry_failed`"):
        write(source, output, mode="resume")
    tally = write(source, output, mode="retry")
    assert (tally.ok, tally.failed, tally.resumed) == (3, 1, 2)
    write(source, tmp_path / "fresh")
    assert output.read_bytes() == (tmp_path / "fresh").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "in", "out"]


def test_retry_refuses_a_good_record_that_changed(tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    source.write_text('{"prompt": "a"}\n{')
    write(source, output)
    before = output.read_bytes()
    source.write_text('{"prompt": "b"}\n{')
    with pytest.raises(InputError):
        write(source, output, mode="retry")
    assert output.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_overwriting_keeps_the_old_output_until_the_new_one_is_whole(
    source: Path, expected: bytes, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    output.write_bytes(b"precious\n")
    with pytest.raises(UsageError, match="exists already"):
        write(source, output)
    calls = iter(range(30))

    def poll() -> None:
        if next(calls, None) is None:
            raise InterruptedJobError

    with pytest.raises(InterruptedJobError):
        write(source, output, mode="overwrite", poll=poll)
    assert output.read_bytes() == b"precious\n"
    write(source, output, mode="overwrite-resume")
    assert output.read_bytes() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("cut", [20, 150, -9, -1])
def test_a_truncated_gzip_file_is_worth_its_complete_lines(
    source: Path, expected: bytes, tmp_path: Path, cut: int
) -> None:
    packed, output, canned = tmp_path / "in.gz", tmp_path / "out", Canned(source)
    whole = gzip.compress(source.read_bytes())
    packed.write_bytes(whole[:cut])
    with pytest.raises(RunError, match=r"ends early \(gzip truncated\) after line \d+"):
        write(packed, output, answers=lambda: canned)
    assert expected.startswith(output.read_bytes())
    packed.write_bytes(whole)
    write(packed, output, mode="resume", answers=lambda: canned)
    assert output.read_bytes() == expected


@pytest.mark.parametrize("cut", [5, 60, -9, -1])
def test_a_truncated_csv_is_worth_its_complete_rows(tmp_path: Path, cut: int) -> None:
    packed, spec = tmp_path / "in.csv.gz", replace(SPEC, form="table", column="text")
    whole = gzip.compress("\n".join(["text", *map(str, range(40))]).encode())
    packed.write_bytes(whole)
    write(packed, tmp_path / "expected", spec)
    packed.write_bytes(whole[:cut])
    with pytest.raises(RunError, match=r"ends early \(gzip truncated\) after row \d+"):
        write(packed, tmp_path / "out", spec)
    expected = (tmp_path / "expected").read_bytes()
    assert expected.startswith((tmp_path / "out").read_bytes())
    packed.write_bytes(whole)
    write(packed, tmp_path / "out", spec, mode="resume")
    assert (tmp_path / "out").read_bytes() == expected


def test_a_prompt_is_cut_on_request_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "in").write_text('{"prompt": "%s"}\n{"prompt": "short"}' % ("abcdefgh" * 20))
    write(tmp_path / "in", tmp_path / "out", replace(SPEC, truncate_prompt="left"))
    first, second = read(tmp_path / "out")
    assert (first["truncated"], first["prompt_tokens"]) == (160 - 42, 42)
    assert first["finish_reason"] == "length"
    assert "truncated" not in second


def test_an_empty_prompt_begins_at_the_end_of_text(tmp_path: Path) -> None:
    (tmp_path / "in").write_text('{"prompt": ""}')
    write(tmp_path / "in", tmp_path / "refused")
    assert read(tmp_path / "refused")[0]["error"]["code"] == "empty_prompt"
    write(tmp_path / "in", tmp_path / "out", replace(SPEC, allow_empty=True))
    assert read(tmp_path / "out")[0]["prompt_tokens"] == 1


@pytest.mark.parametrize(
    ("overflow", "status", "code"),
    [("stop", "ok", None), ("slide", "ok", None), ("error", "error", "context_full")],
)
def test_a_full_context_fails_only_its_own_record(
    tmp_path: Path, overflow: str, status: str, code: str | None
) -> None:
    long = {"prompt": "x" * 40, "max_new_tokens": 30, "ignore_eos": True}
    (tmp_path / "in").write_text(f'{json.dumps(long)}\n{{"prompt": "y"}}')
    write(tmp_path / "in", tmp_path / "out", replace(SPEC, overflow=overflow))  # type: ignore[arg-type]
    first, second = read(tmp_path / "out")
    assert (first["status"], first.get("error", {}).get("code")) == (status, code)
    assert (
        first.get("finish_reason")
        == {"stop": "context", "slide": "length", "error": None}[overflow]
    )
    assert second["status"] == "ok"


def test_a_record_that_bans_every_token_fails_alone(tmp_path: Path) -> None:
    bans = {str(id): "-inf" for id in range(257)}
    (tmp_path / "in").write_text(
        f'{{"prompt": "x"}}\n{json.dumps({"prompt": "x", "logit_bias": bans})}\n'
        '{"prompt": "x", "logit_bias": {"257": 1}}'
    )
    write(tmp_path / "in", tmp_path / "out")
    codes = [record.get("error", {}).get("code") for record in read(tmp_path / "out")]
    assert codes == [None, "nothing_left", "wrong_value"]


def test_constrained_records_are_the_same_in_any_batch_and_one_that_fails_fails_alone(
    tmp_path: Path,
) -> None:
    records = [
        {"prompt": "x", "regex": "[a-c]{2}(x|yz)"},
        {"prompt": "x"},
        {"prompt": "y", "choices": ["one", "two"], "num_samples": 2},
        {"prompt": "z", "json_schema": {"enum": [1, 22, 333]}, "temperature": 0},
        {"prompt": "z", "regex": "ab", "logit_bias": {"98": "-inf"}},
    ]
    (tmp_path / "in").write_text("".join(json.dumps(record) + "\n" for record in records))
    for rows in (1, 3):
        write(tmp_path / "in", tmp_path / f"out{rows}", rows=rows)
    assert (tmp_path / "out1").read_bytes() == (tmp_path / "out3").read_bytes()
    first, _, second, third, last = read(tmp_path / "out1")
    assert re.fullmatch("[a-c]{2}(x|yz)", first["completion"])
    assert (first["finish_reason"], third["finish_reason"]) == ("stop", "stop")
    assert {sample["completion"] for sample in second["samples"]} <= {"one", "two"}
    assert third["completion"] in {"1", "22", "333"}
    assert last["error"]["code"] == "nothing_left"


def test_a_fault_of_the_model_stops_the_job_and_it_can_be_resumed(
    source: Path, expected: bytes, tmp_path: Path
) -> None:
    broken = untrained(GPTConfig(**{**tiny_model().config.to_dict()}), seed=1)
    with torch.no_grad():
        broken.pos_emb.weight[14] = float("nan")  # longer texts only
    faulty = BatchWorker(engine_of(broken), bytes_tokenizer(), SPEC, rows=1)
    with pytest.raises(RunError, match="non-finite logits"):
        write(source, tmp_path / "out", answers=lambda: faulty)
    written = (tmp_path / "out").read_bytes()
    assert expected.startswith(written)
    write(source, tmp_path / "out", mode="resume")
    assert (tmp_path / "out").read_bytes() == expected


def test_records_that_are_not_here_yet_end_nothing() -> None:
    seen: list[object] = []
    failures = [Failure(line, "", None, "c", "m") for line in (1, 2)]
    worker(rows=2).run(iter([None, failures[0], None, None, failures[1]]), seen.append)
    assert seen == failures


def test_a_spec_survives_its_header() -> None:
    spec = JobSpec(
        seed=3,
        params=SamplingParams(logit_bias=((1, float("-inf")), (2, 1.5)), top_k=4),
        recommended={"temperature": 0.6},
        stop=("a", "b"),
        truncate_prompt="left",
        shard=Shard(2, 3),
    )
    assert JobSpec.of(json.loads(json.dumps(spec.options())), spec.shard) == spec
    first = replace(spec, format=1, openai=None)
    assert JobSpec.of(json.loads(json.dumps(first.options())), spec.shard, 1) == first


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b", "²/3"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="shard: must be I/N"):
        Shard.parse(text)
