"""Tokenizers that Hugging Face's libraries wrote, computed by their `tokenizers` library.

Read are `tokenizer.json` of any kind, and the older `vocab.json` with `merges.txt`. The ids are
those of transformers' `AutoTokenizer`, which takes more from the files beside these:
`tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from gptcli.core.errors import InputError, UsageError
from gptcli.core.escape import described, shown
from gptcli.core.files import decode_utf8, read_bounded, strict_json
from gptcli.tokenizer.byte_letters import bytes_of
from gptcli.tokenizer.special_tokens import (
    CONFIG,
    END_OF_TEXT,
    MAX_BYTES,
    SETTINGS,
    SPECIAL_TOKENS_MAP,
    named_token,
    read_json_object,
    text_of,
)
from gptcli.tokenizer.tokenizer import (
    GPT2_CLASSES,
    NEAR_CUTS,
    NO_TOKEN,
    StreamDecoder,
    Tokenizer,
)

ADDED_TOKENS = "added_tokens.json"
MAX_ID = 1 << 24
# Classes of transformers whose vocab.json and merges.txt are split as GPT-2's; the last two say
# nothing but that some library has read them.
_BYTE_LEVEL_CLASSES = (*GPT2_CLASSES, "PreTrainedTokenizerFast", "TokenizersBackend")
_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")  # how byte fallback writes a byte's token
# Parts of a tokenizer that look at no more than one word, and split words as GPT-2 does.
_CUTTING = {
    *("ByteLevel", "BertPreTokenizer", "Whitespace", "Digits", "Sequence"),
    *("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"),
}
_NAME = re.compile(r"(\w+)\(")
_CONTEXT = 64  # tokens that are decoded again with each new one, at the least


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer of the `tokenizers` library."""

    def __init__(self, name: str, library: tokenizers.Tokenizer, ids: Collection[int]) -> None:
        """`library` is this object's own from now on; `ids` are those of its vocabulary."""
        library.no_truncation()
        library.no_padding()
        self.name = self.origin = name
        self._library = library
        self._added = library.get_added_tokens_decoder()
        own = set(ids)
        self._beside = {id: token.content for id, token in self._added.items() if id not in own}
        self._is_bytes = isinstance(library.decoder, decoders.ByteLevel)
        self._falls_back = "ByteFallback" in repr(library.decoder)
        self._required = 1 + max((id for id in own if id not in self._added), default=-1)
        self.n_vocab = max(self._required, 1 + max(self._added, default=-1))
        self.eos_id = library.token_to_id(END_OF_TEXT)
        self.eos_ids = frozenset() if self.eos_id is None else frozenset({self.eos_id})

    @property
    def library(self) -> tokenizers.Tokenizer:
        """The tokenizer as its library has it."""
        return self._library

    @property
    def n_required(self) -> int:
        """Without added tokens: a model may lack some, such as one for padding, and still work."""
        return self._required

    @property
    def special_tokens(self) -> Sequence[str]:
        """Those of the added tokens that are marked as special."""
        return [token.content for token in self._added.values() if token.special]

    def id_of(self, token: str) -> int | None:
        """The id of any token."""
        return self._library.token_to_id(token)

    def token_bytes(self, id: int) -> bytes:
        """What the token adds to a text that it does not begin; U+FFFD's without a token."""
        if id in self._beside:  # the library would take a Latin-1 letter in it for a byte
            return self._beside[id].encode(errors="replace")
        token = self._library.id_to_token(id) if 0 <= id < MAX_ID else None
        if token is None:
            return NO_TOKEN.encode()
        if self._is_bytes:
            data = bytes_of(token)
            return token.encode(errors="replace") if data is None else data
        if byte := self._byte(token):
            return bytes.fromhex(byte)
        alone = self.plain_decode([id])
        return (self.plain_decode([id, id])[len(alone) :] or alone).encode(errors="replace")

    def decoder(self, after: Sequence[int] = ()) -> StreamDecoder:
        """By bytes where tokens are bytes; else by decoding with what stands before."""
        return super().decoder() if self._is_bytes else WindowDecoder(self, after)

    def plain_decode(self, ids: Sequence[int]) -> str:
        """The library's own decoding, which drops ids without a token."""
        return self._library.decode(ids, skip_special_tokens=False)

    def has_token(self, id: int) -> bool:
        """Whether an id stands for anything."""
        return 0 <= id < MAX_ID and self._library.id_to_token(id) is not None

    def is_byte(self, id: int) -> bool:
        """Whether a token is one byte of a character that has no token of its own."""
        return self._byte(self._library.id_to_token(id) or "") is not None

    def _byte(self, token: str) -> str | None:
        match = _BYTE.fullmatch(token) if self._falls_back else None
        return match[1] if match else None

    def _around(self) -> tuple[list[int], list[int]]:
        found = self._library.encode("a", add_special_tokens=True)
        added = found.special_tokens_mask
        first = added.index(0) if 0 in added else 0
        last = len(added) - added[::-1].index(0) if 0 in added else 0
        return found.ids[:first], found.ids[last:]

    def _can_cut(self, special: bool) -> bool:
        matched = [t for t in self._added.values() if special or not t.special]
        if any(t.lstrip or t.rstrip or t.single_word for t in matched):
            return False
        if not NEAR_CUTS.isdisjoint("".join(t.content for t in matched)):
            return False
        normalizer, splitter = repr(self._library.normalizer), repr(self._library.pre_tokenizer)
        names = {*_NAME.findall(normalizer), *_NAME.findall(splitter)} - _CUTTING
        plain = "add_prefix_space=True" not in splitter and "use_regex=False" not in splitter
        return not names and plain and self._library.pre_tokenizer is not None

    def _encode_batch(self, texts: list[str], special: bool) -> list[list[int]]:
        self._library.encode_special_tokens = not special
        found = self._library.encode_batch_fast(texts, add_special_tokens=False)
        return [one.ids for one in found]

    def _encode(self, text: str, special: bool, prompt: bool) -> list[int]:
        self._library.encode_special_tokens = not special
        try:
            return self._library.encode(text, add_special_tokens=prompt).ids
        except BaseException as error:
            # The library raises Exception itself; a panic inside it is none.
            if type(error) is not Exception and type(error).__name__ != "PanicException":
                raise
            problem = f"{self.name} cannot split this text into tokens"
            raise UsageError("prompt", problem) from None


