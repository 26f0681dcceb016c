"""The parts of a Hugging Face `tokenizer.json` that make a byte-level BPE; all else is refused.

What such a file can ask for is much more than GPT-2 has. A setting that would give other ids
than tiktoken does is a problem with its name, never ignored. Knows no files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gptcli.core.errors import InputError, one_message
from gptcli.core.escape import shown

# What a setting may be beside absent or null.
_MODEL: dict[str, tuple[object, ...]] = {
    "dropout": (0, 0.0),
    "continuing_subword_prefix": ("",),
    "end_of_word_suffix": ("",),
    "byte_fallback": (False,),
    "ignore_merges": (False,),
}
_PLAIN_PROCESSORS = (None, "ByteLevel")


@dataclass(frozen=True, slots=True)
class Parts:
    """Merges and ids in GPT-2's letters; added tokens as they read; see `Vocabulary`."""

    merges: Sequence[tuple[str, str]]
    ids: Mapping[str, Any]
    added: Mapping[str, int] = field(default_factory=dict)
    prefix_space: bool = False


def bpe_parts(document: object, source: object) -> Parts:
    """A parsed tokenizer.json → its parts.

    Raises:
        InputError: names `source`, and everything that is not supported or out of shape.
    """
    whole = _mapping(document)
    model = _mapping(whole.get("model"))
    if problems := [*_shape_problems(model), *_setting_problems(whole, model)]:
        raise InputError(shown(source), one_message(problems))
    merges = [_pair(merge) for merge in model["merges"]]
    if None in merges:
        number = merges.index(None) + 1
        raise InputError(shown(source), f"merge {number:,}: expected two tokens")
    return Parts(
        [pair for pair in merges if pair],
        model["vocab"],
        _added(whole.get("added_tokens"), source),
        bool(_mapping(whole.get("pre_tokenizer")).get("add_prefix_space", True)),
    )


def _shape_problems(model: Mapping[str, Any]) -> list[str]:
    problems = []
    if model.get("type", "BPE") != "BPE":
        problems.append(f'model.type: expected "BPE", found "{shown(model["type"])}"')
    elif not isinstance(model.get("vocab"), dict):
        problems.append("model.vocab: expected a mapping of tokens to ids")
    elif not isinstance(model.get("merges"), list):
        problems.append("model.merges: expected a list")
    return problems


def _setting_problems(whole: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
    problems = [
        f"model.{key}: {shown(model[key])} is not supported"
        for key, good in _MODEL.items()
        if model.get(key) is not None and model[key] not in good
    ]
    splitter = _mapping(whole.get("pre_tokenizer"))
    if splitter.get("type") != "ByteLevel" or splitter.get("use_regex", True) is not True:
        found = shown(splitter.get("type", "none"))
        problems.append(f"pre_tokenizer: expected ByteLevel with its pattern, found {found}")
    if whole.get("normalizer") is not None:
        kind = shown(_mapping(whole["normalizer"]).get("type"))
        problems.append(f"normalizer: {kind} is not supported")
    if _adds_tokens(whole.get("post_processor")):
        problems.append("post_processor: adding tokens to a text is not supported")
    return problems


def _adds_tokens(processor: object) -> bool:
    settings = _mapping(processor)
    if settings.get("type") != "TemplateProcessing":
        return settings.get("type") not in _PLAIN_PROCESSORS
    single = settings.get("single")
    return not isinstance(single, list) or any("Sequence" not in _mapping(p) for p in single)


def _pair(merge: object) -> tuple[str, str] | None:
    """`"a b"` as files had it until 2024, or `["a", "b"]`."""
    pair = merge.split(" ") if isinstance(merge, str) else merge
    if isinstance(pair, list) and len(pair) == 2 and all(isinstance(p, str) for p in pair):
        return pair[0], pair[1]
    return None


def _added(tokens: object, source: object) -> dict[str, int]:
    added: dict[str, int] = {}
    for entry in tokens if isinstance(tokens, list) else []:
        content, id = _mapping(entry).get("content"), _mapping(entry).get("id")
        if not isinstance(content, str) or type(id) is not int or not 0 <= id < 1 << 24:
            raise InputError(shown(source), "added_tokens: expected tokens with content and id")
        added[content] = id
    return added


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
