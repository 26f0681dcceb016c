"""Every kind of tokenizer gives the ids and the text that transformers' AutoTokenizer gives."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizer_kinds import KINDS, write_kind
from transformers import AutoTokenizer

from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer

# What a text may spell: added tokens of some kind, special and not, and what is near to them.
SPELLINGS = [
    *("<|endoftext|>", "<end>", "<A>", "<B>", "<EOS>", "<PAD>", "</s>", "<unk>", "[SEP]", "<sp>"),
    *("mRNA", "mrna", "covid", "two words", "<left>", "<right>", "cat", "concat", "<|endof", "##s"),
]
TEXT = st.lists(
    st.one_of(
        st.sampled_from(SPELLINGS),
        st.sampled_from(
            [" ", "  ", "\n", "\t", ", ", " the", "Hello", "it's", "365", "don't", "▁"]
        ),
        st.text(st.characters(exclude_categories=["Cs", "Cn"], max_codepoint=0x1F6FF), max_size=6),
    ),
    max_size=8,
).map("".join)
each = settings(max_examples=60, suppress_health_check=list(HealthCheck))


class Pair:
    """A directory's tokenizer by transformers and by us."""

    def __init__(self, directory: Path) -> None:
        self.theirs = AutoTokenizer.from_pretrained(directory)
        self.ours: Tokenizer = load_tokenizer(None, directory, vocab_size=600)

    def decoded(self, ids: list[int]) -> str:
        return str(self.theirs.decode(ids, clean_up_tokenization_spaces=False))


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(write_kind(request.param, tmp_path_factory.mktemp("kind") / "model"))


@each
@given(text=TEXT)
def test_prompts_have_the_ids_of_transformers(pair: Pair, text: str) -> None:
    assert pair.ours.encode_prompt(text) == pair.theirs(text, split_special_tokens=True).input_ids
    assert pair.ours.encode_prompt(text, special=True) == pair.theirs(text).input_ids


@each
@given(text=TEXT)
def test_text_without_its_template_has_the_ids_of_transformers(pair: Pair, text: str) -> None:
    bare = pair.theirs(text, add_special_tokens=False).input_ids
    assert pair.ours.encode(text, special=True) == bare


@each
@given(text=TEXT)
def test_ids_read_as_transformers_reads_them(pair: Pair, text: str) -> None:
    ids = pair.theirs(text).input_ids
    assert pair.ours.decode(ids) == pair.decoded(ids)


def test_the_vocabulary_and_the_end_are_those_of_transformers(pair: Pair) -> None:
    end = pair.theirs.eos_token_id
    assert pair.ours.n_vocab == len(pair.theirs)
    assert pair.ours.eos_ids == (frozenset() if end is None else {end})
    assert set(pair.ours.special_tokens) >= {str(pair.theirs.eos_token or pair.theirs.unk_token)}


@each
@given(data=st.data())
def test_streamed_text_is_the_text_decoded_at_once(pair: Pair, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, pair.ours.n_vocab - 1), max_size=40))
    decoder = pair.ours.decoder()
    assert "".join(map(decoder.feed, ids)) + decoder.finish() == pair.decoded(ids)


@each
@given(data=st.data())
def test_a_completion_continues_its_prompt_as_if_both_were_one_text(
    pair: Pair, data: st.DataObject
) -> None:
    prompt = pair.theirs("Hello, I am the", add_special_tokens=False).input_ids
    new = data.draw(st.lists(st.integers(0, pair.ours.n_vocab - 1), max_size=30))
    whole = pair.decoded([*prompt, *new])
    assert pair.decoded(prompt) + pair.ours.decode(new, prompt) == whole


@each
@given(text=TEXT)
def test_a_special_token_that_a_text_spells_is_found(pair: Pair, text: str) -> None:
    spelled = pair.ours.find_special_token(text)
    assert (spelled is not None) == any(token in text for token in pair.ours.special_tokens)


def test_the_bytes_of_tokens_make_the_text(pair: Pair) -> None:
    """All but the first, which may lose a space."""
    ids = pair.theirs("the cat sat on the mat, don't", add_special_tokens=False).input_ids
    rest = b"".join(map(pair.ours.token_bytes, ids[1:])).decode()
    assert pair.decoded(ids[:1]).strip() + rest == pair.decoded(ids).strip()
