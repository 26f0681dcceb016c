"""The largest of a family: against trying them all."""

from dataclasses import replace

import pytest

from gptcli.checkpoint.presets import PRESETS, preset_config
from gptcli.model.config import GPTConfig
from gptcli.model.largest import largest, relative
from gptcli.model.memory_estimate import DTYPES, running, training
from gptcli.model.parameters import count

GPT2 = preset_config(PRESETS["gpt2-124m"])
TOY = GPTConfig(vocab_size=40, context_length=16, emb_dim=24, n_heads=3, n_layers=5)


@pytest.mark.parametrize("budget", [1, 10_000, 100_000, 1_234_567, 9_999_999])
def test_no_larger_relative_fits_and_no_smaller_is_chosen(budget):
    all_of_them = [relative(TOY, heads) for heads in range(1, 200)]
    fitting = [one for one in all_of_them if count(one).total <= budget]
    found = largest(TOY, lambda one: count(one).total, budget)
    assert found == (fitting[-1] if fitting else None)


def test_exactly_enough_is_enough():
    def cost(one):
        return count(one).total

    needs = cost(GPT2)
    assert largest(GPT2, cost, needs) == GPT2
    assert largest(GPT2, cost, needs - 1) == relative(GPT2, 11)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_fits_for_writing_fits_and_the_next_does_not(dtype):
    found = largest(GPT2, lambda one: running(one, dtype, 1, 1024).total, 8_000_000_000)
    assert running(found, dtype, 1, 1024).total <= 8_000_000_000
    larger = relative(GPT2, found.n_heads + 1)
    assert running(larger, dtype, 1, 1024).total > 8_000_000_000
    assert (found.head_dim, found.vocab_size) == (64, 50257)
    assert found.emb_dim / found.n_layers == pytest.approx(64, rel=0.02)


def test_less_fits_for_training_than_for_writing():
    write = largest(GPT2, lambda one: running(one, "float32", 1, 1024).total, 8_000_000_000)
    train = largest(GPT2, lambda one: training(one, 1, 1024).total, 8_000_000_000)
    assert count(train).total < count(write).total / 3


def test_an_endless_budget_ends_at_what_a_config_may_have():
    found = largest(replace(TOY, n_layers=1), lambda one: count(one).total, 1 << 200)
    assert found.emb_dim == (1 << 20) // 8 * 8
    assert largest(replace(TOY, n_layers=99), lambda _one: 0, 0).n_layers <= 100_000
