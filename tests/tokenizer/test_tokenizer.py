import json
import shutil
import socket
from pathlib import Path

import pytest
import tiktoken
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizer_files import bpe_of, byte_ranks, trained, write_json, write_ranks

from gptcli.core.errors import InputError, RunError, UsageError
from gptcli.tokenizer import bpe, encodings
from gptcli.tokenizer.export import files_of
from gptcli.tokenizer.tokenizer import PATTERN, Tokenizer, load_tokenizer
from gptcli.tokenizer.vocabulary import Vocabulary

# What tokenizers and tiktoken may split differently: letters newer than one of their tables.
ASSIGNED = st.characters(exclude_categories=["Cs", "Cn"], max_codepoint=0x1F6FF)
TEXT = st.text(
    st.one_of(ASSIGNED, st.sampled_from(" \n\t'stabc019,!é東🙂\u00a0\u3000")), max_size=60
)
quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

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


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("small")
    return load_tokenizer("x.tiktoken", write_ranks(path / "x.tiktoken", byte_ranks()).parent)


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


@quick
@given(text=TEXT)
def test_gpt2_equals_the_tokenizers_library(shared: Path, forms, text: str) -> None:
    library = gpt2_by_the_library(shared)
    assert forms["tokenizer.json"].encode(text) == library.encode(text).ids


def gpt2_by_the_library(shared: Path, kept: list[object] = []):  # noqa: B006
    if not kept:
        source = shared / "data" / "gpt2-bpe"
        names = (str(source / "encoder.json"), str(source / "vocab.bpe"))
        kept.append(tokenizers.ByteLevelBPETokenizer.from_file(*names))
    return kept[0]


@pytest.mark.parametrize("prefix_space", [False, True])
@pytest.mark.parametrize("order", ["kept", "reversed"])
def test_a_trained_tokenizer_json_gives_the_librarys_ids(
    tmp_path: Path, order: str, prefix_space: bool
) -> None:
    specials = ["<pad>", "<|endoftext|>"]
    library = trained(specials=specials, prefix_space=prefix_space)
    document = json.loads(library.to_str())
    if order == "reversed":  # ids that cannot serve as ranks
        vocab = document["model"]["vocab"]
        document["model"]["vocab"] = {token: 5 + len(vocab) - id for token, id in vocab.items()}
        for token in document["added_tokens"]:
            token["id"] = document["model"]["vocab"][token["content"]]
        library = tokenizers.Tokenizer.from_str(json.dumps(document))
    write_json(tmp_path / "tokenizer.json", document)
    ours = load_tokenizer("gpt2", tmp_path)
    for text in [*HARD[:6], "the cat's café", " the", "\tthe"]:
        assert ours.encode(text) == library.encode(text).ids
        assert ours.decode(ours.encode(text)) == (
            " " * (prefix_space and text[:1] not in {"", " "}) + text
        )
    assert ours.eos_id == library.token_to_id("<|endoftext|>")
    assert ours.token_bytes(library.token_to_id("<pad>")) == b"<pad>"


@settings(max_examples=400, deadline=None)
@given(
    choices=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=12),
    texts=st.lists(st.text("abc", max_size=24), min_size=5, max_size=5),
)
def test_accepted_merges_give_the_librarys_tokens(choices, texts) -> None:
    tokens, merges = ["a", "b", "c"], []
    for i, j in choices:
        left, right = tokens[i % len(tokens)], tokens[j % len(tokens)]
        if left + right not in tokens:
            try:
                bpe.ranks_of_merges([*merges, (left, right)])
            except bpe.MergeError:
                continue
            merges.append((left, right))
            tokens.append(left + right)
    ranks = bpe.ranks_of_merges(merges)
    vocab = {bytes_to_letters(token): rank for token, rank in ranks.items()}
    library = bpe_of(vocab, merges)
    ours = Tokenizer.of(Vocabulary("random", ranks))
    assert [ours.encode(text) for text in texts] == [library.encode(t).ids for t in texts]


