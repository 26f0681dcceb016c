"""Batches: the same ids as one at a time, and the same bits whatever the batch."""

import random
from collections.abc import Callable

import pytest
import torch
from batch_jobs import Short
from engines import engine_of
from gpt2_oracle import SHAPES, copy_weights, lively_gpt2

from gptcli.core.errors import RunError, UsageError
from gptcli.engine.interface import Engine
from gptcli.generation.decode import Generation, Prompt
from gptcli.generation.scheduler import Job, Scheduler
from gptcli.generation.sequence import Sequence, Token
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import untrained
from gptcli.sampling.params import SamplingParams

CONFIG = GPTConfig(vocab_size=97, context_length=48, emb_dim=64, n_heads=4, n_layers=3)
Record = tuple[tuple[int, ...], SamplingParams]


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def model(request: pytest.FixtureRequest) -> Engine:
    return engine_of(untrained(CONFIG, 3).to(request.param))


def records(count: int, seed: int = 0) -> list[Record]:
    """Prompts of 1 to 40 tokens, greedy and sampled, some with penalties."""
    rng = random.Random(seed)
    kinds = [{"temperature": 0.0}, {"temperature": 1.3}, {"top_k": 5, "repetition_penalty": 1.2}]
    return [
        (
            tuple(rng.randrange(97) for _ in range(rng.randint(1, 40))),
            SamplingParams(max_new_tokens=rng.randint(0, 20), **kinds[n % 3]),  # type: ignore[arg-type]
        )
        for n in range(count)
    ]


def text_of(number: int, record: Record, **changes: object) -> Sequence:
    ids, params = record
    asked = {
        "context": 48,
        "seed": 5,
        "record": str(number),
        "eos_ids": frozenset({7}),
        "logprobs": 0,
    }
    return Sequence(prompt=ids, params=params, **{**asked, **changes})  # type: ignore[arg-type]


def written(
    model: Engine,
    todo: list[tuple[int, Record]],
    rows: int,
    on_fewer: Callable[[int], object] = lambda _rows: None,
    **changes: object,
) -> dict[int, tuple[list[int], list[float], str | None]]:
    """Record number → its ids, their log-probabilities to the last bit, the finish reason."""
    result: dict[int, tuple[list[int], list[float], str | None]] = {}

    def job(number: int, record: Record) -> Job:
        logprobs: list[float] = []

        def watch(token: Token) -> bool:
            logprobs.append(token.logprob or 0.0)
            return False

        result[number] = ([], logprobs, None)
        return Job(text_of(number, record, **changes), number, watch, logprobs.clear)

    for done in Scheduler(model, rows, on_fewer=on_fewer).run(
        job(number, record) for number, record in todo
    ):
        result[done.key] = (done.sequence.ids, result[done.key][1], done.sequence.finish_reason)
    return result


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 32])
def test_every_batch_size_gives_the_same_bits(model: Engine, rows: int) -> None:
    todo = list(enumerate(records(25)))
    assert written(model, todo, rows) == written(model, todo, 5)


def test_order_and_company_change_no_bits(model: Engine) -> None:
    todo = list(enumerate(records(25)))
    expected = written(model, todo, 8)
    shuffled = random.Random(1).sample(todo, len(todo))
    assert written(model, shuffled, 8) == expected
    some = shuffled[:11]
    assert written(model, some, 4) == {number: expected[number] for number, _ in some}


def test_threads_change_no_bits() -> None:
    todo, made = list(enumerate(records(6))), untrained(CONFIG, 3)
    expected = written(engine_of(made, threads=1), todo, 4)
    for threads in (2, 3, 4):
        assert written(engine_of(made, threads=threads), todo, 4) == expected


def test_greedy_texts_equal_transformers_generate() -> None:
    oracle = lively_gpt2(**SHAPES[1])
    todo = [
        (n, (ids, SamplingParams(max_new_tokens=12, temperature=0.0)))
        for n, (ids, _) in enumerate(records(9, seed=2))
        if len(ids) <= 28
    ]
    ours = written(engine_of(copy_weights(oracle)), todo, 4, context=40, eos_ids=frozenset())
    for number, (ids, _) in todo:
        prompt = torch.tensor([ids])
        theirs = oracle.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert ours[number][0] == theirs[0, len(ids) :].tolist()


def test_a_batch_writes_what_the_single_loop_writes() -> None:
    model = engine_of(copy_weights(lively_gpt2(**SHAPES[1])))
    todo = list(enumerate(records(12)))
    together = written(model, todo, 4, context=40, overflow="slide")
    for number, (ids, params) in todo:
        prompt = Prompt(model, ids, params.max_new_tokens, "slide")
        alone = Generation(
            prompt, params, seed=5, record=str(number), eos_ids=frozenset({7}), overflow="slide"
        )
        assert [token.id for token in alone] == together[number][0]
        assert alone.finish_reason == together[number][2]


