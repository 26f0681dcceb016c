"""Which tokenizer a model has, and where its texts end."""

from pathlib import Path

import pytest
from tokenizer_files import byte_ranks, write_json, write_ranks
from tokenizer_kinds import byte_level, saved

from gptcli.core.errors import InputError, UsageError
from gptcli.tokenizer import encodings
from gptcli.tokenizer.tokenizer import load_tokenizer


def test_a_directorys_own_files_go_before_a_download(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(encodings, "_download", pytest.fail)
    library = byte_level()
    library.model.save(str(tmp_path))  # vocab.json, merges.txt
    for name in ("r50k_base", None):
        assert load_tokenizer(name, tmp_path).name == "merges.txt"
    library.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer("r50k_base", tmp_path).name == "tokenizer.json"
    write_ranks(tmp_path / "tokenizer.tiktoken", byte_ranks())
    assert load_tokenizer("r50k_base", tmp_path).name == "tokenizer.tiktoken"
    assert load_tokenizer("tokenizer.json", tmp_path).name == "tokenizer.json"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpt-2", "tokenizer gpt-2: neither a tiktoken name nor a file.*Did you mean gpt2"),
        ("zzz", "tiktoken knows gpt2"),
        ("gone.tiktoken", r"gone\.tiktoken: no such file"),
        ("merges.txt", r"vocab\.json: no such file|merges\.txt: no such file"),
        ("pair.bpe", r"encoder\.json: no such file"),
        ("notes.md", r'cannot tell the format from "\.md"'),
        ("folder.json", "not a regular file"),
        ("cl100k_base.tiktoken", 'Write "tokenizer: cl100k_base"'),
        ("spiece.model", r"spiece\.model: a tokenizer of a kind that is not supported"),
        ("meta.pkl", r"meta\.pkl: a pickle is never read"),
    ],
)
def test_a_name_that_leads_nowhere_says_so(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "pair.bpe").write_text("#version: 0.2\n")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(InputError, match=message):
        load_tokenizer(name, tmp_path)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (["spiece.model"], r"spiece\.model: a tokenizer of a kind"),
        (["sentencepiece.bpe.model", "added_tokens.json"], r"sentencepiece\.bpe\.model"),
        (["vocab.txt", "tokenizer_config.json"], r"vocab\.txt: .* not supported\. Save it as"),
        (["vocab.json"], r"vocab\.json: has no merges\.txt beside it"),
        (["merges.txt"], r"vocab\.json: no such file"),
        (["encoder.json"], r"encoder\.json: has no vocab\.bpe beside it"),
        (["meta.pkl"], r"meta\.pkl: a pickle is never read.*Write its stoi and itos to meta\.json"),
        (["vocab.pkl"], r"vocab\.pkl: a pickle is never read"),
    ],
)
@pytest.mark.parametrize("vocab_size", [50257, 300])
def test_a_tokenizer_that_cannot_be_read_is_refused_by_its_file(
    tmp_path: Path, files: list[str], named: str, vocab_size: int
) -> None:
    for file in files:
        (tmp_path / file).write_text("" if file == "merges.txt" else "{}")
    with pytest.raises(InputError, match=named):
        load_tokenizer(None, tmp_path, vocab_size=vocab_size)


def test_a_class_whose_files_are_missing_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer"})
    with pytest.raises(InputError, match=r"tokenizer_config\.json: .*T5Tokenizer"):
        load_tokenizer(None, tmp_path, vocab_size=50257)


@pytest.mark.parametrize("vocab_size", [61, 50256, 50305, 65000])
def test_gpt2_is_no_guess_for_a_vocabulary_of_another_size(tmp_path: Path, vocab_size: int) -> None:
    for directory in (tmp_path, None):
        with pytest.raises(InputError, match=rf"vocab_size {vocab_size}.*Put its tokenizer\.json"):
            load_tokenizer(None, directory, vocab_size=vocab_size)


