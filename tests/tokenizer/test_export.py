"""A copied tokenizer is the tokenizer."""

from pathlib import Path

import pytest
from tokenizer_files import byte_ranks, write_json, write_ranks
from tokenizer_kinds import KINDS, write_kind
from transformers import AutoTokenizer

from gptcli.tokenizer.export import tokenizer_files, with_bos_token
from gptcli.tokenizer.tokenizer import load_tokenizer

TEXT = "Hello, the mRNA dog <A> costs 365; naïve 東京"


def copied(files: dict[str, bytes], directory: Path) -> Path:
    directory.mkdir()
    for name, contents in files.items():
        (directory / name).write_bytes(contents)
    return directory


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_gives_the_same_ids(tmp_path: Path, kind: str) -> None:
    before = load_tokenizer(None, write_kind(kind, tmp_path / "model"))
    name, files = tokenizer_files(None, tmp_path / "model", "ranks.tiktoken")
    if kind == "tokenizer.json alone":  # a GPT-2 by its config.json, which a copy has not
        files["tokenizer_config.json"] = b'{"tokenizer_class": "GPT2Tokenizer"}'
    after = load_tokenizer(name, copied(files, tmp_path / "copy"))
    assert after.encode_prompt(TEXT) == before.encode_prompt(TEXT)
    assert (after.n_vocab, after.eos_ids) == (before.n_vocab, before.eos_ids)


def test_a_rank_file_gets_the_name_that_is_wanted(tmp_path: Path) -> None:
    write_ranks(tmp_path / "own.tiktoken", byte_ranks(b"th"))
    write_json(tmp_path / "tokenizer_config.json", {"add_bos_token": True})
    before = load_tokenizer("own.tiktoken", tmp_path)
    name, files = tokenizer_files("own.tiktoken", tmp_path, "ranks.tiktoken")
    assert name == "ranks.tiktoken"
    copy = load_tokenizer(name, copied(files, tmp_path / "copy"))
    assert copy.encode_prompt("the") == before.encode_prompt("the") == [257, 256, ord("e")]


def test_ends_that_only_the_models_files_name_are_kept(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write_ranks(tmp_path / "model" / "tokenizer.tiktoken", byte_ranks())
    write_json(tmp_path / "model" / "config.json", {"eos_token_id": [3, 5]})
    name, files = tokenizer_files(None, tmp_path / "model", "ranks.tiktoken")
    assert load_tokenizer(name, copied(files, tmp_path / "copy")).eos_ids == {3, 5}


@pytest.mark.parametrize("kind", ["plain", "template", "GPT-2", "vocab and merges"])
def test_a_copy_can_begin_its_texts_with_their_end(tmp_path: Path, kind: str) -> None:
    before = load_tokenizer(None, write_kind(kind, tmp_path / "model"))
    _, files = tokenizer_files(None, tmp_path / "model", "ranks.tiktoken")
    copy = copied(with_bos_token(files, "<|endoftext|>"), tmp_path / "copy")
    ids = [0, *before.encode(TEXT)]
    assert load_tokenizer(None, copy).encode_prompt(TEXT) == ids
    write_json(copy / "config.json", {"model_type": "gpt2"})
    assert AutoTokenizer.from_pretrained(copy)(TEXT, split_special_tokens=True).input_ids == ids
