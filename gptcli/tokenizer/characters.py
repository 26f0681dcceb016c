"""nanoGPT's character vocabularies: each character is a token.

`meta.json` is nanoGPT's `meta.pkl` written as JSON: `stoi` gives the id of each character.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from gptcli.core.errors import InputError, UsageError
from gptcli.core.escape import described, shown
from gptcli.tokenizer.special_tokens import read_json_object
from gptcli.tokenizer.tokenizer import REPLACEMENT, Tokenizer

MAX_ID = 1 << 24


class CharacterTokenizer(Tokenizer):
    """One token a character. A character without a token is refused: there is no unknown token."""

    def __init__(self, name: str, ids: Mapping[str, int]) -> None:
        self.name = self.origin = name
        self._ids = dict(ids)
        self._characters = {id: character for character, id in ids.items()}
        self.n_vocab = max(self._characters) + 1

    @property
    def ids(self) -> Mapping[str, int]:
        """The id of each character."""
        return self._ids

    @property
    def special_tokens(self) -> Sequence[str]:
        """Empty: there are none."""
        return ()

    def id_of(self, token: str) -> int | None:
        """The id of a character."""
        return self._ids.get(token)

    def token_bytes(self, id: int) -> bytes:
        """The character in UTF-8."""
        return self._characters.get(id, REPLACEMENT).encode()

    def _can_split(self, special: bool) -> bool:
        return True

    def _encode(self, text: str, special: bool, prompt: bool) -> list[int]:
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            character = str(error.args[0])
            found = f"U+{ord(character):04X} at character {text.index(character) + 1:,}"
            problem = f'has "{shown(character)}", which is not in the vocabulary ({found})'
            hint = f"{self.name} has {len(self._ids)} characters; use those"
            raise UsageError("prompt", problem, hint) from None


def read_characters(path: Path) -> CharacterTokenizer:
    """The vocabulary in a `meta.json`.

    Raises:
        InputError: it has no usable `stoi`.
    """
    ids = read_json_object(path).get("stoi")
    if not isinstance(ids, dict) or not ids:
        hint = "It holds the stoi of nanoGPT's meta.pkl: an id for each character"
        raise InputError(shown(path), 'expected a mapping of characters to ids, "stoi"', hint)
    for character, id in ids.items():
        if len(character) != 1:
            raise InputError(shown(path), f'stoi: "{shown(character)}" is not one character')
        if type(id) is not int or not 0 <= id < MAX_ID:
            expected = f"expected an integer from 0 to {MAX_ID - 1:,}"
            found = described(id)
            raise InputError(
                shown(path), f'stoi: the id of "{shown(character)}": {expected}, found {found}'
            )
    if len(set(ids.values())) < len(ids):
        raise InputError(shown(path), "stoi: two characters have the same id")
    return CharacterTokenizer(path.name, ids)
