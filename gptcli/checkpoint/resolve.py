"""Resolve `--model`, `--config` and `--weights` to files: of a preset, Hub model or directory.

Reads configs but no weights. A Hub model comes from the cache, and is downloaded only where weights
are needed.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gptcli.checkpoint.hub import WEIGHTS, cached, fetch, is_repo
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
from gptcli.core.suggest import did_you_mean, nearest
from gptcli.model.config import CONFIG_SUFFIXES, GPTConfig, read_config
from gptcli.model.parameters import count

CONFIG_NAMES = tuple(f"config{suffix}" for suffix in CONFIG_SUFFIXES)
WEIGHT_NAMES = ("model.safetensors", "model.safetensors.index.json")
WEIGHT_SUFFIXES = (".safetensors", ".safetensors.index.json")
# Treated as weights, so that the header reader can say what they are and what to do.
_OTHER_FORMATS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".gguf", ".npz", ".npy", ".h5", ".gz")


_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")

Kind = Literal["built-in", "untrained", "pretrained"]


@dataclass(frozen=True, slots=True)
class Target:
    """The files of one model.

    Attributes:
        name: as the user gave it.
        config: None for weights without a config beside them.
        config_path: the config's file; None for a preset that changes keys of its file.
        weights: a .safetensors file or a .safetensors.index.json; None for an untrained model.
        directory: where tokenizer files may be.
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
    option: str = "model",
) -> Target:
    """Find the files of a model.

    Args:
        model: a preset, path or `owner/name` on the Hub, tried in this order. `./gpt2` is a path
            and not the preset. None is the built-in model, unless config or weights are given.
        config: a config file, instead of the model's.
        weights: a weights file, index or directory, instead of the model's.
        offline: download nothing.
        need_weights: whether to download weights, and to refuse a directory without weights.
        progress: called while downloading, as `gptcli.checkpoint.hub.Progress`.
        option: the field that errors name for `model`.

    Raises:
        UsageError: `model` is no preset, no path, and no model that was downloaded.
        InputError: a file or directory is malformed, its model cannot be run, or this build lacks
            the built-in model.
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
    weights = _find_weights(weights) if weights else None
    if model is None and (config or weights):
        return _from_files(str(weights or config), config, weights)
    preset = named_preset(model)
    name = preset.name if preset else str(model)
    repo = preset.repo if preset else _hub_name(name)
    if preset is None and repo is None:
        return _from_path(_existing(name, option), config, weights, need_weights)
    directory = None
    if name == BUILT_IN:
        directory = _built_in(option)
    elif repo and not (preset and (config or weights)):
        directory = _hub_directory(
            repo, offline=offline, need_weights=need_weights, progress=progress
        )
    if directory:
        return _from_directory(name, directory, config, weights, need_weights)
    if preset is None:
        raise _not_here(name, option)
    return _from_preset(preset, config, weights)


def _hub_name(name: str) -> str | None:
    """The name if it is `owner/name` on the Hub: no such path exists and it has no file suffix."""
    is_file_name = name.lower().endswith((*CONFIG_SUFFIXES, *WEIGHT_SUFFIXES, *_OTHER_FORMATS))
    return None if is_file_name or not is_repo(name) else name


def _hub_directory(
    repo: str,
    *,
    offline: bool,
    need_weights: bool,
    progress: Callable[..., object] | None,
) -> Path | None:
    if need_weights:
        return fetch(repo, offline=offline, progress=progress)
    return cached(repo)


def _from_preset(preset: Preset, config: Path | None, weights: Path | None) -> Target:
    """A preset with its packaged config, unless config or weights are given."""
    path = config or (None if preset.changes else configs_directory() / preset.config)
    known = read_config(config) if config else preset_config(preset)
    directory = _tokenizer_directory(known, config, weights.parent if weights else None)
    return Target(preset.name, known, path, weights, directory)


def _from_path(name: str, config: Path | None, weights: Path | None, need_weights: bool) -> Target:
    path = Path(name)
    if path.is_dir():
        return _from_directory(name, path, config, weights, need_weights)
    if path.name.lower().endswith((*WEIGHT_SUFFIXES, *_OTHER_FORMATS)):
        return _from_files(name, config, weights or path)
    return _from_files(name, config or path, weights)


def _from_files(name: str, config: Path | None, weights: Path | None) -> Target:
    """A config and weights given as files; weights alone use the config beside them."""
    if config is None and weights is not None:
        config = _only_one(CONFIG_NAMES, weights.parent, "config")
    known = read_config(config) if config else None
    nearest = weights or config
    directory = _tokenizer_directory(known, config, nearest.parent if nearest else None)
    return Target(name, known, config, weights, directory)


def _from_directory(
    name: str, directory: Path, config: Path | None, weights: Path | None, need_weights: bool
) -> Target:
    config = config or _only_one(CONFIG_NAMES, directory, "config")
    weights = weights or _only_one(WEIGHT_NAMES, directory, "weights")
    if weights is None and (need_weights or config is None):
        raise _no_weights(directory, config)
    known = read_config(config) if config else None
    return Target(name, known, config, weights, _tokenizer_directory(known, config, directory))


def _tokenizer_directory(
    config: GPTConfig | None, path: Path | None, otherwise: Path | None
) -> Path | None:
    """The config's directory if its tokenizer is a file there, else `otherwise`."""
    named = config.tokenizer if config else None
    if named and path and (path.parent / named).is_file():
        return path.parent
    return otherwise