def test_a_watcher_ends_its_own_text_only(model: Engine) -> None:
    ids, params = (1, 2), SamplingParams(max_new_tokens=9, temperature=1.0)
    texts = [text_of(n, (ids, params), eos_ids=frozenset()) for n in range(3)]
    jobs = [Job(text, n) for n, text in enumerate(texts)]
    jobs[1].watch = lambda _: len(texts[1].ids) == 4
    assert {job.key for job in Scheduler(model, 3).run(jobs)} == {0, 1, 2}
    assert [len(text.ids) for text in texts] == [9, 4, 9]
    assert [text.finish_reason for text in texts] == ["length", "stop", "length"]


def test_no_more_jobs_are_taken_than_there_are_rows(model: Engine) -> None:
    taken: list[int] = []

    def jobs() -> object:
        for number, record in enumerate(records(30)):
            taken.append(number)
            yield Job(text_of(number, record), number)

    done = 0
    for _ in Scheduler(model, 4).run(jobs()):  # type: ignore[arg-type]
        done += 1
        assert len(taken) - done <= 5
    assert done == 30


def test_a_prompt_that_cannot_be_read_is_refused(model: Engine) -> None:
    for ids in ((), (1,) * 49):
        with pytest.raises(UsageError):
            list(Scheduler(model, 2).run([Job(text_of(0, (ids, SamplingParams())))]))


def test_non_finite_logits_stop_the_batch() -> None:
    broken = untrained(CONFIG, 0)
    with torch.no_grad():
        broken.final_norm.shift[0] = float("inf")
    job = Job(text_of(0, ((1, 2), SamplingParams())))
    with pytest.raises(RunError, match="non-finite logits at token 1"):
        list(Scheduler(engine_of(broken), 2).run([job]))


EXHAUSTED = [
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
]


@pytest.mark.parametrize("error", EXHAUSTED, ids=lambda error: type(error).__name__)
def test_rows_that_do_not_fit_are_halved_and_no_bit_changes(error: Exception) -> None:
    model = engine_of(untrained(CONFIG, 3))
    todo = list(enumerate(records(25)))
    short, said = Short(model, error, most=3), []
    assert written(short, todo, 32, on_fewer=said.append) == written(model, todo, 4)
    assert said == [16, 8, 4, 2]


@pytest.mark.parametrize("step", range(1, 30, 4))
def test_memory_that_is_short_at_any_step_changes_no_bit(step: int) -> None:
    model = engine_of(untrained(CONFIG, 3))
    todo = list(enumerate(records(12)))
    short, said = Short(model, MemoryError(), at_step=step), []
    assert written(short, todo, 6, on_fewer=said.append) == written(model, todo, 6)
    assert said == [3]


def test_one_text_that_does_not_fit_is_one_clear_line() -> None:
    short = Short(engine_of(untrained(CONFIG, 3)), MemoryError(), most=0)
    said: list[int] = []
    with pytest.raises(RunError, match="memory: exhausted for one sequence"):
        written(short, list(enumerate(records(5))), 4, on_fewer=said.append)
    assert said == [2, 1]


def test_another_fault_is_not_taken_for_a_lack_of_memory() -> None:
    short = Short(engine_of(untrained(CONFIG, 3)), RuntimeError("shapes differ"), at_step=2)
    with pytest.raises(RuntimeError, match="shapes differ"):
        written(short, list(enumerate(records(5))), 4)


def test_what_is_done_beside_a_batch_takes_its_rows_and_changes_no_bit() -> None:
    model = engine_of(untrained(CONFIG, 3))
    todo = list(enumerate(records(25)))
    said: list[int] = []
    scheduler = Scheduler(model, 9, on_fewer=said.append)
    errors = {3: [MemoryError()], 8: EXHAUSTED[1:]}  # after so many texts: 9 rows → 4, → 2, → 1
    found = {}

    def work(number: int, problems: list[Exception]) -> int:
        if problems:
            raise problems.pop()
        return number

    for count, job in enumerate(scheduler.run(Job(text_of(*one), one[0]) for one in todo)):
        problems = list(errors.get(count, []))
        assert scheduler.with_memory(lambda n=job.key, left=problems: work(n, left)) == job.key
        found[job.key] = job.sequence.ids, job.sequence.finish_reason
    assert said == [4, 2, 1]
    expected = written(model, todo, 4)
    assert found == {number: (ids, reason) for number, (ids, _, reason) in expected.items()}


def test_what_does_not_fit_beside_one_text_is_one_clear_line() -> None:
    def fail(error: Exception) -> None:
        raise error

    scheduler = Scheduler(engine_of(untrained(CONFIG, 3)), 2)
    with pytest.raises(RuntimeError, match="shapes differ"):
        scheduler.with_memory(lambda: fail(RuntimeError("shapes differ")))
    with pytest.raises(RunError, match="memory: exhausted for one sequence"):
        scheduler.with_memory(lambda: fail(MemoryError()))