@pytest.mark.parametrize("vocab_size", [None, 50257, 50304])
def test_gpt2_is_the_tokenizer_of_a_model_without_one(
    tiktoken_cache: Path, tmp_path: Path, monkeypatch, vocab_size: int | None
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tiktoken_cache))
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer"})
    (tmp_path / "model.safetensors").write_bytes(b"")
    tokenizer = load_tokenizer(None, tmp_path, vocab_size=vocab_size, offline=True)
    assert (tokenizer.name, tokenizer.n_vocab, tokenizer.eos_id) == ("gpt2", 50257, 50256)


def test_a_name_chooses_gpt2_for_a_larger_vocabulary(tiktoken_cache, monkeypatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tiktoken_cache))
    assert load_tokenizer("gpt2", vocab_size=60000).n_vocab == 50257
    with pytest.raises(InputError, match=r"tiktoken's gpt2 has more tokens than the model \(ids"):
        load_tokenizer("gpt2", vocab_size=300)


END = "<|endoftext|>"


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({}, {0}),
        ({"tokenizer_config.json": {"eos_token": "<stop>"}}, {380}),
        ({"tokenizer_config.json": {"eos_token": {"content": "<stop>"}}}, {380}),
        ({"tokenizer_config.json": {"eos_token": None}}, {0}),
        ({"special_tokens_map.json": {"eos_token": "<stop>"}}, {380}),
        ({"special_tokens_map.json": {"eos_token": {"content": END}}}, {0}),
        ({"generation_config.json": {"eos_token_id": 7}}, {7}),
        ({"generation_config.json": {"eos_token_id": [7, 9, 7]}}, {7, 9}),
        ({"generation_config.json": {"eos_token_id": None}}, {0}),
        ({"config.json": {"eos_token_id": 390, "model_type": "gpt2"}}, {390}),
        (
            {"config.json": {"eos_token_id": [5]}, "generation_config.json": {"eos_token_id": 6}},
            {5, 6},
        ),
        (
            {
                "config.json": {"eos_token_id": 5},
                "tokenizer_config.json": {"eos_token": "<stop>"},
                "special_tokens_map.json": {"eos_token": END},
            },
            {0, 5, 380},
        ),
    ],
)
def test_every_file_of_transformers_can_name_an_end(tmp_path: Path, files, ends: set[int]) -> None:
    library = byte_level()
    library.add_special_tokens(["<stop>"])
    library.save(str(tmp_path / "tokenizer.json"))
    for name, content in files.items():
        write_json(tmp_path / name, content)
    tokenizer = load_tokenizer(None, tmp_path, vocab_size=400)
    assert tokenizer.eos_ids == ends
    assert tokenizer.eos_id in ends
    assert tokenizer.n_vocab > max(ends)
    assert not tokenizer.notices


@pytest.mark.parametrize("value", ["7", 1.5, True, [1, None, "x"], -2, {"a": 1}])
def test_an_end_that_is_no_id_is_refused(tmp_path: Path, value: object) -> None:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    write_json(tmp_path / "generation_config.json", {"eos_token_id": value})
    with pytest.raises(
        InputError, match=r"generation_config\.json: eos_token_id: expected a token"
    ):
        load_tokenizer(None, tmp_path)


def test_an_end_outside_the_vocabulary_is_told_and_ends_nothing(tmp_path: Path) -> None:
    library = byte_level()
    library.add_special_tokens(["<stop>", "<pad>"])
    saved(library, tmp_path, eos_token="<stop>", pad_token="<pad>")
    write_json(tmp_path / "config.json", {"eos_token_id": 380, "pad_token_id": 381})
    tokenizer = load_tokenizer(None, tmp_path, vocab_size=380)
    assert (tokenizer.eos_id, tokenizer.eos_ids, tokenizer.n_vocab) == (None, frozenset(), 380)
    assert tokenizer.notices == (
        'tokenizer_config.json: eos_token "<stop>", id 380, is outside the vocabulary '
        "(vocab_size 380): it ends no text",
        "config.json: pad_token_id 381 is outside the vocabulary (vocab_size 380): it is not used",
    )


