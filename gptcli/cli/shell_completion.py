"""Shell completion of option values: models and files.

A shell puts a blank after a candidate that is the only one. If it is a directory, its contents are
offered too, so that one can go on typing.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from gptcli.core.options import OptionField

Completer = Callable[[str], list[tuple[str, str]]]
MODEL_FILES = (".yaml", ".yml", ".json", ".safetensors")


def completer_of(field: OptionField) -> Completer | None:
    """The completer of a field's values, chosen by its metavar; None leaves it to Typer."""
    metavar = (field.option.metavar or "").partition(" ")[0]
    if metavar == "TARGET":
        return complete_model
    if metavar == "DIR":
        return lambda incomplete: list(_paths(incomplete, ()))
    if field.option.suffixes:
        return lambda incomplete: list(_paths(incomplete, field.option.suffixes))
    return None


def complete_model(incomplete: str) -> list[tuple[str, str]]:
    """Presets with their summaries, then directories and model files."""
    from gptcli.checkpoint.presets import PRESETS

    named = [(name, preset.summary) for name, preset in PRESETS.items()]
    found = [pair for pair in named if pair[0].startswith(incomplete)]
    return [*found, *_paths(incomplete, MODEL_FILES)]


def _paths(incomplete: str, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Directories, and files that end in one of the suffixes."""
    folder, slash, start = incomplete.rpartition("/")
    found = list(_entries(folder + slash, start, suffixes))
    if len(found) == 1 and found[0].endswith("/"):
        found += _entries(found[0], "", suffixes)
    yield from ((path, "") for path in found)


def _entries(folder: str, start: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    try:
        entries = sorted(Path(folder or ".").expanduser().iterdir())
    except (OSError, RuntimeError):  # no such directory, or no such user of `~user`
        return
    for entry in entries:
        if not entry.name.startswith(start) or (entry.name[0] == "." and not start):
            continue
        if entry.is_dir():
            yield f"{folder}{entry.name}/"
        elif suffixes and entry.name.endswith(suffixes):
            yield folder + entry.name
