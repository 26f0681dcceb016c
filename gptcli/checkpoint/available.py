"""Which presets are on this machine, found without network and without opening weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gptcli.checkpoint.hub import REQUIRED, cached
from gptcli.checkpoint.presets import BUILT_IN, PRESETS, Preset, built_in_directory, preset_config
from gptcli.checkpoint.resolve import resolve
from gptcli.model.config import GPTConfig
from gptcli.model.parameters import count

Kind = Literal["built-in", "untrained", "pretrained"]


@dataclass(frozen=True, slots=True)
class Available:
    """One preset.

    Attributes:
        preset: the preset itself.
        kind: where its weights come from.
        config: None for a built-in model that this build lacks.
        parameters: exact; None without a config.
        directory: the model directory with its weights, None where there is none to have, or none
            on this machine.
        weight_bytes: the size of the weights in it.
    """

    preset: Preset
    kind: Kind
    config: GPTConfig | None
    parameters: int | None
    directory: Path | None
    weight_bytes: int | None

    @property
    def is_ready(self) -> bool:
        """Whether `--model` with this name downloads no weights."""
        return self.kind == "untrained" or self.directory is not None


def presets() -> list[Available]:
    """All of them, in the order of `PRESETS`."""
    return [_look_for(preset) for preset in PRESETS.values()]


def _look_for(preset: Preset) -> Available:
    if preset.name == BUILT_IN:
        directory = built_in_directory() if built_in_directory().is_dir() else None
        config = resolve(BUILT_IN, need_weights=False).config if directory else None
        return _available(preset, "built-in", config, directory)
    if preset.repo is None:
        return _available(preset, "untrained", preset_config(preset), None)
    return _available(preset, "pretrained", preset_config(preset), cached(preset.repo))


def _available(
    preset: Preset, kind: Kind, config: GPTConfig | None, directory: Path | None
) -> Available:
    parameters = count(config).total if config else None
    weights = directory / REQUIRED[-1] if directory else None
    size = weights.stat().st_size if weights and weights.is_file() else None
    return Available(preset, kind, config, parameters, directory, size)
