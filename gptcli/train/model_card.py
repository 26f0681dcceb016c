"""The model card: what a model was trained on, how, and with what result.

The front matter follows Hugging Face's format, for models that are uploaded there.
"""

import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptcli.core.escape import shown
from gptcli.version import __version__

_TEXTS = "## Texts"


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The model that `init_from` names.

    Attributes:
        name: of the preset, directory or file, without folders.
        sha256: of its weight files, concatenated.
        texts: the lines of the table of texts in its own card; empty without such a card.
    """

    name: str
    sha256: str
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """The contents of a card.

    Attributes:
        title: the model's name.
        command: the arguments after `gptcli`.
        base: None for a model trained from scratch.
        texts: for each text its name, documents, bytes, sha256, weight and rows.
        validation: a description of the validation text.
        config: of the model, by the book's keys.
        settings: of the training.
        results: name → value, in order.
        notes: by the user, for example the licence of the texts.
        software: library → version, and the machine.
    """

    title: str
    command: Sequence[str]
    base: BaseModel | None
    texts: Sequence[Mapping[str, Any]]
    validation: str
    config: Mapping[str, Any]
    settings: Mapping[str, Any]
    results: Mapping[str, Any]
    notes: Sequence[str]
    software: Mapping[str, Any]


def render(facts: CardFacts) -> str:
    """The card in Markdown."""
    notes = [*facts.notes, ""] if facts.notes else []
    how = "from scratch" if facts.base is None else "further"
    columns = ("text", "documents", "bytes", "weight", "rows read", "sha256")
    rows = [[text[column] for column in columns] for text in facts.texts]
    lines = [
        "---",
        "library_name: gptcli",
        "pipeline_tag: text-generation",
        "---",
        "",
        f"# {facts.title}",
        "",
        f"A GPT trained {how} by gptcli {__version__}. It writes more of what it was",
        "trained on, and knows nothing else.",
        "",
        *_base_line(facts.base),
        *notes,
        _TEXTS,
        "",
        *_table(columns, rows),
        "",
        f"Validated on {facts.validation}. Bits per byte count every token and every document's",
        "end, over the UTF-8 bytes of the documents.",
        "",
        *_earlier(facts.base),
        "## Results",
        "",
        *_key_value_table(facts.results),
        "",
        "## Make it again",
        "",
        "    gptcli " + shlex.join(facts.command),
        "",
        "## Model",
        "",
        *_key_value_table(facts.config),
        "",
        "## Training",
        "",
        *_key_value_table(facts.settings),
        "",
        "## Machine",
        "",
        *_key_value_table(facts.software),
        "",
    ]
    return "\n".join(lines)


def text_rows(card: str) -> list[str]:
    """The lines of the table of texts in a card by `render`; empty for any other."""
    section = card.partition(f"\n{_TEXTS}\n")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("|")]


def machine() -> dict[str, str]:
    """Versions and system, which the results may depend on."""
    return {
        "gptcli": __version__,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _base_line(base: BaseModel | None) -> list[str]:
    return [] if base is None else [f"Began from: {shown(base.name)} (sha256 {base.sha256}).", ""]


def _earlier(base: BaseModel | None) -> list[str]:
    if base is None or not base.texts:
        return []
    return [f"{_TEXTS} of {shown(base.name)}, before", "", *base.texts, ""]


def _key_value_table(values: Mapping[str, Any]) -> list[str]:
    return _table(("what", "value"), [[key, value] for key, value in values.items()])


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    return lines + ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value).replace("|", "\\|")
