"""The files of a tokenizer, for a model directory that is to be complete by itself.

Knows no model and no text.
"""

from pathlib import Path

from gptcli.files import read_bounded
from gptcli.rankfile import rank_lines
from gptcli.tokenizer import find_file, read_vocabulary
from gptcli.vocabulary import END_OF_TEXT, MAX_BYTES, MERGES, VOCABULARIES, Vocabulary

_BESIDE = (*MERGES, *VOCABULARIES, "tokenizer_config.json")  # what a file may be read with


def files_of(
    name: str, directory: Path | None, vocab_size: int, rank_file: str
) -> tuple[str, dict[str, bytes]]:
    """Name and place of a tokenizer → what a config is to call it, and the files beside that.

    It becomes `rank_file` where ranks say all of it, otherwise its own files are copied. A name
    that only tiktoken's own data explains stays, and needs no file.

    Raises:
        InputError: a file is not what it should be, or the name means nothing.
    """
    path = find_file(name, directory)
    if path is None:
        return name, {}
    vocabulary = read_vocabulary(path, vocab_size)
    if _is_plain(vocabulary):
        return rank_file, {rank_file: rank_lines(vocabulary.ranks)}
    paths = [path, *(p for other in _BESIDE if (p := path.with_name(other)).exists())]
    return path.name, {p.name: read_bounded(p, MAX_BYTES) for p in paths}


def _is_plain(vocabulary: Vocabulary) -> bool:
    """Whether ranks are the ids of all tokens but the end of text, which comes after them."""
    end = max(vocabulary.ranks.values()) + 1
    others = {end: END_OF_TEXT.encode()}
    plain = vocabulary.ids is None and not vocabulary.prefix_space
    return plain and vocabulary.others == others and vocabulary.eos_id == end