def test_an_id_that_the_model_lacks_leaves_the_tokenizers_own_end(tmp_path: Path) -> None:
    """Configs of transformers name GPT-2's 50256 by default."""
    byte_level().save(str(tmp_path / "tokenizer.json"))
    write_json(tmp_path / "config.json", {"eos_token_id": 50256})
    tokenizer = load_tokenizer(None, tmp_path, vocab_size=380)
    assert (tokenizer.eos_id, tokenizer.eos_ids) == (0, {0})
    assert "eos_token_id 50,256 is outside the vocabulary" in tokenizer.notices[0]


def test_a_prompt_with_a_token_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    library = byte_level()
    library.add_tokens(["mRNA"])
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(None, tmp_path, vocab_size=380)
    assert tokenizer.encode_prompt("the mrna")
    with pytest.raises(UsageError, match=r"the model's vocabulary lacks \(id 380, expected below"):
        tokenizer.encode_prompt("the mRNA")


def test_a_vocabulary_that_is_too_large_says_where_it_came_from(tmp_path: Path) -> None:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    message = (
        r"tokenizer\.json has more tokens than the model \(ids up to 379, expected below the "
        r"model's vocab_size 300\)\. Put the tokenizer that the model was trained with beside"
    )
    with pytest.raises(InputError, match=message):
        load_tokenizer(None, tmp_path, vocab_size=300)


def test_what_tokenizer_config_calls_special_is_no_token_of_a_rank_file(tmp_path: Path) -> None:
    write_ranks(tmp_path / "tokenizer.tiktoken", byte_ranks())
    write_json(tmp_path / "tokenizer_config.json", {"eos_token": "</s>"})
    tokenizer = load_tokenizer(None, tmp_path)
    assert tokenizer.eos_ids == frozenset()
    assert 'eos_token "</s>" is not in the vocabulary' in tokenizer.notices[0]


@pytest.mark.parametrize("content", ["[", "[]", '{"a": 1, "a": 2}'])
def test_damaged_settings_are_named(tmp_path: Path, content: str) -> None:
    write_ranks(tmp_path / "tokenizer.tiktoken", byte_ranks())
    (tmp_path / "special_tokens_map.json").write_text(content)
    with pytest.raises(InputError, match=r"special_tokens_map\.json: "):
        load_tokenizer(None, tmp_path)


def characters(directory: Path, ids: object) -> Path:
    return write_json(directory / "meta.json", {"vocab_size": 3, "stoi": ids}).parent


def test_nanogpts_characters_are_read(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(None, characters(tmp_path, {"\n": 0, "a": 1, "é": 2}), vocab_size=3)
    assert tokenizer.encode_prompt("éa\n") == [2, 1, 0]
    assert tokenizer.decode([2, 1, 0, 9]) == "éa\n\ufffd"
    assert (tokenizer.n_vocab, tokenizer.eos_id, tokenizer.find_special_token("a")) == (
        3,
        None,
        None,
    )


def test_a_character_without_an_id_is_named(tmp_path: Path) -> None:
    tokenizer = load_tokenizer("meta.json", characters(tmp_path, {"n": 0, "a": 1}))
    with pytest.raises(UsageError, match=r'has "ï", which .* \(U\+00EF at character 3\)'):
        tokenizer.encode_prompt("naïve")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (None, 'expected a mapping of characters to ids, "stoi"'),
        ({}, 'expected a mapping of characters to ids, "stoi"'),
        ({"ab": 0}, 'stoi: "ab" is not one character'),
        ({"a": "0"}, 'stoi: the id of "a": expected an integer'),
        ({"a": 0, "b": 0}, "stoi: two characters have the same id"),
    ],
)
def test_characters_that_are_none_are_refused(tmp_path: Path, ids: object, message: str) -> None:
    with pytest.raises(InputError, match=r"meta\.json: ") as error:
        load_tokenizer(None, characters(tmp_path, ids))
    assert message in str(error.value)
