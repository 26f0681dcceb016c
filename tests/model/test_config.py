"""A config is read whole and right, or refused in one message that names every fault."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gptcli.core.errors import MAX_PROBLEMS, InputError
from gptcli.model.config import KEYS, GPTConfig, parse_config, read_config

BOOK = {
    "vocab_size": 50257,
    "context_length": 1024,
    "emb_dim": 768,
    "n_heads": 12,
    "n_layers": 12,
    "drop_rate": 0.1,
    "qkv_bias": False,
}
HUB = {  # as Hugging Face's GPT-2 has it, cut to what matters
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": 100,
    "n_positions": 32,
    "n_embd": 24,
    "n_head": 3,
    "n_layer": 2,
    "n_inner": None,
    "resid_pdrop": 0.2,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-05,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
}


def problems(mapping: object) -> str:
    with pytest.raises(InputError) as caught:
        parse_config(mapping, "c.yaml")
    assert caught.value.where == "c.yaml"
    return caught.value.problem


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def as_yaml(mapping: dict[str, object]) -> str:
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in mapping.items())


def test_the_seven_keys_make_the_books_model() -> None:
    config = parse_config(BOOK, "c")
    assert config == GPTConfig(
        vocab_size=50257, context_length=1024, emb_dim=768, n_heads=12, n_layers=12
    )
    assert not config.tie_weights
    assert config.tokenizer is None
    assert config.head_dim == 64
    assert config.to_dict() == BOOK


def test_the_optional_keys_are_read_and_written_where_they_differ() -> None:
    more = {**BOOK, "tokenizer": "words.tiktoken", "tie_weights": True}
    config = parse_config(more, "c")
    assert (config.tokenizer, config.tie_weights) == ("words.tiktoken", True)
    assert config.to_dict() == more


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json", ".YAML", ".Json"])
def test_yaml_and_json_give_the_same_config(tmp_path: Path, suffix: str) -> None:
    text = json.dumps(BOOK) if suffix.lower() == ".json" else as_yaml(BOOK)
    path = write(tmp_path / f"c{suffix}", "\ufeff" + text)
    assert read_config(path) == parse_config(BOOK, "c")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("c.txt", 'cannot tell the format from ".txt"'),
        ("c.toml", 'cannot tell the format from ".toml"'),
        ("config", "has no suffix"),
        (".yaml", "has no suffix"),
    ],
)
def test_the_suffix_says_the_format(tmp_path: Path, name: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        read_config(write(tmp_path / name, as_yaml(BOOK)))
    assert caught.value.problem == f"{problem} (expected .yaml, .yml or .json)"


def test_a_config_over_one_mebibyte_is_refused(tmp_path: Path) -> None:
    text = as_yaml(BOOK)
    pad = "#" * ((1 << 20) - len(text))
    assert read_config(write(tmp_path / "c.yaml", text + pad)) == parse_config(BOOK, "c")
    with pytest.raises(InputError, match="too large"):
        read_config(write(tmp_path / "c.yaml", text + pad + "#"))


def test_faults_of_the_text_name_file_and_line(tmp_path: Path) -> None:
    cases = {
        "c.yaml": ("vocab_size: 1\na: &x [1]\nb: *x", "line 2: YAML anchors"),
        "d.yaml": ("n_heads: 1\nn_heads: 2", 'line 2: duplicate key "n_heads"'),
        "e.json": ('{"n_heads": 1,\n"n_heads": 2}', 'line 2: duplicate key "n_heads"'),
        "f.json": ('{"n_heads": NaN}', "NaN is not a JSON number"),
        "g.yaml": (b"n_heads: 1\n# caf\xe9\n", "line 2: not UTF-8 (byte 0xe9)"),
        "h.json": ("", "line 1: not JSON"),
    }
    for name, (text, problem) in cases.items():
        path = write(tmp_path / name, text)
        with pytest.raises(InputError) as caught:
            read_config(path)
        assert caught.value.where == str(path)
        assert caught.value.problem.startswith(problem)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, "nothing"), ([1], "a list"), ("x", 'the text "x"'),
        (3, "the number 3"), (True, "true"),
    ],
)  # fmt: skip
def test_the_top_level_is_one_mapping(value: object, found: str) -> None:
    assert problems(value) == f"expected one mapping of keys, found {found}"


def test_an_unknown_key_is_refused_with_the_nearest_real_one() -> None:
    assert problems({**BOOK, "n_head": 4}) == 'unknown key "n_head" (did you mean "n_heads"?)'
    assert problems({**BOOK, "flavour": 4}) == 'unknown key "flavour"'
    assert problems({**BOOK, "EMB_DIM": 4}) == 'unknown key "EMB_DIM" (did you mean "emb_dim"?)'


def test_a_missing_key_is_named_unless_a_misspelling_explains_it() -> None:
    for key, value in BOOK.items():
        rest = {k: v for k, v in BOOK.items() if k != key}
        assert problems(rest) == f'missing key "{key}"'
        assert problems({**rest, key + "s": value}).startswith(f'unknown key "{key}s" (did you')


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("yes", 'the text "yes"'), ("010", 'the text "010"'), ("1_024", 'the text "1_024"'),
        ("1:30", 'the text "1:30"'), ("0x400", 'the text "0x400"'), ("2024-01-01", 'the text "20'),
        ("1e3", "the number 1000.0"), ("1024.0", "the number 1024.0"), ("true", "true"),
        ("'1e3'", 'the text "1e3"'), ("", "nothing"), ("[1]", "a list"), ("{a: 1}", "a mapping"),
        (".inf", 'the text ".inf"'),
    ],
)  # fmt: skip
def test_a_size_is_an_integer_and_nothing_like_one(tmp_path: Path, text: str, found: str) -> None:
    path = write(tmp_path / "c.yaml", as_yaml(BOOK).replace("1024", text))
    with pytest.raises(InputError) as caught:
        read_config(path)
    assert caught.value.problem.startswith(f"context_length: expected an integer, found {found}")


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("vocab_size", 0, "vocab_size: expected an integer from 1 to 16,777,216, found the numbe"),
        ("vocab_size", (1 << 24) + 1, "vocab_size: expected an integer from 1 to 16,777,216"),
        ("context_length", -5, "context_length: expected an integer from 1 to 16,777,216"),
        ("emb_dim", (1 << 20) + 1, "emb_dim: expected an integer from 1 to 1,048,576"),
        ("n_layers", 100_001, "n_layers: expected an integer from 1 to 100,000"),
        ("n_heads", 5, "emb_dim 768 is not divisible by n_heads 5"),
        ("n_heads", 1536, "emb_dim 768 is not divisible by n_heads 1536"),
        ("n_heads", True, "n_heads: expected an integer, found true"),
        ("drop_rate", 1, "drop_rate: expected a number in [0, 1), found the number 1"),
        ("drop_rate", -0.1, "drop_rate: expected a number in [0, 1), found the number -0.1"),
        ("drop_rate", float("inf"), "drop_rate: expected a number in [0, 1), found the number inf"),
        ("drop_rate", float("nan"), "drop_rate: expected a number in [0, 1), found the number nan"),
        ("drop_rate", False, "drop_rate: expected a number in [0, 1), found false"),
        ("qkv_bias", "false", 'qkv_bias: expected true or false, found the text "false"'),
        ("qkv_bias", 0, "qkv_bias: expected true or false, found the number 0"),
        ("tie_weights", None, "tie_weights: expected true or false, found nothing"),
        ("tokenizer", 5, "tokenizer: expected a tiktoken name or a file name without folders"),
        ("tokenizer", "", "tokenizer: expected a tiktoken name"),
        ("tokenizer", "..", "tokenizer: expected a tiktoken name"),
        ("tokenizer", "../../etc/passwd", "tokenizer: expected a tiktoken name"),
        ("tokenizer", "a\\b", "tokenizer: expected a tiktoken name"),
        ("tokenizer", "a\0", "tokenizer: expected a tiktoken name or a file name without folders"),
    ],
)  # fmt: skip
def test_an_impossible_value_is_named(key: str, value: object, problem: str) -> None:
    assert problems({**BOOK, key: value}).startswith(problem)


def test_an_integer_beyond_any_float_is_a_wrong_value() -> None:
    digits = "1" + "0" * 4000
    for key, expected in (("n_layers", "an integer from 1 to 100,000"), ("drop_rate", "a number")):
        text = problems({**BOOK, key: int(digits)})
        assert text.startswith(f"{key}: expected {expected}")
        assert text.endswith("000... (+3801 more)")


def test_all_problems_come_in_one_message() -> None:
    text = problems({"vocab_size": 0, "context_length": "x", "emb_dim": 8, "n_heads": 3, "z": 1})
    assert [line.strip() for line in text.splitlines()] == [
        "7 problems",
        'unknown key "z"',
        'missing key "n_layers"',
        'missing key "drop_rate"',
        'missing key "qkv_bias"',
        "vocab_size: expected an integer from 1 to 16,777,216, found the number 0",
        'context_length: expected an integer, found the text "x"',
        "emb_dim 8 is not divisible by n_heads 3",
    ]


def test_a_message_stays_short_and_safe_whatever_the_keys() -> None:
    hostile = {f"\x1b]0;{i}\n\u202e{'k' * 5000}": "v" for i in range(3000)}
    with pytest.raises(InputError) as caught:
        parse_config({**BOOK, **hostile}, "c\n\x1b.yaml")
    text = str(caught.value)
    assert len(text.splitlines()) <= 20
    assert len(text.encode()) <= 4096
    assert not {"\x1b", "\u202e"} & set(text)


def test_a_config_made_in_python_obeys_the_same_rules() -> None:
    with pytest.raises(InputError, match=r"^GPTConfig: emb_dim 768 is not divisible by n_heads 7$"):
        GPTConfig(**{**BOOK, "n_heads": 7})
    with pytest.raises(InputError, match="n_layers: expected an integer, found true"):
        replace(parse_config(BOOK, "c"), n_layers=True)


def test_a_hugging_face_config_is_recognised() -> None:
    assert parse_config(HUB, "c") == GPTConfig(
        vocab_size=100, context_length=32, emb_dim=24, n_heads=3, n_layers=2,
        drop_rate=0.2, drop_rate_emb=0.1, drop_rate_attn=0.1, qkv_bias=True, tie_weights=True,
    )  # fmt: skip


FAMILY = [
    {},
    {"n_embd": 24, "n_head": 3, "n_layer": 2, "n_positions": 7, "tie_word_embeddings": False},
    {"embd_pdrop": 0.2, "attn_pdrop": 0.0, "resid_pdrop": 0.3},
    {"activation_function": "relu", "n_inner": 77, "layer_norm_epsilon": 1e-3},
    {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True},
]


@pytest.mark.parametrize("changes", FAMILY)
def test_what_transformers_saves_is_read_and_what_we_write_it_reads(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2Config(**changes)
    theirs.save_pretrained(tmp_path)
    ours = read_config(tmp_path / "config.json")
    assert (ours.vocab_size, ours.context_length) == (theirs.vocab_size, theirs.n_positions)
    assert (ours.emb_dim, ours.n_heads) == (theirs.n_embd, theirs.n_head)
    assert ours.drop_rates == (theirs.embd_pdrop, theirs.attn_pdrop, theirs.resid_pdrop)
    assert (ours.n_layers, ours.activation) == (theirs.n_layer, theirs.activation_function)
    assert (ours.n_inner, ours.layer_norm_epsilon) == (theirs.n_inner, theirs.layer_norm_epsilon)
    assert ours.scale_attn_weights == theirs.scale_attn_weights
    assert ours.scale_attn_by_inverse_layer_idx == theirs.scale_attn_by_inverse_layer_idx
    assert (ours.qkv_bias, ours.tie_weights, ours.bias) == (True, theirs.tie_word_embeddings, True)
    again = transformers.GPT2Config.from_dict(ours.to_huggingface())
    assert again.to_dict() == theirs.to_dict() | {"architectures": ["GPT2LMHeadModel"]}


def test_a_silent_hugging_face_config_says_what_gpt2config_does_without_arguments() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2Config().to_dict()
    assert parse_config({"model_type": "gpt2"}, "c") == parse_config(theirs, "c")


def test_the_other_names_that_gpt2config_has_for_its_keys_are_read() -> None:
    others = {
        "n_embd": "hidden_size",
        "n_positions": "max_position_embeddings",
        "n_head": "num_attention_heads",
        "n_layer": "num_hidden_layers",
    }
    renamed = {others.get(key, key): value for key, value in HUB.items()}
    assert parse_config(renamed, "c") == parse_config(HUB, "c")
    both = {**HUB, "hidden_size": 48}
    expected = "n_embd and hidden_size: expected one value, found the number 24 and the number 48"
    assert problems(both) == expected
    wrong = problems({**renamed, "hidden_size": "x"})
    assert wrong == 'hidden_size: expected an integer, found the text "x"'


def test_an_old_hugging_face_config_may_have_n_ctx_alone() -> None:
    old = {("n_ctx" if key == "n_positions" else key): value for key, value in HUB.items()}
    assert parse_config(old, "c") == parse_config(HUB, "c")
    assert problems({**old, "n_ctx": "x"}) == 'n_ctx: expected an integer, found the text "x"'


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"model_type": "llama"}, 'model_type: expected the text "gpt2", found the text "llama"'),
        ({"model_type": ["gpt2"]}, 'model_type: expected the text "gpt2", found a list'),
        ({"activation_function": 3}, "activation_function: expected a function's name"),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon: expected a number in (0, 1), found the"),
        ({"n_inner": 0}, "n_inner: expected an integer from 1 to 4,194,304, found the number 0"),
        ({"scale_attn_weights": 1}, "scale_attn_weights: expected true or false, found the numb"),
        ({"embd_pdrop": 1.5}, "embd_pdrop: expected a number in [0, 1), found the number 1.5"),
        (
            {"pruned_heads": {"0": [1]}},
            "pruned_heads: not supported (expected none, found a ma",
        ),
        ({"add_cross_attention": True}, "add_cross_attention: not supported (expected false, fou"),
        (
            {"quantization_config": {"bits": 4}},
            "quantization_config: not supported (expected nothing, found a mapping)",
        ),
        ({"n_embd": 25}, "n_embd 25 is not divisible by n_head 3"),
        ({"n_head": "3"}, 'n_head: expected an integer, found the text "3"'),
        ({"resid_pdrop": 2}, "resid_pdrop: expected a number in [0, 1), found the number 2"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings: expected true or false, found the num"),
    ],
)
def test_a_hugging_face_config_beyond_the_books_model_is_refused(
    change: dict[str, object], problem: str
) -> None:
    assert problems({**HUB, **change}).startswith(problem)


def test_harmless_spellings_of_a_hugging_face_config_are_read() -> None:
    same = {"n_inner": 96, "activation_function": "gelu_pytorch_tanh"}
    same |= {"reorder_and_upcast_attn": True, "pruned_heads": {}, "initializer_range": 0.5}
    assert parse_config({**HUB, **same}, "c") == parse_config(HUB, "c")


NANOGPT = {
    "n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 32, "bias": False, "vocab_size": 65,
    "dropout": 0.2,
}  # fmt: skip


def test_nanogpts_model_args_are_a_config() -> None:
    config = parse_config(NANOGPT, "c")
    assert config == GPTConfig(
        vocab_size=65, context_length=32, emb_dim=16, n_heads=2, n_layers=2, drop_rate=0.2,
        qkv_bias=False, bias=False, tie_weights=True, activation="gelu",
    )  # fmt: skip
    checkpoint = {"model_args": NANOGPT, "iter_num": 5, "config": {"dataset": "x"}}
    assert parse_config(checkpoint, "c") == config
    bare = {key: value for key, value in NANOGPT.items() if key not in {"bias", "dropout"}}
    silent = parse_config(bare, "c")
    assert (silent.bias, silent.qkv_bias, silent.drop_rate) == (True, True, 0.0)


def test_a_nanogpt_config_may_say_what_its_checkpoint_does_not() -> None:
    more = {"activation": "gelu_new", "tokenizer": "meta.json"}
    config = parse_config({**NANOGPT, **more}, "c")
    assert (config.activation, config.tokenizer) == ("gelu_new", "meta.json")


def test_a_nanogpt_config_is_told_its_own_names() -> None:
    assert (
        problems({**NANOGPT, "drop_out": 0}) == 'unknown key "drop_out" (did you mean "dropout"?)'
    )
    rest = {key: value for key, value in NANOGPT.items() if key != "n_embd"}
    assert problems(rest) == 'missing key "n_embd"'
    assert problems({**NANOGPT, "n_head": 3}) == "n_embd 16 is not divisible by n_head 3"


def test_drop_rate_may_be_split_in_three() -> None:
    split = {"drop_rate_emb": 0.1, "drop_rate_attn": 0.2, "drop_rate_shortcut": 0}
    config = parse_config({**BOOK, **split}, "c")
    assert config.drop_rates == (0.1, 0.2, 0.0)
    alone = {key: value for key, value in BOOK.items() if key != "drop_rate"} | split
    assert parse_config(alone, "c").drop_rates == (0.1, 0.2, 0.0)
    del alone["drop_rate_attn"]
    assert problems(alone) == 'missing key "drop_rate"'
    assert parse_config({**BOOK, "drop_rate_attn": 0.3}, "c").drop_rates == (0.1, 0.3, 0.1)
    assert config.with_drop_rate(0.5).drop_rates == (0.5, 0.5, 0.5)


def test_one_model_has_one_config() -> None:
    for name in ("gelu_pytorch_tanh", "gelu_fast", "gelu_accurate", "gelu_python_tanh"):
        assert parse_config({**BOOK, "activation": name, "n_inner": 3072}, "c").to_dict() == BOOK
    assert parse_config({**BOOK, "activation": "swish"}, "c").activation == "silu"


def test_an_activation_that_cannot_be_computed_is_a_config_all_the_same() -> None:
    config = parse_config({**BOOK, "activation": "mish"}, "c")
    with pytest.raises(InputError, match=r'^c: the activation "mish" is not supported') as caught:
        config.require_computable("c")
    assert "gelu_new, gelu, relu, silu or quick_gelu" in str(caught.value)


def test_both_kinds_of_keys_in_one_file_are_refused() -> None:
    assert 'unknown key "n_embd"' in problems({**BOOK, "n_embd": 768})
    assert 'unknown key "model_type"' in problems({**BOOK, "model_type": "gpt2"})


GOOD = {
    "vocab_size": st.integers(1, 1 << 24),
    "context_length": st.integers(1, 1 << 24),
    "emb_dim": st.integers(1, 100).map(lambda n: 12 * n),
    "n_heads": st.sampled_from([1, 2, 3, 4, 6, 12]),
    "n_layers": st.integers(1, 100_000),
    "drop_rate": st.floats(0, 1, exclude_max=True) | st.just(0),
    "qkv_bias": st.booleans(),
    "tokenizer": st.sampled_from(["gpt2", "words.tiktoken"]),
    "tie_weights": st.booleans(),
}
OPTIONAL = {
    **dict.fromkeys(("drop_rate_emb", "drop_rate_attn", "drop_rate_shortcut"),
                    st.none() | st.floats(0, 1, exclude_max=True)),
    "activation": st.sampled_from(["gelu_new", "gelu", "relu", "silu", "quick_gelu", "mish"]),
    "n_inner": st.none() | st.integers(1, 1 << 22).filter(lambda n: n % 4),
    "layer_norm_epsilon": st.floats(0, 1, exclude_min=True, exclude_max=True),
    **dict.fromkeys(("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "bias"),
                    st.booleans()),
}  # fmt: skip
BAD = {  # nothing in here is right for any key
    **dict.fromkeys(
        ("vocab_size", "context_length", "emb_dim", "n_heads", "n_layers"),
        st.integers(max_value=0) | st.integers(min_value=(1 << 24) + 1) | st.booleans()
        | st.none() | st.text() | st.floats() | st.lists(st.integers(1, 9)),
    ),
    "drop_rate": st.floats(min_value=1) | st.floats(max_value=-1e-9) | st.text() | st.booleans(),
    "qkv_bias": st.integers() | st.text() | st.none() | st.floats(),
    "tokenizer": st.integers() | st.booleans() | st.sampled_from(["", ".", "a/b", "x" * 256]),
    **dict.fromkeys(
        ("tie_weights", "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "bias"),
        st.integers() | st.text() | st.none() | st.lists(st.booleans()),
    ),
    "activation": st.none() | st.integers() | st.just("") | st.lists(st.just("gelu")),
    "n_inner": st.integers(max_value=0) | st.booleans() | st.text() | st.floats(),
    "layer_norm_epsilon": st.floats(max_value=0) | st.floats(min_value=1) | st.none() | st.text(),
}  # fmt: skip
BAD |= dict.fromkeys(("drop_rate_emb", "drop_rate_attn", "drop_rate_shortcut"), BAD["drop_rate"])


@given(st.fixed_dictionaries(GOOD, optional=OPTIONAL))
def test_every_good_config_is_read_and_written_back(mapping: dict[str, object]) -> None:
    config = parse_config(mapping, "c")
    assert all(getattr(config, key) == value for key, value in mapping.items())
    assert parse_config(config.to_dict(), "c") == config


@given(st.fixed_dictionaries(GOOD), st.data())
def test_every_bad_value_is_named_and_no_good_one(good: dict[str, object], data) -> None:
    bad = data.draw(st.sets(st.sampled_from(KEYS), min_size=1, max_size=MAX_PROBLEMS))
    lines = problems({**good, **{key: data.draw(BAD[key], key) for key in bad}}).splitlines()
    named = [line.split(":")[0].strip() for line in lines[len(lines) > 1 :]]
    assert named == [key for key in KEYS if key in bad]


@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), st.integers(-1, 30)))
@example({})
def test_any_mapping_is_a_config_or_one_input_error(mapping: dict[str, object]) -> None:
    try:
        config = parse_config(mapping, "c")
    except InputError:
        return
    assert config.emb_dim % config.n_heads == 0


@given(
    st.sampled_from([as_yaml(BOOK), json.dumps(BOOK), json.dumps(HUB)]).map(str.encode),
    st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=3), st.integers(0, 3)), max_size=4),
    st.sampled_from([".yaml", ".json"]),
)
def test_a_damaged_file_is_a_config_or_one_input_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cuts, suffix: str
) -> None:
    for at, new, gone in cuts:
        data = data[:at] + new + data[at + gone :]
    path = write(tmp_path_factory.getbasetemp() / f"damaged{suffix}", data)
    try:
        config = read_config(path)
    except InputError as error:
        assert error.where == str(path)  # noqa: PT017
    else:
        assert parse_config(config.to_dict(), "c") == config
