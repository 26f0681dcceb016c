"""What prompts have in common: read once, to the same bits as if each were read alone."""

import random

import pytest
import torch
from batch_jobs import answerer
from hypothesis import given
from hypothesis import strategies as st

from gptcli.batch.io.lines import made_line
from gptcli.batch.job import JobSpec
from gptcli.batch.request import RecordReader
from gptcli.engine.fast import FastGPT
from gptcli.generation.prefix_cache import BLOCK, Prefixes, blocks
from gptcli.generation.scheduler import Batch, Job
from gptcli.generation.sequence import Sequence, Token
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import untrained
from gptcli.sampling.params import SamplingParams

CONFIG = GPTConfig(vocab_size=97, context_length=256, emb_dim=64, n_heads=4, n_layers=3)
Texts = dict[int, tuple[list[int], list[float]]]


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def model(request: pytest.FixtureRequest) -> FastGPT:
    return FastGPT(untrained(CONFIG, 3).to(request.param))


def drawn(rng: random.Random, count: int) -> tuple[int, ...]:
    return tuple(rng.randrange(97) for _ in range(count))


def prompts(count: int = 16, seed: int = 0) -> list[tuple[int, ...]]:
    """Few beginnings, of lengths at and about whole blocks, each with many ends; some alone."""
    rng = random.Random(seed)
    long = drawn(rng, 200)
    beginnings = [long[:size] for size in (63, 64, 65, 128, 130, 192)] + [drawn(rng, 129), ()]
    return [beginnings[n % len(beginnings)] + drawn(rng, rng.randint(1, 40)) for n in range(count)]


def written(
    model: FastGPT,
    todo: list[tuple[int, tuple[int, ...]]],
    rows: int,
    prefixes: Prefixes | None = None,
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
    assert len(list(Batch(model, rows, prefixes).run(jobs))) == len(jobs)
    return result


@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize("kept", [BLOCK, 4 * BLOCK, 64 * BLOCK])
def test_sharing_changes_no_bits(model: FastGPT, rows: int, kept: int) -> None:
    todo = list(enumerate(prompts()))
    prefixes = Prefixes(kept)
    assert written(model, todo, rows, prefixes) == written(model, todo, 5)
    assert prefixes.shared > 0


def test_order_changes_no_bits_of_what_is_shared(model: FastGPT) -> None:
    todo = list(enumerate(prompts()))
    expected = written(model, todo, 8, Prefixes(1024))
    for seed in range(3):
        shuffled = random.Random(seed).sample(todo, len(todo))
        assert written(model, shuffled, 4, Prefixes(1024)) == expected
    assert written(model, todo[9:11], 2, Prefixes(1024)) == {n: expected[n] for n in (9, 10)}


def test_threads_change_no_bits_of_what_is_shared(model: FastGPT) -> None:
    todo, threads = list(enumerate(prompts())), torch.get_num_threads()
    expected = written(model, todo, 4, Prefixes(1024))
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        assert written(model, todo, 4, Prefixes(1024)) == expected
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("rows", [1, 4, 32])
def test_what_all_have_in_common_is_read_once(rows: int) -> None:
    model, rng = FastGPT(untrained(CONFIG, 3)), random.Random(1)
    begins = drawn(rng, 150)
    prefixes = Prefixes(1024)
    written(model, [(n, begins + drawn(rng, 20)) for n in range(12)], rows, prefixes)
    assert prefixes.shared == 11 * 128


def test_what_is_used_stays_and_the_rest_makes_room() -> None:
    rng, row = random.Random(2), torch.arange(2.0 * 2 * 256).reshape(1, 2, 2, 256, 1)
    prefixes, common = Prefixes(4 * BLOCK), drawn(rng, 2 * BLOCK)
    for _ in range(9):
        prompt = common + drawn(rng, BLOCK + 1)
        prefixes.take(prompt, torch.zeros_like(row))
        prefixes.keep(prompt, row)
        assert prefixes.positions <= 4 * BLOCK
    assert prefixes.shared == 8 * 2 * BLOCK
    copy = torch.zeros_like(row)
    assert prefixes.take((*common, 1), copy) == 2 * BLOCK
    assert torch.equal(copy[..., : 2 * BLOCK, :], row[..., : 2 * BLOCK, :])
    assert not copy[..., 2 * BLOCK :, :].any()
    prefixes.clear()
    assert prefixes.take((*common, 1), copy) == prefixes.positions == 0


def test_the_last_token_is_always_read() -> None:
    prefixes, row = Prefixes(1024), torch.zeros(1, 2, 2, 256, 1)
    whole = tuple(range(2 * BLOCK))
    prefixes.keep((*whole, 1), row)
    assert prefixes.take(whole, row) == BLOCK


@given(st.integers(0, 400), st.integers(1, 400), st.integers(0, 6))
def test_blocks_do_not_depend_on_where_reading_begins(past: int, length: int, known: int) -> None:
    cut = list(blocks(past, length))
    assert [start for start, _ in cut] == [past, *(start + size for start, size in cut[:-1])]
    assert sum(size for _, size in cut) == length
    begun = known * BLOCK
    if past <= begun < past + length:
        assert [b for b in cut if b[0] >= begun] == list(blocks(begun, past + length - begun))


def test_kept_beginnings_count_as_tokens_that_are_held() -> None:
    spec = JobSpec(seed=7, params=SamplingParams(max_new_tokens=2))
    limited = answerer(spec, rows=8, max_tokens=40)
    most = 0

    def look() -> None:
        nonlocal most
        most = max(most, limited.held_tokens if limited.active > 1 else 0)

    limited.on_token = look
    reader = RecordReader(spec)
    lines = [made_line(n, b'{"prompt": "abcdefgh"}') for n in range(1, 9)]
    limited.run(iter([reader(line) for line in lines]), lambda _: None)
    assert most == 30  # of three texts; with a fourth it would be 40, and an eighth is for those
