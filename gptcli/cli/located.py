"""The target of a command that only looks: nothing is downloaded, what is cached is used.

Knows no tensors and no terminal.
"""

from dataclasses import replace
from pathlib import Path

from gptcli.checkpoint.presets import PRESETS
from gptcli.checkpoint.resolve import Target, resolve


def located(name: str | None, config: Path | None, weights: Path | None) -> Target:
    """What the user named; a preset that was fetched earlier comes with its files.

    Raises:
        UsageError: `name` is no preset, and no file or directory.
        InputError: a file or directory is not what it should be.
    """
    target = resolve(name, config, weights, need_weights=False, option="TARGET")
    preset = PRESETS.get(name or "")
    if preset is None or preset.repo is None or config or weights:
        return target
    from gptcli.checkpoint.hub import cached

    directory = cached(preset.repo)
    if directory is None:
        return target
    return replace(resolve(str(directory), need_weights=False), name=target.name)
