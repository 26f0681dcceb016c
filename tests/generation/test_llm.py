"""The library in two calls, against transformers' own greedy text and its own promises."""

from pathlib import Path
from typing import Any

import pytest
import torch
from gpt2_oracle import lively_gpt2
from tiny_directory import write_tiny
from tokenizer_files import byte_ranks, write_ranks

import gptcli
from gptcli.generation.llm import LLM
from gptcli.sampling.params import SamplingParams


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return gptcli.load(str(write_tiny(tmp_path_factory.mktemp("models") / "tiny")))


def text(loaded: LLM, prompt: str = "one two", **options: object) -> str:
    return "".join(loaded.stream(prompt, **{"seed": 1, "max_new_tokens": 20, **options}))  # type: ignore[arg-type]


def test_a_directory_of_transformers_gives_its_greedy_text(tmp_path: Path) -> None:
    oracle = lively_gpt2(vocab_size=256, n_positions=40, n_embd=24, n_head=3, n_layer=2)
    oracle.save_pretrained(tmp_path)
    write_ranks(tmp_path / "tokenizer.tiktoken", byte_ranks())
    prompt = torch.tensor([list(b"one two")])
    ids = oracle.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[0, prompt.shape[1] :]
    ours = text(gptcli.load(str(tmp_path)), temperature=0.0)
    assert ours == bytes(ids.tolist()).decode(errors="replace")


def test_text_comes_in_pieces_and_the_same_seed_gives_the_same(loaded: LLM) -> None:
    pieces = list(loaded.stream("one two", seed=1, max_new_tokens=20))
    assert len(pieces) > 5
    assert "".join(pieces) == text(loaded)
    assert text(loaded, seed=2) != text(loaded)
    assert text(loaded, sample=1) != text(loaded)


def test_without_a_seed_texts_differ(loaded: LLM) -> None:
    assert len({text(loaded, seed=None, temperature=2.0) for _ in range(4)}) > 1


def test_a_stop_string_ends_the_text_and_is_kept_on_request(loaded: LLM) -> None:
    whole = text(loaded)
    stop = whole[5:7]
    at = whole.index(stop)
    assert text(loaded, stop=[stop]) == whole[:at]
    assert text(loaded, stop=[stop], keep_stop=True) == whole[: at + 2]


def test_an_unfinished_character_and_a_held_back_beginning_come_at_the_end(loaded: LLM) -> None:
    whole = text(loaded)
    assert text(loaded, stop=[whole[-1] + "never"]) == whole


def test_past_the_context_it_stops_slides_or_fails(loaded: LLM) -> None:
    prompt = "x" * 30  # of 32
    assert len(text(loaded, prompt, overflow="slide").encode()) >= 20
    short = list(loaded.stream(prompt, seed=1, max_new_tokens=20))
    assert sum(len(piece) for piece in short) <= 3
    with pytest.raises(gptcli.GptcliError, match="context: full after 3 new tokens"):
        text(loaded, prompt, overflow="error")


def test_a_config_alone_is_an_untrained_model_of_the_seed(tmp_path: Path) -> None:
    config = write_tiny(tmp_path / "tiny", trained=False) / "config.json"
    same = [text(gptcli.load(config=config, seed=n)) for n in (5, 5, 6)]
    assert same[0] == same[1] != same[2]


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"quantize": "int8"}])
def test_other_widths_write_too(tmp_path: Path, options: dict[str, object]) -> None:
    directory = write_tiny(tmp_path / "tiny")
    assert text(gptcli.load(str(directory), **options))  # type: ignore[arg-type]


def test_bad_options_are_errors_of_ours(loaded: LLM) -> None:
    with pytest.raises(gptcli.GptcliError, match="top_p"):
        text(loaded, top_p=3.0)
    with pytest.raises(gptcli.GptcliError, match="no such file or directory"):
        gptcli.load("nowhere")


def test_every_public_name_is_there_and_no_other() -> None:
    for name in gptcli.__all__:
        assert getattr(gptcli, name) is not None
    assert dir(gptcli) == sorted(gptcli.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        gptcli.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": 5}, "prompt: must be a text or a list of token ids, got the number 5"),
        ({"prompt": [1, "a"]}, "prompt: must be a text or a list of token ids, got a list"),
        ({"stop": "."}, 'stop: must be a list, got the text "."'),
        ({"stop": [1]}, "stop: must be a text, got 1"),
        ({"seed": "7"}, 'seed: must be an integer >= 0 and < 2^64, got the text "7"'),
        ({"overflow": "wrap"}, 'overflow: must be stop or slide or error, got "wrap"'),
        ({"topp": 0.5}, 'topp: no such field. Did you mean "top_p"?'),
        (
            {"params": SamplingParams(), "top_k": 2},
            "top_k: cannot be used together with `params`",
        ),
    ],
)
def test_wrong_arguments_are_errors_that_name_the_argument(
    loaded: LLM, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(gptcli.GptcliError) as caught:
        loaded.stream(**{"prompt": "Once", **arguments})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": 5}, "model: must be a text, got 5"),
        ({"weights": 5}, "weights: must be a path, got 5"),
        ({"dtype": "int3"}, 'dtype: must be .*, got "int3"'),
        ({"quantise": "int8"}, 'quantise: no such field. Did you mean "quantize"?'),
    ],
)
def test_wrong_choices_are_errors_that_name_the_field(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(gptcli.GptcliError, match=message.replace("?", r"\?")):
        gptcli.load(**arguments)
