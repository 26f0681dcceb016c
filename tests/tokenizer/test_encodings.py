"""tiktoken's named encodings and rank files."""

import json
import shutil
import socket
from pathlib import Path

import pytest
import tiktoken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from story_text import stories
from tokenizer_files import byte_ranks, write_ranks

from gptcli.core.errors import InputError, RunError, UsageError
from gptcli.tokenizer import encodings
from gptcli.tokenizer.encodings import PATTERN, TiktokenTokenizer, rank_lines
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer
from gptcli.tokenizer.training import train_ranks

TEXTS = (
    *stories(80),
    "Caf\u00e9 \u2603 \U0001f600!",
    "  spaces\n\n\tand 1234 numbers, don't they?",
)
quick = settings(max_examples=60, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("small")
    return load_tokenizer("x.tiktoken", write_ranks(path / "x.tiktoken", byte_ranks()).parent)


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
    with pytest.raises(
        InputError,
        match=r"more tokens than the model \(ids up to 258, expected below .* vocab_size 257\)",
    ):
        load_tokenizer("gpt2", tmp_path, vocab_size=257)


def test_text_is_limited_and_must_be_unicode(small: Tokenizer) -> None:
    assert len(small.encode("é" * (1 << 19))) == 1 << 20
    with pytest.raises(UsageError, match="1,048,577 bytes, expected at most 1,048,576"):
        small.encode("é" * (1 << 19) + "a")
    assert len(small.encode("a" * ((1 << 20) + 1), limit=None)) == (1 << 20) + 1
    with pytest.raises(UsageError, match=r"lone surrogate, U\+D800 at character 3"):
        small.encode("ab\ud800")


def test_a_panic_inside_tiktoken_is_an_error_with_a_message() -> None:
    broken = {b"a": 0}  # a byte without a rank makes tiktoken panic
    encoding = tiktoken.Encoding("x", pat_str=PATTERN, mergeable_ranks=broken, special_tokens={})
    with pytest.raises(UsageError, match="cannot split this text"):
        TiktokenTokenizer(encoding).encode("ab")


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
        (b"YQ== 1\nYQ== 2\n", "line 2: a token that an earlier line has"),
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
    found = encodings._named_encoding("gpt2", offline=True)
    assert found._mergeable_ranks == tiktoken.load.data_gym_to_mergeable_bpe_ranks(*files)
    assert found.decode([50256]) == "<|endoftext|>"


def test_a_download_that_is_something_else_is_refused(network, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    network["vocab.bpe"] = b"<html>Please log in"
    with pytest.raises(RunError, match="tokenizer gpt2: the download is damaged"):
        load_tokenizer("gpt2")
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_is_no_folder_is_an_error_of_ours(network, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(RunError, match="cannot be downloaded or cached"):
        load_tokenizer("gpt2")


def test_only_a_panic_is_taken_for_one(small: Tokenizer) -> None:
    with pytest.raises(TypeError):
        small._encode(3, False, False)  # type: ignore[arg-type]


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
    assert tokenizer.encode_prompt("Hi") == [256, *b"Hi"]
    assert tokenizer.encode("Hi") == [*b"Hi"]


@pytest.mark.parametrize("said", [None, {}, {"add_bos_token": False}, {"add_bos_token": "no"}])
def test_otherwise_a_prompt_is_its_own_text(tmp_path: Path, said: dict[str, object] | None) -> None:
    assert of_directory(tmp_path, said).encode_prompt("Hi") == [*b"Hi"]


def test_a_beginning_that_is_no_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='no special token is called "<s>"'):
        of_directory(tmp_path, {"add_bos_token": True, "bos_token": "<s>"})


def test_tiktoken_reads_the_file_and_gives_the_trainers_tokens(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    oracle = Tokenizer(models.BPE())
    oracle.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=319, initial_alphabet=alphabet, show_progress=False, min_frequency=2
    )
    oracle.train_from_iterator(TEXTS, trainer)

    (tmp_path / "tokenizer.tiktoken").write_bytes(rank_lines(train_ranks(TEXTS, 320)))
    tokenizer = load_tokenizer("tokenizer.tiktoken", tmp_path)
    for text in (*TEXTS, "unseen words, \u00fc\u00e4\u00f6"):
        pieces = [tokenizer.token_bytes(id) for id in tokenizer.encode(text)]
        assert b"".join(pieces) == text.encode()
        assert len(pieces) == len(oracle.encode(text).ids)


def test_the_last_id_is_left_for_the_end_of_text(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.tiktoken").write_bytes(rank_lines(train_ranks(TEXTS, 280)))
    tokenizer = load_tokenizer("tokenizer.tiktoken", tmp_path, vocab_size=280)
    assert (tokenizer.n_vocab, tokenizer.eos_id) == (280, 279)


def test_the_same_text_gives_the_same_ranks() -> None:
    assert rank_lines(train_ranks(TEXTS, 310)) == rank_lines(train_ranks(TEXTS, 310))


def test_little_text_gives_few_tokens() -> None:
    assert len(train_ranks(["abab"], 1000)) < 300