class WindowDecoder:
    """For tokens whose text depends on what stands before them: a first word has no space.

    Decodes the last tokens again with each new one, and gives what has been added. Bytes that
    stand for a character without a token wait for the first token that is no byte: a byte more
    may make all of them invalid.
    """

    def __init__(self, tokenizer: HuggingFaceTokenizer, after: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = [id for id in after[-_CONTEXT:] if tokenizer.has_token(id)]
        self._given = tokenizer.plain_decode(self._ids)

    def feed(self, id: int) -> str:
        """The text that is certain with the next token, perhaps none."""
        if not self._tokenizer.has_token(id):
            return self.finish() + NO_TOKEN
        self._ids.append(id)
        return "" if self._tokenizer.is_byte(id) else self._new(hold=True)

    def finish(self) -> str:
        """What is left at the end."""
        return self._new(hold=False)

    def _new(self, hold: bool) -> str:
        text = self._tokenizer.plain_decode(self._ids)
        if hold:  # an unfinished character of a decoder that joins bytes
            text = text.rstrip(NO_TOKEN)
        new = text[len(self._given) :]
        self._given += new
        if len(self._ids) > 4 * _CONTEXT and self._given == text:
            self._ids = self._ids[-_CONTEXT:]
            self._given = self._tokenizer.plain_decode(self._ids)
        return new


@dataclass(frozen=True, slots=True)
class Settings:
    """What the files beside a tokenizer say of it, as transformers takes it from them.

    Attributes:
        is_gpt2: whether transformers would make its GPT-2 tokenizer of the files.
        add_prefix_space: whether that one puts a space before a text that has none.
        said: `tokenizer_config.json`, with what `special_tokens_map.json` says in its place.
        added: tokens beside the vocabulary, with the ids that the files give them.
    """

    is_gpt2: bool
    add_prefix_space: bool
    said: Mapping[str, Any]
    added: Mapping[int, AddedToken]

    @classmethod
    def read(cls, directory: Path) -> "Settings":
        """Those of a directory; of one without such files, what transformers has by itself.

        Raises:
            InputError: a file is no JSON, or a token in it is not one.
        """
        said = read_json_object(directory / SETTINGS)
        kind = said.get("tokenizer_class")
        model = read_json_object(directory / CONFIG).get("model_type")
        is_gpt2 = kind in GPT2_CLASSES or (kind is None and model == "gpt2")
        decoder = said.get("added_tokens_decoder")
        if isinstance(decoder, dict):
            path = directory / SETTINGS
            listed = [(_number(id), _added_token(token, path)) for id, token in decoder.items()]
        else:
            path = directory / ADDED_TOKENS
            said |= read_json_object(directory / SPECIAL_TOKENS_MAP)
            special = set(_specials(said))
            listed = [
                (id, AddedToken(text, special=text in special, normalized=text not in special))
                for text, id in read_json_object(path).items()
            ]
        added = {_checked_id(token.content, id, path): token for id, token in listed}
        prefix_space = said.get("add_prefix_space") is True
        return cls(is_gpt2, prefix_space, said, dict(sorted(added.items())))

    def complete(self, library: tokenizers.Tokenizer) -> None:
        """Add the tokens that the library does not have yet, with the properties that are said."""
        known = {token.content for token in library.get_added_tokens_decoder().values()}
        tokens = [token for token in self.added.values() if token.content not in known]
        known.update(token.content for token in tokens)
        named = [text for text in dict.fromkeys(_specials(self.said)) if text not in known]
        tokens += [AddedToken(text, special=True, normalized=False) for text in named]
        has_end = library.token_to_id(END_OF_TEXT) is not None
        if self.is_gpt2 and has_end and END_OF_TEXT not in {*known, *named}:
            tokens.append(AddedToken(END_OF_TEXT, special=True, normalized=False))
        if tokens:
            library.add_tokens(tokens)


def read_tokenizer_json(path: Path) -> HuggingFaceTokenizer:
    """The tokenizer in a `tokenizer.json`.

    Raises:
        InputError: it is no tokenizer, or none that the library can read.
    """
    text = decode_utf8(read_bounded(path, MAX_BYTES), path)
    ids = _ids_of(strict_json(text, path), path)
    with _refusals(path):
        library = tokenizers.Tokenizer.from_str(text)
    settings = Settings.read(path.parent)
    splitter = library.pre_tokenizer
    if isinstance(splitter, pre_tokenizers.ByteLevel):
        if settings.is_gpt2:  # then transformers has it from tokenizer_config.json alone
            splitter.add_prefix_space = settings.add_prefix_space
        if library.decoder is None:
            library.decoder = decoders.ByteLevel()
    if isinstance(library.model, models.BPE):
        library.model.dropout = None  # for training; a text has one way to be read
    settings.complete(library)
    return HuggingFaceTokenizer(path.name, library, ids)


def read_merges(merges: Path, vocabulary: Path) -> HuggingFaceTokenizer:
    """The tokenizer in GPT-2's pair of files: `merges.txt` and `vocab.json`, or their older names.

    Raises:
        InputError: a file is not what it should be, or belongs to another kind of tokenizer.
    """
    settings = Settings.read(merges.parent)
    kind = settings.said.get("tokenizer_class")
    if kind is not None and kind not in _BYTE_LEVEL_CLASSES:
        problem = f"{merges.name} is read as GPT-2's, and tokenizer_class is {shown(kind)}"
        hint = "Save it as tokenizer.json, which says how text is split"
        raise InputError(shown(merges.with_name(SETTINGS)), problem, hint)
    pairs = _pairs(merges)
    text = decode_utf8(read_bounded(vocabulary, MAX_BYTES), vocabulary)
    ids = _checked_ids(strict_json(text, vocabulary), "", vocabulary)
    # An added token that is in the vocabulary too keeps the id that the files give it.
    ids |= {token.content: id for id, token in settings.added.items()}
    _check_merges(pairs, ids, "", merges)
    with _refusals(merges):
        library = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=pairs))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=settings.add_prefix_space)
    library.decoder = decoders.ByteLevel()
    settings.complete(library)
    template = _template(library, settings, merges.with_name(SETTINGS))
    if template is not None:
        library.post_processor = template
    return HuggingFaceTokenizer(merges.name, library, ids.values())


