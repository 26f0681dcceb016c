"""Presets: the named models, their configs and Hub repositories.

`gptcli.checkpoint.resolve` turns a name into files.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gptcli.model.config import GPTConfig, read_config

BUILT_IN = "stories"
_PACKAGE = Path(__file__).parents[1]
_PRETRAINED: Mapping[str, Any] = {"qkv_bias": True, "tie_weights": True}


@dataclass(frozen=True, slots=True)
class Preset:
    """A named model.

    Attributes:
        name: what `--model` takes.
        summary: one line for a table.
        config: name of its file in `configs_directory()`; empty for the built-in model.
        repo: of the Hugging Face Hub, with its weights; None for an untrained model.
        changes: keys and values that replace those of the config file.
        sampling: recommended values of sampling parameters, where the general defaults are not.
    """

    name: str
    summary: str
    config: str
    repo: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict, hash=False)
    sampling: Mapping[str, Any] = field(default_factory=dict, hash=False)


_UNTRAINED = (
    Preset("gpt2-124m", "the book's smallest GPT-2, untrained", "gpt2-124m.yaml"),
    Preset("gpt2-355m", "the book's medium GPT-2, untrained", "gpt2-355m.yaml"),
    Preset("gpt2-774m", "the book's large GPT-2, untrained", "gpt2-774m.yaml"),
    Preset("gpt2-1558m", "the book's largest GPT-2, untrained", "gpt2-1558m.yaml"),
)
_OF_OPENAI = tuple(
    Preset(
        name,
        f"OpenAI's GPT-2, {size}",
        f"gpt2-{size}.yaml",
        f"openai-community/{name}",
        _PRETRAINED,
    )
    for name, size in [
        ("gpt2", "124m"),
        ("gpt2-medium", "355m"),
        ("gpt2-large", "774m"),
        ("gpt2-xl", "1558m"),
    ]
)
_DISTILLED = Preset(
    "distilgpt2",
    "GPT-2 124m distilled to half its layers",
    "gpt2-124m.yaml",
    "distilbert/distilgpt2",
    {**_PRETRAINED, "n_layers": 6},
)
# Judged by reading, and by counting: of 160 stories at this penalty 83 have no loop, no sentence
# told twice and no invented word, at 1.1 56.
_STORIES = Preset(
    BUILT_IN,
    "short stories; inside the package",
    "",
    sampling={"temperature": 0.6, "repetition_penalty": 1.15},
)

PRESETS: dict[str, Preset] = {p.name: p for p in (_STORIES, *_UNTRAINED, *_OF_OPENAI, _DISTILLED)}


def named_preset(model: str | None, *parts: object) -> Preset | None:
    """The preset that `--model` names; None if it names none, or `parts` are named instead."""
    return None if any(parts) else PRESETS.get(BUILT_IN if model is None else model)


def recommended_sampling(
    is_given: Callable[[str], bool], model: str | None, *parts: object
) -> dict[str, float]:
    """What the preset of `named_preset` recommends for sampling options that were not given."""
    preset = named_preset(model, *parts)
    values = preset.sampling if preset else {}
    return {name: value for name, value in values.items() if not is_given(name)}


def configs_directory() -> Path:
    """The directory of the config files: in an installed package, or at the top of a checkout."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def built_in_directory() -> Path:
    """The model directory of the built-in model; a build may lack it."""
    return _PACKAGE / "data" / BUILT_IN


def preset_config(preset: Preset) -> GPTConfig:
    """The config of a preset other than the built-in model; downloads nothing."""
    return replace(read_config(configs_directory() / preset.config), **preset.changes)