def _find_weights(path: Path) -> Path:
    """The weights file at a path, or the one in a directory."""
    if not path.is_dir():
        return path
    found = _only_one(WEIGHT_NAMES, path, "weights")
    if found is None:
        raise _no_weights(path, None)
    return found


def _only_one(names: tuple[str, ...], directory: Path, field: str) -> Path | None:
    """The only file of these names, None without one; several are an error."""
    found = [name for name in names if os.path.lexists(directory / name)]
    if len(found) > 1:
        problem = f"holds {' and '.join(found)} (expected one)"
        raise InputError(shown(directory), problem, f"Name one of them with `{field}`")
    return directory / found[0] if found else None


def _built_in(option: str) -> Path:
    directory = built_in_directory()
    if directory.is_dir():
        return directory
    problem = f'this build has no built-in model (expected "{BUILT_IN}" in the package)'
    hint = "Name a preset (gpt2 downloads OpenAI's weights), a model directory or a config"
    raise InputError(option, problem, hint)


def _existing(name: str, option: str) -> str:
    """The path of an existing file or directory; the error suggests the nearest preset."""
    try:
        if name:
            Path(name).stat()
            return name
    except (OSError, ValueError):  # missing, not accessible, or not a valid file name
        pass
    ask = did_you_mean(nearest(name, PRESETS))
    problem = f'no such file or directory, and no preset of this name ("{shown(name)}")'
    raise UsageError(option, problem, f'{ask} "gptcli models" lists the presets'.lstrip())


def _not_here(name: str, option: str) -> UsageError:
    problem = f'no such file or directory, and no such model was downloaded ("{shown(name)}")'
    hint = f'If it is a model of the Hub, "hf download {shown(name)}" fetches it'
    return UsageError(option, problem, hint)


def _no_weights(directory: Path, config: Path | None) -> InputError:
    """The error for missing weights, naming other weight files that are present."""
    names = sorted(entry.name for entry in directory.iterdir())
    other = [name for name in names if name.endswith(".safetensors")]
    if other and all(_SHARD.fullmatch(name) for name in other):
        hint = f"The shards there ({listed(other)}) need {WEIGHT_NAMES[1]}, which lists them"
    elif other:
        hint = f"Name one with `weights` ({listed(other)})"
    elif any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        hint = "gptcli reads only safetensors and never unpickles; save the model as safetensors"
    elif config:
        hint = f"For an untrained model name the config itself: `config={shown(config)}`"
    else:
        hint = f"A model directory has {WEIGHT_NAMES[0]} and a config ({listed(CONFIG_NAMES)})"
    return InputError(shown(directory), f"no {' or '.join(WEIGHT_NAMES)} in it", hint)


@dataclass(frozen=True, slots=True)
class PresetStatus:
    """A preset, and what of it is on this machine.

    Attributes:
        preset: the preset.
        kind: where its weights come from.
        config: None for a built-in model that this build lacks.
        parameters: exact number; None without a config.
        directory: the local model directory with its weights; None without one.
        weight_bytes: size of the weights there; None without a single weights file.
    """

    preset: Preset
    kind: Kind
    config: GPTConfig | None
    parameters: int | None
    directory: Path | None
    weight_bytes: int | None

    @property
    def is_ready(self) -> bool:
        """Whether it can be used without a download."""
        return self.kind == "untrained" or self.directory is not None


def available_presets() -> list[PresetStatus]:
    """The status of all presets in the order of `PRESETS`; uses no network, opens no weights."""
    return [_preset_status(preset) for preset in PRESETS.values()]


def _preset_status(preset: Preset) -> PresetStatus:
    if preset.name == BUILT_IN:
        directory = built_in_directory() if built_in_directory().is_dir() else None
        config = resolve(BUILT_IN, need_weights=False).config if directory else None
        return _status_of(preset, "built-in", config, directory)
    if preset.repo is None:
        return _status_of(preset, "untrained", preset_config(preset), None)
    return _status_of(preset, "pretrained", preset_config(preset), cached(preset.repo))


def _status_of(
    preset: Preset, kind: Kind, config: GPTConfig | None, directory: Path | None
) -> PresetStatus:
    parameters = count(config).total if config else None
    weights = directory / WEIGHTS if directory else None
    size = weights.stat().st_size if weights and weights.is_file() else None
    return PresetStatus(preset, kind, config, parameters, directory, size)