def begin_with(tokenizer_json: bytes, token: str) -> bytes:
    """A `tokenizer.json` whose texts begin with a special token that it has."""
    library = tokenizers.Tokenizer.from_str(tokenizer_json.decode())
    id = library.token_to_id(token)
    library.post_processor = processors.TemplateProcessing(f"{token} $A", None, [(token, id)])
    return library.to_str(pretty=True).encode()


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """The library's refusals as ours. It raises Exception itself; a panic inside it is none."""
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        problem = f"the tokenizers library cannot read it ({shown(error)})"
        raise InputError(shown(path), problem) from None


def _ids_of(document: object, path: Path) -> Collection[int]:
    """The ids of a parsed tokenizer.json's vocabulary.

    Looks for what the library would answer with a panic or an end of the process.
    """
    model = document.get("model") if isinstance(document, dict) else None
    if not isinstance(model, dict):
        raise InputError(shown(path), 'expected a tokenizer, which has a mapping "model"')
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, list):  # Unigram: pieces with their scores
        unknown = model.get("unk_id")
        if not vocabulary or not (unknown is None or unknown in range(len(vocabulary))):
            found = f"found {described(unknown)}, of {len(vocabulary):,} pieces"
            raise InputError(shown(path), f"model.unk_id: expected a piece, {found}")
        return range(len(vocabulary))
    ids = _checked_ids(vocabulary, "model.vocab: ", path)
    if "merges" in model:
        merges, prefix = model["merges"], model.get("continuing_subword_prefix")
        if not isinstance(merges, list):
            found = described(merges)
            raise InputError(shown(path), f"model.merges: expected a list, found {found}")
        if not (prefix is None or isinstance(prefix, str)):
            problem = f"continuing_subword_prefix: expected a text, found {described(prefix)}"
            raise InputError(shown(path), f"model.{problem}")
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
        _check_merges(pairs, ids, prefix or "", path)
    return ids.values()


