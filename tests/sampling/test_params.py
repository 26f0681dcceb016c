"""SamplingParams: every bound, from both sides, and the words of its errors."""

import subprocess
import sys
from math import inf, nan

import pytest

from gptcli.core.errors import UsageError
from gptcli.sampling.params import SamplingParams

ALLOWED = {
    "max_new_tokens": [0, 1, 10**6],
    "temperature": [0, 0.0, 1e-30, 1, 1e300],
    "top_k": [None, 1, 10**9],
    "top_p": [None, 1e-9, 0.5, 1, 1.0],
    "min_p": [None, 0, 0.0, 0.5, 1],
    "typical_p": [None, 1e-9, 1],
    "repetition_penalty": [0.01, 1, 100],
    "presence_penalty": [-100, 0, 2.5, 100],
    "frequency_penalty": [-100, 0, 2.5, 100],
    "no_repeat_ngram": [0, 1, 40],
    "logit_bias": [(), ((0, -inf),), ((5, 1000), (5, -1000.0))],
    "min_new_tokens": [0, 400],
}
REFUSED = {
    "max_new_tokens": [-1, 1.0, "3", None, True, nan],
    "temperature": [-1e-9, nan, inf, -inf, "1", None, True],
    "top_k": [0, -1, 2.0, "5", False],
    "top_p": [0, -0.1, 1.0000001, nan, inf, "0.5", True],
    "min_p": [-0.1, 1.1, nan, False],
    "typical_p": [0, 1.1, nan],
    "repetition_penalty": [0, -1, 0.009, 101, nan, inf, None],
    "presence_penalty": [-101, 101, nan, inf],
    "frequency_penalty": [-101, 101, nan, -inf],
    "no_repeat_ngram": [-1, 2.0, None],
    "logit_bias": [
        ((-1, 0.0),), ((1.0, 0.0),), ((True, 0.0),), ((1, nan),), ((1, inf),), ((1, 1001),),
        ((1, "2"),), ((1, True),),
    ],
    "min_new_tokens": [-1, 1.5, 401],
}  # fmt: skip
CASES = [(name, value) for name, values in REFUSED.items() for value in values]


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in ALLOWED.items() for v in vs])
def test_values_in_range_are_taken_as_they_are(name, value) -> None:
    assert getattr(SamplingParams(**{name: value}), name) == value


@pytest.mark.parametrize(("name", "value"), CASES)
def test_values_out_of_range_are_usage_errors_that_name_the_field(name, value) -> None:
    with pytest.raises(UsageError, match=r"must be .+, got ") as caught:
        SamplingParams(**{name: value})
    assert caught.value.where == name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": nan}, "temperature: must be a finite number >= 0, got nan"),
        ({"top_p": 0}, "top_p: must be a number > 0 and <= 1, got 0"),
        ({"top_k": 0}, "top_k: must be an integer >= 1, got 0"),
        (
            {"min_new_tokens": 9, "max_new_tokens": 5},
            "min_new_tokens: must be at most `max_new_tokens` (5), got 9",
        ),
        ({"top_p": "\x1b[2J"}, r'top_p: must be a number > 0 and <= 1, got the text "\x1b[2J"'),
    ],
)
def test_messages_say_the_range_and_the_value(options, message) -> None:
    with pytest.raises(UsageError) as caught:
        SamplingParams(**options)
    assert str(caught.value) == message


def test_greedy_is_a_temperature_below_the_bound() -> None:
    assert SamplingParams(temperature=0.99e-5).greedy
    assert not SamplingParams(temperature=1e-5).greedy


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.1}, {"presence_penalty": -1}, {"frequency_penalty": 0.1},
        {"no_repeat_ngram": 3}, {"logit_bias": ((1, 1.0),)}, {"min_new_tokens": 1},
    ],
)  # fmt: skip
def test_every_penalty_is_known_to_change_logits(options) -> None:
    assert SamplingParams(**options).penalizes


def test_filters_and_lengths_penalize_nothing() -> None:
    assert not SamplingParams(top_k=3, top_p=0.5, min_p=0.1, typical_p=0.5).penalizes


def test_options_are_checked_without_torch_or_numpy() -> None:
    code = "import gptcli.sampling.params, sys; print({'torch', 'numpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