def bytes_to_letters(token: bytes) -> str:
    letters = {byte: letter for letter, byte in bpe.BYTE_OF_LETTER.items()}
    return "".join(letters[byte] for byte in token)


def test_gpt2s_merges_pass_the_check_that_they_are_spared(shared: Path, monkeypatch) -> None:
    lines = (shared / "data" / "gpt2-bpe" / "vocab.bpe").read_text(encoding="utf-8").split("\n")
    merges = [(line.split()[0], line.split()[1]) for line in lines[1:] if line]
    monkeypatch.setattr(bpe, "_check", pytest.fail)
    spared = bpe.ranks_of_merges(merges)
    monkeypatch.undo()
    monkeypatch.setattr(bpe, "GPT2_MERGES", "")
    assert bpe.ranks_of_merges(merges) == spared
    with pytest.raises(bpe.MergeError, match="merge 50,001"):
        bpe.ranks_of_merges([*merges, merges[0]])


def test_a_token_has_the_bytes_of_its_letters() -> None:
    assert bpe.token_bytes("Ġtheé") == b" the\xe9"
    assert sorted(map(bpe.token_bytes, bpe.BYTE_OF_LETTER)) == [bytes([b]) for b in range(256)]
    for letter in " \n\x7f\xad\u0144\u4e00\U0001f642":
        with pytest.raises(bpe.MergeError, match="a letter stands for no byte"):
            bpe.token_bytes("a" + letter)


