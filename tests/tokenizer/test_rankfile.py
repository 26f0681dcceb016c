import sys
from pathlib import Path

import pytest
from story_text import stories

from gptcli.core.errors import RunError
from gptcli.tokenizer.rankfile import rank_lines, train_ranks
from gptcli.tokenizer.tokenizer import load_tokenizer

TEXTS = (
    *stories(80),
    "Caf\u00e9 \u2603 \U0001f600!",
    "  spaces\n\n\tand 1234 numbers, don't they?",
)


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


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(RunError, match="tokenizers library is not installed"):
        train_ranks(TEXTS, 300)
