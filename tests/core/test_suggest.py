"""Names that were probably meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.checkpoint.presets import PRESETS
from gptcli.core.suggest import did_you_mean, nearest


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("GPT-2", "gpt2"), ("gpt2_medium", "gpt2-medium"), ("gpt2-m", "gpt2-medium"),
        ("124M", "gpt2-124m"), ("large", "gpt2-large"), ("gpt2-lagre", "gpt2-large"),
        ("storys", "stories"), ("gpt2-medium-v2", "gpt2-medium"), ("llama", None), ("", None),
    ],
)  # fmt: skip
def test_the_preset_meant(word: str, name: str | None) -> None:
    assert nearest(word, PRESETS) == name


def test_other_programs_words_come_first() -> None:
    names = ["--max-new-tokens", "--max-length-of-lines"]
    assert nearest("--max-length", names) == "--max-length-of-lines"
    assert nearest("--max-length", names, {"--max_length": "--max-new-tokens"}) == names[0]
    assert nearest("--max-length", names[1:], {"--max_length": "--max-new-tokens"}) == names[1]


@given(st.text(), st.lists(st.text()))
def test_it_is_one_of_the_names_whatever_they_are(word: str, names: list[str]) -> None:
    found = nearest(word, names)
    assert found is None or found in names


def test_a_hint_is_empty_without_a_name() -> None:
    assert did_you_mean(None) == ""
    assert did_you_mean("top_k") == 'Did you mean "top_k"?'
