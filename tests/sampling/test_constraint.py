"""Constraints: what their masks allow, against regular expressions and JSON schemas of others."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from batch_jobs import bytes_tokenizer
from jsonschema import Draft202012Validator
from tokenizer_files import TEXTS, trained
from tokenizers import decoders, models, pre_tokenizers, trainers

from gptcli.core.errors import UsageError
from gptcli.sampling.constraint import ConstraintError, Matcher, matcher
from gptcli.sampling.params import Constraint, SamplingParams
from gptcli.tokenizer.tokenizer import load_tokenizer

END = 256
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "likes": {"type": "array", "items": {"enum": ["cats", "dogs"]}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def matching(**options: object) -> Matcher:
    found = matcher(SamplingParams(**options).constraint, bytes_tokenizer())
    assert found is not None
    return found


def allowed(following: Matcher, text: str) -> set[str]:
    """What may follow a text, "" for its end."""
    ids = np.flatnonzero(following.allowed(list(text.encode())))
    return {"" if id == END else chr(id) for id in ids}


def test_no_constraint_needs_no_matcher() -> None:
    assert SamplingParams().constraint is None
    assert matcher(None, bytes_tokenizer()) is None


def test_a_choice_that_begins_another_may_end_or_go_on() -> None:
    following = matching(choices=("no", "not yet", "yes"))
    assert allowed(following, "") == {"n", "y"}
    assert allowed(following, "no") == {"", "t"}
    assert following.is_complete(list(b"no"))
    assert not following.must_end(list(b"no"))
    assert following.must_end(list(b"yes"))
    assert not following.is_complete(list(b"ye"))


def test_choices_are_texts_and_no_patterns() -> None:
    following = matching(choices=("a.b", '"\\\n]', "é|"))
    assert allowed(following, "a") == {"."}
    assert allowed(following, '"') == {"\\"}
    assert following.must_end(list("é|".encode()))


@pytest.mark.parametrize("pattern", ["[ab]{2}c?", "(ab|a)*", "a?b?c?", "a(b|)c", "[^a]b"])
def test_a_regex_allows_what_pythons_own_matches(pattern: str) -> None:
    following = matching(regex=pattern)
    texts = {"".join(t) for n in range(5) for t in itertools.product("abc", repeat=n)}
    matching_texts = {text for text in texts if re.fullmatch(pattern, text)}
    begun = {text[:end] for text in matching_texts for end in range(len(text) + 1)}
    for text in sorted(t for t in begun if len(t) < 4):
        found = {letter for letter in allowed(following, text) if letter in "abc" and letter}
        assert found == {letter for letter in "abc" if text + letter in begun}
        assert ("" in allowed(following, text)) == (text in matching_texts)


@pytest.mark.parametrize("seed", range(20))
def test_any_walk_through_a_schema_ends_in_json_that_validates(seed: int) -> None:
    following, ids = matching(json_schema=PERSON), []
    rng = np.random.default_rng(seed)
    while not following.must_end(ids):
        choices = np.flatnonzero(following.allowed(ids))
        ids.append(int(rng.choice(choices[choices != END])))
        assert len(ids) < 500
    text = bytes(ids).decode()
    Draft202012Validator(PERSON).validate(json.loads(text))
    assert text == json.dumps(json.loads(text), ensure_ascii=False) or "\\" in text


def test_a_grammar_may_nest() -> None:
    following = matching(grammar='start: "(" start ")" | "x"')
    assert allowed(following, "((") == {"(", "x"}
    assert allowed(following, "((x") == {")"}
    assert following.must_end(list(b"((x))"))


def test_the_order_of_questions_changes_no_answer() -> None:
    """A text begun again, guesses given up, another text: each answer is of its text alone."""
    texts = ["", "no", "n", "not y", "yes", "not", "y", "not yet", ""]
    options = {"choices": ("no", "not yet", "yes")}
    alone = [allowed(matching(**options), text) for text in texts]
    following = matching(**options)
    assert [allowed(following, text) for text in texts] == alone
    assert [allowed(following, text) for text in texts[::-1]] == alone[::-1]


def test_guesses_are_possible_up_to_the_first_that_is_not() -> None:
    following = matching(choices=("not yet",))
    assert following.possible(list(b"no"), list(b"t yes")) == 4
    assert following.possible([], list(b"x")) == 0
    assert allowed(following, "no") == {"t"}


def test_a_tokenizer_without_an_end_stops_where_nothing_may_follow() -> None:
    class Endless:
        n_vocab, eos_ids, id_of = 256, frozenset(), None
        token_bytes = staticmethod(lambda id: bytes([id]))
        encode = staticmethod(lambda text: list(text.encode()))
        special_tokens = ()

    following = matcher(Constraint("choices", ("a", "ab")), Endless())
    assert following is not None
    assert np.flatnonzero(following.allowed(list(b"a"))).tolist() == [ord("b")]
    assert following.is_complete(list(b"a"))
    assert following.must_end(list(b"ab"))
    assert not following.allowed(list(b"ab")).any()


def test_a_vocabulary_that_cannot_spell_the_grammar_is_an_error() -> None:
    class Letters:
        n_vocab, eos_ids, id_of = 3, frozenset({2}), None
        token_bytes = staticmethod(lambda id: b"ab"[id : id + 1])
        encode = staticmethod(lambda text: [0] * len(text))
        special_tokens = ()

    following = matcher(Constraint("regex", "a[x-z]"), Letters())
    assert following is not None
    with pytest.raises(ConstraintError, match="no token of this vocabulary"):
        following.allowed([0])


def word_piece():
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer, trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[UNK]"], show_progress=False
    )


def unigram():
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer, trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )


@pytest.mark.parametrize("kind", ["bpe", "word_piece", "unigram"])
@pytest.mark.parametrize("pattern", [" [a-z]+( [a-z]+){1,3}", " (the cat|the mat|a b)"])
def test_vocabularies_of_hugging_face_keep_to_the_constraint(
    kind: str, pattern: str, tmp_path: Path
) -> None:
    """Random walks through the masks, as the text that follows a prompt."""
    if kind == "bpe":
        theirs = trained(specials=["<|endoftext|>", "<pad>"])
    else:
        theirs, trainer = word_piece() if kind == "word_piece" else unigram()
        theirs.train_from_iterator(TEXTS, trainer)
    theirs.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(None, tmp_path, vocab_size=theirs.get_vocab_size())
    prompt = tokenizer.encode("the mat")
    rng = np.random.default_rng(0)
    for _ in range(20):
        following, ids = matcher(Constraint("regex", pattern), tokenizer), []
        assert following is not None
        while not following.must_end(ids):
            choices = np.flatnonzero(following.allowed(ids))
            id = int(rng.choice(choices))
            if id in tokenizer.eos_ids:
                break
            ids.append(id)
            if following.is_complete(ids) and rng.random() < 0.2:
                break
            assert len(ids) < 500
        assert re.fullmatch(pattern, tokenizer.decode(ids, prompt))


def test_json_is_kept_to_by_a_vocabulary_without_all_bytes(tmp_path: Path) -> None:
    theirs, trainer = unigram()
    theirs.train_from_iterator([*TEXTS, '{"a": [1, 23]} 4 5 6 7 8 9 0'], trainer)
    theirs.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(None, tmp_path, vocab_size=theirs.get_vocab_size())
    schema = {"type": "object", "properties": {"a": {"enum": [1, 23]}}, "required": ["a"]}
    schema["additionalProperties"] = False
    params, rng = SamplingParams(json_schema=schema), np.random.default_rng(0)
    following, ids = matcher(params.constraint, tokenizer), []
    assert following is not None
    while not following.must_end(ids):
        choices = [
            id for id in np.flatnonzero(following.allowed(ids)) if id not in tokenizer.eos_ids
        ]
        ids.append(int(rng.choice(choices)))
    assert json.loads(tokenizer.decode(ids, [5])) in ({"a": 1}, {"a": 23})


def nested(**property: object) -> dict[str, object]:
    return {"type": "object", "properties": {"a/b": {"anyOf": [{"type": "null"}, property]}}}


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        ({"json_schema": '{"type": '}, "json_schema", "is not JSON (line 1, column 10: "),
        ({"json_schema": '{\n"a" 1}'}, "json_schema", "is not JSON (line 2, column 5: "),
        ({"json_schema": []}, "json_schema", "must be a JSON object, got a list"),
        ({"json_schema": {"type": "strin"}}, "json_schema", "compiled (Invalid type: strin)"),
        ({"json_schema": nested(type="x")}, "json_schema", "(/properties/a~1b/anyOf/1: Invalid"),
        ({"json_schema": nested(pattern="x(")}, "json_schema", "anyOf/1: character 2: unclosed"),
        ({"json_schema": {"$ref": "#/x"}}, "json_schema", "Pointer '/x' does not exist"),
        ({"regex": "a(b"}, "regex", "cannot be compiled (character 2: unclosed group)"),
        ({"regex": "x\n(b"}, "regex", "unclosed group"),
        ({"regex": "\ud800"}, "regex", "is not valid Unicode (a lone surrogate, U+D800"),
        ({"grammar": 'start: "a"\nb: ('}, "grammar", "cannot be compiled (line 2, column 5: "),
        ({"grammar": "start: /a(/"}, "grammar", "(line 1, column 8: character 2: unclosed group)"),
        ({"grammar": 5}, "grammar", "must be a text, got the number 5"),
        ({"choices": ("a", "")}, "choices", "must not be empty"),
        ({"choices": "yes"}, "choices", "must be a list"),
        ({"regex": "a", "choices": ("a",)}, "choices", "cannot be used together with `regex`"),
    ],
)
def test_what_does_not_compile_is_refused_with_its_place(
    options: dict[str, object], field: str, words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        SamplingParams(**options)
    assert caught.value.where == field
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_llguidance_the_error_says_how_to_get_it() -> None:
    code = (
        "import sys; sys.modules['llguidance'] = None\n"
        "from gptcli.sampling.params import SamplingParams\n"
        "from gptcli.core.errors import RunError\n"
        "SamplingParams()\n"
        "try: SamplingParams(regex='a')\n"
        "except RunError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'gptcli[constrain]'" in run.stdout
