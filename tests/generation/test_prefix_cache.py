"""What prompts have in common: read once, to the same bits as if each were read alone."""

import random

import pytest
import torch
from batch_jobs import worker
from engines import engine_of

from gptcli.batch.io.lines import line_of
from gptcli.batch.job import JobSpec
from gptcli.batch.request import RecordReader
from gptcli.engine.interface import Engine
from gptcli.generation.prefix_cache import MIN_SHARED, PrefixCache
from gptcli.generation.scheduler import Job, Scheduler
from gptcli.generation.sequence import Sequence, Token
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import untrained
from gptcli.sampling.params import SamplingParams

CONFIG = GPTConfig(vocab_size=97, context_length=256, emb_dim=64, n_heads=4, n_layers=3)
Texts = dict[int, tuple[list[int], list[float]]]


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def model(request: pytest.FixtureRequest) -> Engine:
    return engine_of(untrained(CONFIG, 3).to(request.param))


def drawn(rng: random.Random, count: int) -> tuple[int, ...]:
    return tuple(rng.randrange(97) for _ in range(count))


def prompts(count: int = 16, seed: int = 0) -> list[tuple[int, ...]]:
    """Few beginnings, of lengths at and about whole blocks, each with many ends; some alone."""
    rng = random.Random(seed)
    long = drawn(rng, 200)
    beginnings = [long[:size] for size in (63, 64, 65, 128, 130, 192)] + [drawn(rng, 129), ()]
    return [beginnings[n % len(beginnings)] + drawn(rng, rng.randint(1, 40)) for n in range(count)]


def written(
    model: Engine,
    todo: list[tuple[int, tuple[int, ...]]],
    rows: int,
    prefixes: PrefixCache | None = None,
) -> Texts:
    """Text number → its ids and their log-probabilities, to the last bit."""
    result: Texts = {}

    def job(number: int, prompt: tuple[int, ...]) -> Job:
        logprobs: list[float] = []

        def watch(token: Token) -> bool:
            logprobs.append(token.logprob or 0.0)
            return False

        params = SamplingParams(max_new_tokens=4 + number % 5, temperature=1.3)
        text = Sequence(
            prompt=prompt, params=params, context=256, seed=5, record=str(number), logprobs=0
        )
        result[number] = text.ids, logprobs
        return Job(text, number, watch)

    jobs = [job(number, prompt) for number, prompt in todo]
    assert len(list(Scheduler(model, rows, prefixes).run(jobs))) == len(jobs)
    return result


@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize("kept", [100, 512, 4096])
def test_sharing_changes_no_bits(model: Engine, rows: int, kept: int) -> None:
    todo = list(enumerate(prompts()))
    prefixes = PrefixCache(kept)
    assert written(model, todo, rows, prefixes) == written(model, todo, 5)
    assert prefixes.shared > 0


def test_order_changes_no_bits_of_what_is_shared(model: Engine) -> None:
    todo = list(enumerate(prompts()))
    expected = written(model, todo, 8, PrefixCache(1024))
    for seed in range(3):
        shuffled = random.Random(seed).sample(todo, len(todo))
        assert written(model, shuffled, 4, PrefixCache(1024)) == expected
    assert written(model, todo[9:11], 2, PrefixCache(1024)) == {n: expected[n] for n in (9, 10)}


def test_threads_change_no_bits_of_what_is_shared() -> None:
    todo, made = list(enumerate(prompts())), untrained(CONFIG, 3)
    expected = written(engine_of(made, threads=1), todo, 4, PrefixCache(1024))
    assert written(engine_of(made, threads=3), todo, 4, PrefixCache(1024)) == expected


@pytest.mark.parametrize("rows", [1, 4, 32])
def test_what_all_have_in_common_is_read_once(rows: int) -> None:
    model, rng = engine_of(untrained(CONFIG, 3)), random.Random(1)
    begins = drawn(rng, 150)
    prefixes = PrefixCache(1024)
    written(model, [(n, begins + drawn(rng, 20)) for n in range(12)], rows, prefixes)
    assert prefixes.shared >= 11 * 150  # some ends begin alike, too


class Held:
    """What `PrefixCache` asks of a cache."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self.copied: list[int] = []

    def truncate(self, length: int) -> None:
        self.length = min(self.length, length)

    def copy_prefix(self, other: "Held", length: int) -> None:
        assert length <= other.length
        self.length = length
        self.copied.append(length)


def test_what_is_used_stays_and_the_rest_makes_room() -> None:
    rng, prefixes = random.Random(2), PrefixCache(600)
    common, other = drawn(rng, 100), drawn(rng, 100)
    for number in range(9):
        for begins in (common, other) if number == 0 else (common,):
            prompt = begins + drawn(rng, 50)
            cache = Held(160)
            prefixes.begin(prompt, cache)
            cache.length = len(prompt)
            prefixes.end(cache)
            assert prefixes.positions <= 600
    assert prefixes.shared >= 8 * 100
    cache = Held(160)
    prefixes.begin((*common, 1), cache)
    assert cache.copied == [100]
    prefixes.begin((*other, 1), lost := Held(160))
    assert lost.copied == []
    prefixes.clear()
    prefixes.begin((*common, 1), again := Held(160))
    assert again.copied == []
    assert prefixes.positions == 0


def test_the_last_token_is_never_copied_and_a_few_are_not_worth_it() -> None:
    prefixes, cache = PrefixCache(1024), Held(64)
    whole = tuple(range(40))
    prefixes.begin(whole, cache)
    cache.length = 40
    prefixes.begin(whole, same := Held(64))
    assert same.copied == [39]
    prefixes.begin((*whole[: MIN_SHARED - 1], 96, 96), little := Held(64))
    assert little.copied == []


def test_a_prompt_waits_for_one_that_is_computed_and_begins_alike() -> None:
    prefixes, cache = PrefixCache(1024), Held(64)
    whole = tuple(range(40))
    prefixes.begin(whole, cache)
    assert prefixes.must_wait(whole)
    assert prefixes.must_wait((*whole[:30], 96))
    assert not prefixes.must_wait((*whole[: MIN_SHARED - 1], 96))
    cache.length = 40
    assert not prefixes.must_wait(whole)


def test_kept_beginnings_count_as_tokens_that_are_held() -> None:
    spec = JobSpec(seed=7, params=SamplingParams(max_new_tokens=2))
    limited = worker(spec, rows=8, max_tokens=40)
    most = 0

    def look() -> None:
        nonlocal most
        most = max(most, limited.held_tokens if limited.active > 1 else 0)

    limited.on_token = look
    reader = RecordReader(spec)
    lines = [line_of(n, b'{"prompt": "abcdefgh"}') for n in range(1, 9)]
    limited.run(iter([reader(line) for line in lines]), lambda _: None)
    assert most == 30  # of three texts; with a fourth it would be 40, and an eighth is for those