def test_merges_that_tiktoken_joins_otherwise_are_refused() -> None:
    # "abc" is bc first, so a merge of ab and c never happens; tiktoken would join a and bc.
    merges = [("b", "c"), ("a", "b"), ("ab", "c")]
    with pytest.raises(bpe.MergeError, match=r"merge 3 \(ab c\).*another way"):
        bpe.ranks_of_merges(merges)
    ranks = {**byte_ranks(b"bc", b"ab", b"abc")}
    encoding = tiktoken.Encoding("x", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    library = bpe_of({bytes_to_letters(t): i for t, i in ranks.items()}, merges)
    assert encoding.encode_ordinary("abc") != library.encode("abc").ids


@quick
@given(ids=st.lists(st.integers(-2, 300), max_size=40))
def test_streamed_text_equals_text_decoded_at_once(small: Tokenizer, ids: list[int]) -> None:
    decoder = small.decoder()
    streamed = "".join(map(decoder.feed, ids)) + decoder.finish()
    assert streamed == small.decode(ids)


@quick
@given(text=st.text(max_size=20))
def test_a_character_leaves_the_stream_whole(small: Tokenizer, text: str) -> None:
    decoder = small.decoder()
    pieces = [decoder.feed(id) for id in small.encode(text)]
    assert "".join(pieces) == text
    assert decoder.finish() == ""
    assert all(len(piece) <= 1 for piece in pieces)


def test_a_character_that_was_begun_is_replaced_at_the_end(small: Tokenizer) -> None:
    decoder = small.decoder()
    assert [decoder.feed(0xF0), decoder.feed(0x9F), decoder.finish()] == ["", "", "\ufffd"]


@pytest.mark.parametrize("id", [-1, 257, 50303, 1 << 40])
def test_an_id_without_a_token_reads_as_a_replacement_character(small, forms, id: int) -> None:
    assert small.decode([0x41, id, 0x42]) == "A\ufffdB"
    if not 0 <= id < 50257:
        assert forms["named"].decode([32, id]) == "A\ufffd"


def test_a_rank_file_ends_with_the_end_of_text_where_the_model_has_room(tmp_path: Path) -> None:
    write_ranks(tmp_path / "tokenizer.tiktoken", byte_ranks(b"th", b"the"))
    for vocab_size in (None, 259, 300):
        tokenizer = load_tokenizer("gpt2", tmp_path, vocab_size=vocab_size)
        assert (tokenizer.n_vocab, tokenizer.eos_id) == (259, 258)
        assert tokenizer.token_bytes(258) == b"<|endoftext|>"
        assert tokenizer.encode("the<|endoftext|>")[0] == 257
        assert 258 not in tokenizer.encode("the<|endoftext|>")
    tokenizer = load_tokenizer("gpt2", tmp_path, vocab_size=258)
    assert (tokenizer.n_vocab, tokenizer.eos_id) == (258, None)
    with pytest.raises(InputError, match="vocab_size 257 is smaller than the tokenizer's 259"):
        load_tokenizer("gpt2", tmp_path, vocab_size=257)


def test_a_directorys_own_files_go_before_a_download(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(encodings, "_download", pytest.fail)
    library = trained(specials=["<|endoftext|>"])
    library.model.save(str(tmp_path))  # vocab.json, merges.txt
    assert load_tokenizer("r50k_base", tmp_path).name == "merges.txt"
    library.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer("r50k_base", tmp_path).name == "tokenizer.json"
    write_ranks(tmp_path / "tokenizer.tiktoken", byte_ranks())
    assert load_tokenizer("r50k_base", tmp_path).name == "tokenizer.tiktoken"
    assert load_tokenizer("tokenizer.json", tmp_path).name == "tokenizer.json"


def test_tokenizer_config_names_the_end_of_text(tmp_path: Path) -> None:
    trained(specials=["<stop>", "<|endoftext|>"]).save(str(tmp_path / "tokenizer.json"))
    for value in ("<stop>", {"content": "<stop>"}):
        write_json(tmp_path / "tokenizer_config.json", {"eos_token": value})
        assert load_tokenizer("gpt2", tmp_path).eos_id == 0
    write_json(tmp_path / "tokenizer_config.json", {"eos_token": None})
    assert load_tokenizer("gpt2", tmp_path).eos_id == 1


def test_text_is_limited_and_must_be_unicode(small: Tokenizer) -> None:
    assert len(small.encode("é" * (1 << 19))) == 1 << 20
    with pytest.raises(UsageError, match="1,048,577 bytes, expected at most 1,048,576"):
        small.encode("é" * (1 << 19) + "a")
    assert len(small.encode("a" * ((1 << 20) + 1), limit=None)) == (1 << 20) + 1
    with pytest.raises(UsageError, match=r"lone surrogate, U\+D800 at character 3"):
        small.encode("ab\ud800")


@pytest.mark.parametrize("letter", ["a", " ", "\n", "!", "1", " \n", "é", "\u3000"])
def test_a_long_run_of_one_letter_is_no_trouble(forms, letter: str) -> None:
    text = letter * (200_000 // len(letter.encode()))
    tokenizer = forms["some.tiktoken"]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_panic_inside_tiktoken_is_an_error_with_a_message() -> None:
    broken = {b"a": 0}  # a byte without a rank makes tiktoken panic
    encoding = tiktoken.Encoding("x", pat_str=PATTERN, mergeable_ranks=broken, special_tokens={})
    with pytest.raises(UsageError, match="cannot split this text"):
        Tokenizer(encoding, Vocabulary("x", broken)).encode("ab")


def test_without_files_and_network_the_error_says_what_to_do(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(RunError, match=r"working offline\..*encoder\.json.*TIKTOKEN_CACHE_DIR"):
        load_tokenizer("r50k_base", offline=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RunError, match="working offline"):
        load_tokenizer("r50k_base")


def test_a_server_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    pytest.importorskip("requests")  # before the clock runs: it is slow to load
    monkeypatch.setattr(encodings, "CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        with pytest.raises(RunError, match="is not on this machine, and"):
            load_tokenizer("r50k_base")
    monkeypatch.setattr(encodings, "CONNECT_SECONDS", 30)
    with pytest.raises(RunError, match="the network cannot be reached"):  # nobody listens any more
        load_tokenizer("r50k_base")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"YQ== 1 2\n", "line 1: expected a token in base64 and its rank, found 3 fields"),
        (b"YQ== 1\n\n*** 2\n", "line 3: the token is not base64"),
        (b" 1 \nYQ==\n", "line 1: expected a token"),
        (b"YQ== 1\n" + b"YQ" * 2000 + b" 2", "line 2: a token of 3,000 bytes (expected 1 to"),
        (b"YQ== -1\n", 'line 1: expected a rank below 16,777,216, found "-1"'),
        (b"YQ== 99999999999\n", "expected a rank below"),
        (b"YQ== 1\nYQ== 2\n", "line 2: the token of an earlier line"),
        (b"YQ== 0\n", "255 of the 256 bytes have no rank (0x00, 0x01"),
        (b"", "256 of the 256 bytes have no rank"),
    ],
)
def test_a_bad_rank_file_is_named_with_its_line(tmp_path: Path, content, message: str) -> None:
    (tmp_path / "x.tiktoken").write_bytes(content)
    with pytest.raises(InputError) as error:
        load_tokenizer("x.tiktoken", tmp_path)
    assert str(tmp_path / "x.tiktoken") in str(error.value)
    assert message in str(error.value)


def test_ranks_that_are_not_unique_are_refused(tmp_path: Path) -> None:
    write_ranks(tmp_path / "x.tiktoken", {**byte_ranks(), b"th": 7})
    with pytest.raises(InputError, match="two tokens have the same rank"):
        load_tokenizer("x.tiktoken", tmp_path)


def small_json(**changes) -> dict:
    """A tokenizer.json of two merges; a dotted name changes a setting inside."""
    vocab = {letter: id for id, letter in enumerate(bpe.BYTE_OF_LETTER)}
    document = {
        "added_tokens": [{"id": 258, "content": "<|endoftext|>"}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
        "model": {
            "type": "BPE",
            "vocab": {**vocab, "th": 256, "the": 257},
            "merges": [["t", "h"], ["th", "e"]],
        },
    }
    for name, value in changes.items():
        *outer, last = name.split("__")
        (document[outer[0]] if outer else document)[last] = value
    return document


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__type": "WordPiece"}, 'model.type: expected "BPE", found "WordPiece"'),
        ({"model": 3}, "model.vocab: expected a mapping"),
        ({"model__merges": 3}, "model.merges: expected a list"),
        ({"model__merges": [["t", "h"], "th"]}, "merge 2: expected two tokens"),
        ({"model__merges": [["t", "h"], ["th", 3]]}, "merge 2: expected two tokens"),
        ({"model__merges": [["th", "e"]]}, "merge 1 (th e): joins a token that no earlier"),
        ({"model__merges": [["t", "h"]] * 2}, "merge 2 (t h): makes a token that an earlier"),
        ({"model__merges": [["t", "\x1b[31m"]]}, r"merge 1 (t \x1b[31m): a letter stands for no"),
        ({"model__merges": [["t" * 600, "t"]]}, "merge 1 (tttt"),
        ({"model__merges": [["t", "h"], ["e", "e"]]}, '1 tokens have no id ("ee")'),
        ({"model__vocab": {"a": 0}}, "257 tokens have no id"),
        ({"model__vocab": {"a": True}}, 'the id of "a": expected an integer'),
        ({"model__vocab": {"a": 1 << 24}}, 'the id of "a": expected an integer'),
        ({"model__vocab": {"a": 1, "b": 1}}, "two tokens have the same id"),
        ({"added_tokens": [{"id": 3, "content": "<x>"}]}, "two tokens have the same id"),
        ({"added_tokens": [{"id": "3", "content": "<x>"}]}, "added_tokens: expected"),
        ({"model__dropout": 0.1}, "model.dropout: 0.1 is not supported"),
        ({"model__byte_fallback": True}, "model.byte_fallback: True is not supported"),
        ({"model__end_of_word_suffix": "</w>"}, "model.end_of_word_suffix: </w> is not"),
        ({"pre_tokenizer": None}, "pre_tokenizer: expected ByteLevel with its pattern, found none"),
        ({"pre_tokenizer__type": "Metaspace"}, "found Metaspace"),
        ({"pre_tokenizer__use_regex": False}, "pre_tokenizer: expected ByteLevel with its"),
        ({"normalizer": {"type": "NFC"}}, "normalizer: NFC is not supported"),
        ({"post_processor": {"type": "BertProcessing"}}, "post_processor: adding tokens"),
        (
            {"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {}}]}},
            "post_processor: adding tokens",
        ),
    ],
)
def test_a_tokenizer_json_that_is_not_gpt2s_kind_is_refused(tmp_path, changes, message) -> None:
    path = write_json(tmp_path / "tokenizer.json", small_json(**changes))
    with pytest.raises(InputError) as error:
        load_tokenizer("gpt2", tmp_path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


def test_a_plain_tokenizer_json_is_read_in_both_spellings_of_its_merges(tmp_path: Path) -> None:
    for merges in ([["t", "h"], ["th", "e"]], ["t h", "th e"]):
        document = small_json(
            model__merges=merges,
            post_processor={"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}]},
        )
        write_json(tmp_path / "tokenizer.json", document)
        tokenizer = load_tokenizer("gpt2", tmp_path)
        assert tokenizer.encode("the") == [257]
        assert (tokenizer.eos_id, tokenizer.n_vocab) == (258, 259)


@pytest.mark.parametrize("name", ["x.tiktoken", "x.json", "x.bpe", "merges.txt", "vocab.json"])
@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"\x00" * 9, b"[[[[", b"[]", b"a b c\n", b"nan"]
)
def test_whatever_a_file_holds_the_error_is_an_input_error(tmp_path, name: str, content) -> None:
    for file in {name, "vocab.json"}:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError):
        load_tokenizer(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpt-2", "tokenizer gpt-2: neither a tiktoken name nor a file.*Did you mean gpt2"),
        ("zzz", "tiktoken knows gpt2"),
        ("gone.tiktoken", r"gone\.tiktoken: no such file"),
        ("merges.txt", r"merges\.txt: no such file"),
        ("pair.bpe", r"encoder\.json: no such file"),
        ("notes.md", r'cannot tell the format from "\.md"'),
        ("folder.json", "not a regular file"),
        ("cl100k_base.tiktoken", 'Write "tokenizer: cl100k_base"'),
    ],
)
def test_a_name_that_leads_nowhere_says_so(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "pair.bpe").write_text("#version: 0.2\n")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(InputError, match=message):
        load_tokenizer(name, tmp_path)


