"""Constrained texts of the built-in model are what was asked for."""

import json
import re

import pages
import pytest
from jsonschema import Draft202012Validator

import gptcli

# Every text of this schema ends: its strings and lists are bounded.
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "likes": {"type": "array", "items": {"enum": ["cats", "dogs"]}, "maxItems": 2},
    },
    "required": ["name", "age", "likes"],
    "additionalProperties": False,
}

pytestmark = pytest.mark.skipif(
    bool(pages.missing(frozenset({"stories"}))), reason="needs the built-in model"
)


@pytest.fixture(scope="module")
def loaded():
    return gptcli.load()


def text(loaded, prompt: str, **options: object) -> str:
    return "".join(loaded.stream(prompt, **options))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 100, 25))
def test_a_hundred_seeds_give_json_that_validates(loaded, first: int) -> None:
    validator = Draft202012Validator(PERSON)
    for seed in range(first, first + 25):
        found = text(loaded, "The girl: ", seed=seed, temperature=1.0, json_schema=PERSON)
        validator.validate(json.loads(found))


def test_a_regex_and_a_choice_are_kept_to_by_every_way_of_drawing(loaded) -> None:
    ways = [{"temperature": 0.0}, {"temperature": 3.0, "top_p": None}, {"repetition_penalty": 3.0}]
    for seed, way in enumerate(ways):
        found = text(loaded, "Once", seed=seed, regex=r" upon [a-z ]{3,9}\.", **way)
        assert re.fullmatch(r" upon [a-z ]{3,9}\.", found)
        assert text(loaded, "Yes or no? ", seed=seed, choices=("yes", "no"), **way) in {"yes", "no"}


def test_a_choice_is_drawn_by_its_probability(loaded) -> None:
    """One token each, so that the masked distribution is known."""
    options = {"choices": (" cat", " dog"), "temperature": 1.0, "top_p": None}
    for choice in options["choices"]:
        assert len(loaded.tokenizer.encode(choice)) == 1
    found = [text(loaded, "She had a pet", seed=seed, **options) for seed in range(40)]
    assert {*found} <= {*options["choices"]}
    greedy = text(loaded, "She had a pet", choices=options["choices"], temperature=0.0)
    assert found.count(greedy) >= 20 - 3 * 40**0.5 / 2


def test_a_stop_string_and_the_longest_length_end_a_text_before_its_grammar(loaded) -> None:
    options = {"seed": 1, "json_schema": PERSON}
    whole = text(loaded, "The girl: ", **options)
    assert text(loaded, "The girl: ", **options, stop=['", ']) + '", ' in whole
    assert whole.startswith(text(loaded, "The girl: ", **options, max_new_tokens=9))


def test_the_end_of_text_and_a_minimum_length_never_break_a_grammar(loaded) -> None:
    for options in ({"ignore_eos": True}, {"min_new_tokens": 9, "max_new_tokens": 9}):
        assert text(loaded, "Once", seed=1, regex=" (upon|a) time", **options) in {
            " upon time",
            " a time",
        }
