"""Every preset has a config that is what its model is, without a download."""

from importlib import import_module
from typing import Any

import pytest

import gptcli
from gptcli.batch.fields import parse_params
from gptcli.checkpoint.presets import BUILT_IN, PRESETS, configs_directory, preset_config
from gptcli.cli import run
from gptcli.model.config import GPTConfig, read_config

BOOK = {  # parameters as the book and its repository print them: untied, tied
    "gpt2-124m": (163_009_536, 124_412_160),
    "gpt2-355m": (406_212_608, 354_749_440),
    "gpt2-774m": (838_220_800, 773_891_840),
    "gpt2-1558m": (1_637_792_000, 1_557_380_800),
}
OPENAI = {  # elements of the published checkpoints, by model
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "distilgpt2": 81_912_576,
}


def parameters(config: GPTConfig, tied: bool) -> int:
    """The closed form."""
    e, v, layers = config.emb_dim, config.vocab_size, config.n_layers
    block = 12 * e * e + (13 if config.qkv_bias else 10) * e
    return (1 if tied else 2) * v * e + config.context_length * e + layers * block + 2 * e


def test_the_names_are_these() -> None:
    assert set(PRESETS) == {BUILT_IN, *BOOK, *OPENAI}
    assert all(name == preset.name and preset.summary for name, preset in PRESETS.items())


@pytest.mark.parametrize("name", BOOK)
def test_the_books_sizes_have_the_books_counts(name: str) -> None:
    config = preset_config(PRESETS[name])
    assert (parameters(config, tied=False), parameters(config, tied=True)) == BOOK[name]
    assert (config.qkv_bias, config.tie_weights, config.drop_rate) == (False, False, 0.1)
    assert PRESETS[name].repo is None


@pytest.mark.parametrize("name", OPENAI)
def test_the_pretrained_models_have_the_counts_of_their_checkpoints(name: str) -> None:
    config = preset_config(PRESETS[name])
    assert parameters(config, config.tie_weights) == OPENAI[name]
    assert (config.qkv_bias, config.tie_weights) == (True, True)
    assert str(PRESETS[name].repo).endswith(f"/{name}")


def test_gpt2_is_what_transformers_makes_of_no_arguments(tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.GPT2Config().save_pretrained(tmp_path)
    assert read_config(tmp_path / "config.json") == preset_config(PRESETS["gpt2"])


def test_every_file_in_configs_is_a_config() -> None:
    paths = [p for p in configs_directory().iterdir() if p.suffix in {".yaml", ".yml", ".json"}]
    assert {path.suffix for path in paths} >= {".yaml", ".json"}
    for path in paths:
        assert read_config(path).tokenizer in {None, "gpt2"}


def test_the_books_files_hold_the_seven_keys_and_no_more() -> None:
    for name in BOOK:
        lines = (configs_directory() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        assert [line.split(":")[0] for line in lines if not line.startswith("#")] == [
            "vocab_size", "context_length", "emb_dim", "n_heads", "n_layers", "drop_rate",
            "qkv_bias",
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], (0.6, 1.15)),
        (["-m", "stories"], (0.6, 1.15)),
        (["-t", "1.5"], (1.5, 1.15)),
        (["--repetition-penalty", "1"], (0.6, 1)),
        (["--greedy"], (0, 1)),
        (["-t", "0"], (0, 1)),
        (["-m", "gpt2-124m"], (0.8, 1)),
        (["-c", str(configs_directory() / "gpt2-124m.yaml")], (0.8, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("command", ["generate", "batch"])
def test_sampling_is_what_was_given_or_what_suits_the_model(
    monkeypatch: pytest.MonkeyPatch, command: str, given: list[str], expected: tuple[float, float]
) -> None:
    """Caught where the command hands its options over."""
    module = import_module(f"gptcli.cli.commands.{command}")
    caught: list[Any] = []
    monkeypatch.setattr(module, {"generate": "_generate", "batch": "run_batch"}[command],
                        lambda *arguments: caught.extend(arguments))  # fmt: skip
    assert run([command, "x", *given, *(["-o", "y"] if command == "batch" else [])]) == 0
    params = caught[1]
    if command == "batch":  # what a record gets that sets nothing
        params = parse_params({}, params.params, params.recommended)
    assert (params.temperature, params.repetition_penalty) == expected


def test_the_library_draws_in_the_same_way() -> None:
    loaded = gptcli.load()

    def text(**sampling: float) -> str:
        return "".join(loaded.stream("Once", seed=2, max_new_tokens=60, **sampling))

    default = text()
    assert default == text(temperature=0.6, repetition_penalty=1.15)
    assert default != text(temperature=0.8)
    assert default != text(repetition_penalty=1.0)
    assert text(temperature=0.0) == text(temperature=0.0, repetition_penalty=1.0)
