"""GPT-2's tokenizer in every form, and Hugging Face's files that are not what they should be."""

import json
from pathlib import Path

import pytest
import tiktoken
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizer_files import write_json, write_ranks
from tokenizer_kinds import byte_level, unigram

from gptcli.core.errors import GptcliError, InputError
from gptcli.tokenizer.byte_letters import BYTE_OF_LETTER, bytes_of
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer

HARD = [
    "",
    "Hello, I am",
    "  leading and trailing  ",
    "it's we'LL don't 's '",
    "naïve 東京 🙂 \U0001f468\u200d\U0001f469",
    "line\r\n\r\n\ttabs \u00a0\u3000wide",
    "<|endoftext|> is <|endoftext|>",
    "x" * 5000 + "  " * 300 + "1" * 999 + "!?" * 500,
]


@pytest.fixture(scope="module")
def gpt2(tiktoken_cache: Path) -> tiktoken.Encoding:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(tiktoken_cache))
        return tiktoken.get_encoding("gpt2")


@pytest.fixture(scope="module")
def forms(shared: Path, gpt2: tiktoken.Encoding, tmp_path_factory) -> dict[str, Tokenizer]:
    """GPT-2's tokenizer in every form that is read."""
    source = shared / "data" / "gpt2-bpe"
    path = tmp_path_factory.mktemp("forms")
    library = tokenizers.ByteLevelBPETokenizer.from_file(
        str(source / "encoder.json"), str(source / "vocab.bpe")
    )
    library.add_special_tokens(["<|endoftext|>"])
    library.save(str(path / "tokenizer.json"))
    library.save_model(str(path))
    ranks = {gpt2.decode_single_token_bytes(id): id for id in range(50256)}
    write_ranks(path / "some.tiktoken", ranks)
    return {
        "named": load_tokenizer("gpt2"),
        "vocab.bpe": load_tokenizer("vocab.bpe", source),
        "encoder.json": load_tokenizer("encoder.json", source),
        "merges.txt": load_tokenizer("merges.txt", path),
        "tokenizer.json": load_tokenizer("tokenizer.json", path),
        "some.tiktoken": load_tokenizer("some.tiktoken", path),
    }


def test_every_form_of_gpt2_gives_tiktokens_ids(forms, gpt2) -> None:
    for text in HARD:
        ids = gpt2.encode_ordinary(text)
        assert {name: t.encode(text) for name, t in forms.items()} == dict.fromkeys(forms, ids)
    assert forms["named"].encode("Hello, I am") == [15496, 11, 314, 716]


def test_every_form_of_gpt2_has_all_tokens_and_the_end_of_text(forms, gpt2) -> None:
    expected = [gpt2.decode_single_token_bytes(id) for id in range(50257)]
    for tokenizer in forms.values():
        assert (tokenizer.n_vocab, tokenizer.eos_id) == (50257, 50256)
        assert [tokenizer.token_bytes(id) for id in range(50257)] == expected