@pytest.fixture
def network(shared: Path, monkeypatch) -> dict[str, bytes]:
    """A network that has GPT-2's files; tiktoken starts afresh."""
    source = shared / "data" / "gpt2-bpe"
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    monkeypatch.setattr(encodings, "_download", lambda address: files[address.rpartition("/")[2]])
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    return files


def test_a_download_is_kept_in_tiktokens_cache(network, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    assert load_tokenizer("gpt2").encode("Hello") == [15496]
    network.clear()
    tiktoken.registry.ENCODINGS.clear()
    assert load_tokenizer("gpt2", offline=True).encode("Hello") == [15496]


def test_ranks_from_the_merges_alone_are_tiktokens(
    shared: Path, tiktoken_cache: Path, tmp_path: Path, monkeypatch
) -> None:
    """The vocabulary, which says the same again, is not read."""
    source = shared / "data" / "gpt2-bpe"
    files = [str(source / name) for name in ("vocab.bpe", "encoder.json")]
    for name in tiktoken_cache.iterdir():
        if name.read_bytes() == (source / "vocab.bpe").read_bytes():
            shutil.copy(name, tmp_path)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    found = encodings.named_encoding("gpt2", offline=True)
    assert found._mergeable_ranks == tiktoken.load.data_gym_to_mergeable_bpe_ranks(*files)
    assert found.decode([50256]) == "<|endoftext|>"


def test_a_download_that_is_something_else_is_refused(network, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    network["vocab.bpe"] = b"<html>Please log in"
    with pytest.raises(RunError, match="tokenizer gpt2: what was downloaded is not its data"):
        load_tokenizer("gpt2")
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_is_no_folder_is_an_error_of_ours(network, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(RunError, match="cannot be downloaded or cached"):
        load_tokenizer("gpt2")


def test_a_token_has_a_largest_size() -> None:
    merges = [("a" * 2**n, "a" * 2**n) for n in range(11)]
    assert len(bpe.ranks_of_merges(merges[:-1])) == 266
    with pytest.raises(bpe.MergeError, match=r"merge 11 .*a token of 2,048 bytes \(at most 1,024"):
        bpe.ranks_of_merges(merges)


def test_only_a_panic_is_taken_for_one(small: Tokenizer) -> None:
    with pytest.raises(TypeError):
        small._encode(3)  # type: ignore[arg-type]


def test_tokens_that_text_never_becomes_can_still_be_read(tmp_path: Path) -> None:
    document = small_json(added_tokens=[])
    document["model"]["vocab"] |= {"Ġodd": 258, "two words": 259, "<|endoftext|>": 300}
    write_json(tmp_path / "tokenizer.json", document)
    tokenizer = load_tokenizer("gpt2", tmp_path)
    assert [tokenizer.token_bytes(id) for id in (258, 259)] == [b" odd", b"two words"]
    assert not {258, 259, 300} & set(tokenizer.encode(" odd two words <|endoftext|>"))
    assert (tokenizer.eos_id, tokenizer.n_vocab) == (300, 301)


def test_a_vocabulary_must_be_a_mapping(tmp_path: Path) -> None:
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\n")
    write_json(tmp_path / "vocab.json", ["t", "h"])
    with pytest.raises(InputError, match=r"vocab\.json: expected one mapping"):
        load_tokenizer("merges.txt", tmp_path)


def of_directory(directory: Path, said: dict[str, object] | None) -> Tokenizer:
    """A byte tokenizer whose end of text is 256, with a tokenizer_config.json."""
    write_ranks(directory / "tokenizer.tiktoken", byte_ranks())
    if said is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(said))
    return load_tokenizer("tokenizer.tiktoken", directory)


@pytest.mark.parametrize(
    "token", [{}, {"bos_token": "<|endoftext|>"}, {"bos_token": {"content": "<|endoftext|>"}}]
)
def test_a_prompt_begins_with_the_token_that_the_model_was_trained_with(
    tmp_path: Path, token: dict[str, object]
) -> None:
    tokenizer = of_directory(tmp_path, {"add_bos_token": True, **token})
    assert tokenizer.prompt("Hi") == [256, *b"Hi"]
    assert tokenizer.encode("Hi") == [*b"Hi"]


@pytest.mark.parametrize("said", [None, {}, {"add_bos_token": False}, {"add_bos_token": "no"}])
def test_otherwise_a_prompt_is_its_own_text(tmp_path: Path, said: dict[str, object] | None) -> None:
    assert of_directory(tmp_path, said).prompt("Hi") == [*b"Hi"]


def test_a_beginning_that_is_no_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='no special token is called "<s>"'):
        of_directory(tmp_path, {"add_bos_token": True, "bos_token": "<s>"})


def test_a_copied_tokenizer_begins_prompts_as_before(tmp_path: Path) -> None:
    before = of_directory(tmp_path, {"add_bos_token": True})
    name, files = files_of("tokenizer.tiktoken", tmp_path, 257, "ranks.tiktoken")
    copy = tmp_path / "copy"
    copy.mkdir()
    for file, contents in files.items():
        (copy / file).write_bytes(contents)
    assert load_tokenizer(name, copy).prompt("Hi") == before.prompt("Hi")
