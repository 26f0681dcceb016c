"""From what the user named (a preset, a directory, a file) to the files of one model.

Reads configs; looks for weights without opening them. Knows no tensors.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from gptcli.checkpoint.presets import (
    BUILT_IN,
    PRESETS,
    Preset,
    built_in_directory,
    configs_directory,
    named_preset,
    preset_config,
)
from gptcli.core.errors import InputError, UsageError
from gptcli.core.escape import listed, shown
from gptcli.model.config import CONFIG_SUFFIXES, GPTConfig, read_config

CONFIG_NAMES = tuple(f"config{suffix}" for suffix in CONFIG_SUFFIXES)
WEIGHT_NAMES = ("model.safetensors", "model.safetensors.index.json")
WEIGHT_SUFFIXES = (".safetensors", ".safetensors.index.json")
# Read as weights so that the header reader can say what they are and what to do.
_IMPOSTORS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".gguf", ".npz", ".npy", ".h5", ".gz")


@dataclass(frozen=True, slots=True)
class Target:
    """One model, by its parts.

    Attributes:
        name: what the user called it.
        config: None for weights that no config stands beside.
        config_path: where the config was read; None where a preset knows it by itself.
        weights: a .safetensors file or a .safetensors.index.json; None for an untrained model.
        directory: where tokenizer files may lie.
    """

    name: str
    config: GPTConfig | None
    config_path: Path | None = None
    weights: Path | None = None
    directory: Path | None = None


def resolve(
    model: str | None,
    config: Path | None = None,
    weights: Path | None = None,
    *,
    offline: bool = False,
    need_weights: bool = True,
    progress: Callable[..., object] | None = None,
    option: str = "--model",
) -> Target:
    """The model that `--model`, `--config` and `--weights` name together; a part wins over `model`.

    Nothing named is the built-in model. A preset's name is the preset; `./gpt2` is the directory
    of that name. Without `need_weights` nothing is downloaded and a directory may lack weights.
    `option` is what errors call the place where `model` was given.

    Raises:
        UsageError: `model` is no preset, and no file or directory.
        InputError: a file or directory is not what it should be, its model cannot be computed, or
            this build lacks it.
        RunError: a download failed, or was needed while offline.
    """
    found = _resolved(
        model,
        config,
        weights,
        offline=offline,
        need_weights=need_weights,
        progress=progress,
        option=option,
    )
    if need_weights and found.config:
        found.config.require_computable(found.config_path or found.name)
    return found


def _resolved(
    model: str | None,
    config: Path | None,
    weights: Path | None,
    *,
    offline: bool,
    need_weights: bool,
    progress: Callable[..., object] | None,
    option: str,
) -> Target:
    weights = _weights_file(weights) if weights else None
    if model is None and (config or weights):
        return _of_files(str(weights or config), config, weights)
    preset = named_preset(model)
    if preset is None:
        return _of_path(_existing(str(model), option), config, weights, need_weights)
    directory = None
    if preset.name == BUILT_IN:
        directory = _built_in(option)
    elif preset.repo and need_weights and weights is None:
        from gptcli.checkpoint.hub import fetch  # noqa: PLC0415  # only a download needs the hub's client

        directory = fetch(preset.repo, offline=offline, progress=progress)
    if directory:
        return _of_directory(preset.name, directory, config, weights, need_weights)
    return _of_known(preset, config, weights)


def _of_known(preset: Preset, config: Path | None, weights: Path | None) -> Target:
    """A preset by the config it is known to have, with the parts that replace its own."""
    path = config or (None if preset.changes else configs_directory() / preset.config)
    known = read_config(config) if config else preset_config(preset)
    directory = _tokenizer_directory(known, config, weights.parent if weights else None)
    return Target(preset.name, known, path, weights, directory)


def _of_path(name: str, config: Path | None, weights: Path | None, need_weights: bool) -> Target:
    path = Path(name)
    if path.is_dir():
        return _of_directory(name, path, config, weights, need_weights)
    if path.name.lower().endswith((*WEIGHT_SUFFIXES, *_IMPOSTORS)):
        return _of_files(name, config, weights or path)
    return _of_files(name, config or path, weights)


def _of_files(name: str, config: Path | None, weights: Path | None) -> Target:
    """Files named one by one; weights alone bring the config that stands beside them."""
    if config is None and weights is not None:
        config = _one_of(CONFIG_NAMES, weights.parent, "--config")
    known = read_config(config) if config else None
    nearest = weights or config
    directory = _tokenizer_directory(known, config, nearest.parent if nearest else None)
    return Target(name, known, config, weights, directory)


def _of_directory(
    name: str, directory: Path, config: Path | None, weights: Path | None, need_weights: bool
) -> Target:
    config = config or _one_of(CONFIG_NAMES, directory, "--config")
    weights = weights or _one_of(WEIGHT_NAMES, directory, "--weights")
    if weights is None and (need_weights or config is None):
        raise _no_weights(directory, config)
    known = read_config(config) if config else None
    return Target(name, known, config, weights, _tokenizer_directory(known, config, directory))


def _tokenizer_directory(
    config: GPTConfig | None, path: Path | None, otherwise: Path | None
) -> Path | None:
    """The config's own directory where it names a file there, otherwise where the model is."""
    named = config.tokenizer if config else None
    if named and path and (path.parent / named).is_file():
        return path.parent
    return otherwise


def _weights_file(path: Path) -> Path:
    """The file itself, or the one in a directory."""
    if not path.is_dir():
        return path
    found = _one_of(WEIGHT_NAMES, path, "--weights")
    if found is None:
        raise _no_weights(path, None)
    return found


def _one_of(names: tuple[str, ...], directory: Path, option: str) -> Path | None:
    """The one file of these names; two would make us guess."""
    found = [name for name in names if os.path.lexists(directory / name)]
    if len(found) > 1:
        problem = f"holds {' and '.join(found)} (expected one)"
        raise InputError(shown(directory), problem, f"Name one of them with {option}")
    return directory / found[0] if found else None


def _built_in(option: str) -> Path:
    directory = built_in_directory()
    if directory.is_dir():
        return directory
    problem = f'this build has no built-in model ("{BUILT_IN}" is not in the package yet)'
    hint = "Name a preset (gpt2 downloads OpenAI's weights), a model directory or a config"
    raise InputError(option, problem, hint)


def _existing(name: str, option: str) -> str:
    """The name of something that is there; otherwise the preset that may have been meant."""
    try:
        if name:
            Path(name).stat()
            return name
    except (OSError, ValueError):  # not there, not reachable, or not a file name at all
        pass
    near = get_close_matches(name[:200].lower(), PRESETS, n=1)
    ask = f'Did you mean "{near[0]}"? ' if near else ""
    problem = f'no such file or directory, and no preset of this name ("{shown(name)}")'
    raise UsageError(option, problem, f'{ask}"gptcli models" lists the presets')


def _no_weights(directory: Path, config: Path | None) -> InputError:
    """Says what is there instead, as far as names tell."""
    names = sorted(entry.name for entry in directory.iterdir())
    other = [name for name in names if name.endswith(".safetensors")]
    if other:
        hint = f"Name one with --weights ({listed(other)})"
    elif any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        hint = "gptcli reads only safetensors and never unpickles; save the model as safetensors"
    elif config:
        hint = f"For an untrained model name the config itself: --config {shown(config)}"
    else:
        hint = f"A model directory has {WEIGHT_NAMES[0]} and a config ({listed(CONFIG_NAMES)})"
    return InputError(shown(directory), f"no {' or '.join(WEIGHT_NAMES)} in it", hint)