@pytest.mark.parametrize("letter", ["a", " ", "\n", "!", "1", " \n", "é", "\u3000"])
def test_a_long_run_of_one_letter_is_no_trouble(forms, letter: str) -> None:
    text = letter * (200_000 // len(letter.encode()))
    tokenizer = forms["some.tiktoken"]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_token_has_the_bytes_of_its_letters() -> None:
    assert bytes_of("Ġtheé") == b" the\xe9"
    assert sorted(map(bytes_of, BYTE_OF_LETTER)) == [bytes([b]) for b in range(256)]
    for letter in " \n\x7f\xad\u0144\u4e00\U0001f642":
        assert bytes_of("a" + letter) is None


@pytest.mark.parametrize("id", [-1, 50257, 1 << 24, 1 << 40])
def test_an_id_without_a_token_reads_as_a_replacement_character(forms, id: int) -> None:
    for tokenizer in forms.values():
        assert tokenizer.decode([32, id, 32]) == "A\ufffdA"


def small_json(**changes: object) -> dict[str, object]:
    """A tokenizer.json of two merges; a dotted name changes a setting inside."""
    vocab = {letter: id for id, letter in enumerate(BYTE_OF_LETTER)}
    document: dict[str, object] = {
        "added_tokens": [],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "model": {
            "type": "BPE",
            "vocab": {**vocab, "th": 256, "the": 257},
            "merges": [["t", "h"], ["th", "e"]],
        },
    }
    for name, value in changes.items():
        *outer, last = name.split("__")
        (document[outer[0]] if outer else document)[last] = value  # type: ignore[index]
    return document


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": 3}, 'expected a tokenizer, which has a mapping "model"'),
        ({"model__vocab": 3}, "model.vocab: expected a mapping of tokens to ids"),
        ({"model__vocab": {}}, "model.vocab: expected a mapping of tokens to ids"),
        ({"model__vocab": {"a": True}}, 'the id of "a": expected an integer'),
        ({"model__vocab": {"a": 1 << 24}}, 'the id of "a": expected an integer'),
        ({"model__vocab": {"a": 1, "b": 1}}, "two tokens have the same id"),
        ({"model__merges": 3}, "model.merges: expected a list"),
        ({"model__merges": [["t", "h"], "th"]}, "merge 2: expected two tokens"),
        ({"model__merges": [["t", "h"], ["th", 3]]}, "merge 2: expected two tokens"),
        ({"model__merges": [["t", "h"], 3]}, "merge 2: expected two tokens"),
        ({"model__merges": [["t", "\x1b[31m"]]}, 'merge 1 (t \\x1b[31m): "'),
        ({"model__merges": [["t", "h"], ["e", "e"]]}, 'merge 2 (e e): "ee" has no id'),
        ({"model__continuing_subword_prefix": 3}, "continuing_subword_prefix: expected a text"),
        ({"model__type": "Other"}, "the tokenizers library cannot read it"),
        ({"pre_tokenizer": {"type": "Other"}}, "the tokenizers library cannot read it"),
        ({"model": {"type": "Unigram", "vocab": []}}, "model.unk_id: expected a piece"),
        ({"model": {"type": "Unigram", "vocab": [["a", 0]], "unk_id": 1}}, "model.unk_id: exp"),
        ({"model": {"type": "Unigram", "vocab": [["a"]], "unk_id": 0}}, "library cannot read it"),
    ],
)
def test_a_tokenizer_json_that_is_none_is_named(tmp_path: Path, changes, message: str) -> None:
    path = write_json(tmp_path / "tokenizer.json", small_json(**changes))
    with pytest.raises(InputError) as error:
        load_tokenizer(None, tmp_path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


def test_merges_are_read_in_both_spellings(tmp_path: Path) -> None:
    for merges in ([["t", "h"], ["th", "e"]], ["t h", "th e"]):
        write_json(tmp_path / "tokenizer.json", small_json(model__merges=merges))
        assert load_tokenizer(None, tmp_path).encode("the") == [257]


def values(document: object, path: tuple[object, ...] = ()):
    """Every place in a JSON document."""
    yield path
    items = enumerate(document) if isinstance(document, list) else ()
    if isinstance(document, dict):
        items = document.items()
    for key, value in items:
        if key not in {"vocab", "merges"} or len(value) < 9:
            yield from values(value, (*path, key))


@pytest.mark.parametrize("library", [byte_level(), unigram(byte_fallback=True)])
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_is_changed_in_a_file_it_is_read_or_refused(
    library: tokenizers.Tokenizer, tmp_path: Path, data: st.DataObject
) -> None:
    document = json.loads(library.to_str())
    *outer, last = data.draw(st.sampled_from([p for p in values(document) if p]))
    inner = document
    for key in outer:
        inner = inner[key]
    inner[last] = data.draw(st.sampled_from([None, True, 0, -1, "", "é", "<x>", [], {}, [[]], 1e9]))
    write_json(tmp_path / "tokenizer.json", document)
    try:
        tokenizer = load_tokenizer(None, tmp_path)
        assert tokenizer.decode(tokenizer.encode("Hello <x> é")) is not None
    except GptcliError:
        pass


@pytest.mark.parametrize("name", ["x.json", "x.bpe", "merges.txt", "vocab.json", "meta.json"])
@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"\x00" * 9, b"[[[[", b"[]", b"a b c\n", b"nan", b"{}"]
)
def test_whatever_a_file_holds_the_error_is_an_input_error(tmp_path, name: str, content) -> None:
    for file in {name, "vocab.json"}:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError):
        load_tokenizer(name, tmp_path)


def write_pair(directory: Path, merges: str = "#version: 0.2\nt h\nth e\n", **ids: object) -> Path:
    (directory / "merges.txt").write_text(merges)
    vocab = {letter: id for id, letter in enumerate(BYTE_OF_LETTER)}
    write_json(directory / "vocab.json", {**vocab, "th": 256, "the": 257, **ids})
    return directory


def test_an_added_token_has_the_id_that_its_file_gives_it(tmp_path: Path) -> None:
    write_pair(tmp_path)
    write_json(tmp_path / "added_tokens.json", {"mRNA": 300, "<EOS>": 299})
    write_json(tmp_path / "special_tokens_map.json", {"eos_token": "<EOS>"})
    tokenizer = load_tokenizer(None, tmp_path)
    assert tokenizer.encode("mRNA the <EOS>", special=True)[0] == 300
    assert (tokenizer.eos_id, tokenizer.n_vocab) == (299, 301)
    assert tokenizer.decode([300, 299]) == "mRNA<EOS>"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokenizer_class": "RobertaTokenizer"}, "tokenizer_class is RobertaTokenizer"),
        ({"add_bos_token": True}, 'no token is called "<|endoftext|>"'),
        ({"added_tokens_decoder": {"x": "a"}}, 'the id of "a": expected an integer'),
        ({"added_tokens_decoder": {"5": 5}}, "expected a text or a mapping with its content"),
    ],
)
def test_settings_that_mean_another_tokenizer_are_refused(tmp_path, settings, message) -> None:
    write_json(write_pair(tmp_path) / "tokenizer_config.json", settings)
    with pytest.raises(InputError, match=r"tokenizer_config\.json") as error:
        load_tokenizer(None, tmp_path)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        ("a b c\n", "line 1: expected two tokens, found 3"),
        ("#version: 0.2\nt h\nt e\n", 'merge 2 (t e): "te" has no id'),
        ("t h\r\nth x\r\n", 'merge 2 (th x): "thx" has no id'),
    ],
)
def test_bad_merges_are_named(tmp_path: Path, merges: str, message: str) -> None:
    with pytest.raises(InputError, match=r"merges\.txt: ") as error:
        load_tokenizer(None, write_pair(tmp_path, merges))
    assert message in str(error.value)


def test_dropout_of_merges_is_for_training(tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer.json", small_json(model__dropout=0.5))
    tokenizer = load_tokenizer(None, tmp_path)
    assert {tuple(tokenizer.encode("the the")) for _ in range(20)} == {(257, 220, 257)}


def test_an_added_token_reads_as_it_is_spelt(tmp_path: Path) -> None:
    """Its letters are letters, though each of them may stand for a byte in other tokens."""
    library = byte_level()
    library.add_tokens(["né", "two words"])
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(None, tmp_path)
    assert tokenizer.decode(tokenizer.encode("né two words, naïve")) == "né two words, naïve"