def _checked_ids(value: object, key: str, path: Path) -> dict[str, int]:
    """Tokens and ids.

    Raises:
        InputError: they are none, or a token has an impossible id or one that another has.
    """
    if not isinstance(value, dict) or not value:
        raise InputError(shown(path), f"{key}expected a mapping of tokens to ids")
    for token, id in value.items():
        _checked_id(token, id, path, key)
    if len(set(value.values())) < len(value):
        raise InputError(shown(path), f"{key}two tokens have the same id")
    return value


def _checked_id(token: str, id: object, path: Path, key: str = "") -> int:
    if type(id) is not int or not 0 <= id < MAX_ID:
        expected = f"expected an integer from 0 to {MAX_ID - 1:,}"
        problem = f'the id of "{shown(token)}": {expected}, found {described(id)}'
        raise InputError(shown(path), f"{key}{problem}")
    return id


def _check_merges(pairs: Sequence[object], ids: Mapping[str, int], prefix: str, path: Path) -> None:
    """Refuse merges of tokens that there are not. `prefix` begins the second of each pair."""
    for number, pair in enumerate(pairs, 1):
        if not _is_pair(pair):
            raise InputError(shown(path), f"merge {number:,}: expected two tokens")
        left, right = pair
        whole = left + right.removeprefix(prefix)
        if left in ids and right in ids and whole in ids and right.startswith(prefix):
            continue
        lacking = [token for token in (left, right, whole) if token not in ids]
        found = f'"{shown(lacking[0])}" has no id' if lacking else f'expected "{shown(prefix)}"'
        raise InputError(shown(path), f"merge {number:,} ({shown(left)} {shown(right)}): {found}")


def _is_pair(value: object) -> TypeGuard[Sequence[str]]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    return isinstance(value[0], str) and isinstance(value[1], str)


def _pairs(path: Path) -> list[tuple[str, str]]:
    """The merges of a `merges.txt`, first to last."""
    lines = decode_utf8(read_bounded(path, MAX_BYTES), path).split("\n")
    pairs = []
    for number, line in enumerate(lines, 1):
        if line.startswith("#version") or not line.strip():
            continue
        pair = line.rstrip("\r").split(" ")
        if len(pair) != 2:
            problem = f"line {number:,}: expected two tokens, found {len(pair)}"
            raise InputError(shown(path), problem)
        pairs.append((pair[0], pair[1]))
    return pairs


def _template(
    library: tokenizers.Tokenizer, settings: Settings, path: Path
) -> processors.TemplateProcessing | None:
    """What `add_bos_token` and `add_eos_token` put around every text."""
    parts, tokens = ["$A"], []
    for key, name, at in (("add_bos_token", "bos_token", 0), ("add_eos_token", "eos_token", 2)):
        if settings.said.get(key) is not True:
            continue
        token = named_token(settings.said, name)
        id = library.token_to_id(token)
        if id is None:
            problem = f'{name}: no token is called "{shown(token)}", and {key} needs it'
            raise InputError(shown(path), problem)
        parts.insert(at, token)
        tokens.append((token, id))
    return processors.TemplateProcessing(parts, None, tokens) if tokens else None


def _specials(said: Mapping[str, Any]) -> Iterator[str]:
    """The texts of all tokens that settings give a role, or call special."""
    extra: list[object] = []
    for key in ("extra_special_tokens", "additional_special_tokens"):
        value = said.get(key)
        extra += value if isinstance(value, list) else []
        extra += value.values() if isinstance(value, dict) else ()
    roles = [value for key, value in said.items() if key.endswith("_token")]
    return filter(None, map(text_of, [*roles, *extra]))


def _number(id: str) -> int | str:
    """A key of `added_tokens_decoder` as the id that it is."""
    return int(id) if id.isascii() and id.isdigit() and len(id) < 10 else id


def _added_token(value: object, path: Path) -> AddedToken:
    text = text_of(value)
    if text is None:
        expected = "expected a text or a mapping with its content"
        raise InputError(shown(path), f"added_tokens_decoder: {expected}, found {described(value)}")
    flags = value if isinstance(value, dict) else {}
    names = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return AddedToken(
        text, **{name: flags[name] for name in names if type(flags.get(name)) is bool}
    )
