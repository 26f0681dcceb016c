"""A text in pieces gives the ids of the text as a whole."""

from pathlib import Path

import pytest
import tiktoken_ext.openai_public as openai
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiktoken import Encoding
from tokenizer_files import byte_ranks
from tokenizer_kinds import KINDS, write_kind

from gptcli.tokenizer import tokenizer as module
from gptcli.tokenizer.encodings import TiktokenTokenizer
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer

PARTS = [
    *(
        "the",
        " cat",
        "DON'T",
        "it's",
        "'s",
        "naïve",
        "東京",
        "は",
        "。",
        "Привет",
        "مرحبا",
        "हिन्दी",
    ),
    *(
        "365",
        "1234567",
        ",",
        ".",
        "...",
        "!?",
        "_",
        " _",
        "-",
        " ",
        "  ",
        "\n",
        "\n\n",
        " \n ",
        "\r\n",
    ),
    *(
        "\t",
        "\u00a0",
        "\u3000",
        "a\u0301",
        "🙂",
        "<|endoftext|>",
        "mRNA",
        "two words",
        "[SEP]",
        "▁",
    ),
]
TEXT = st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=3)), max_size=60).map("".join)
SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=9)
each = settings(max_examples=80, suppress_health_check=list(HealthCheck))
ENCODINGS = ["gpt2", "r50k_base", "p50k_base", "cl100k_base", "o200k_base", "o200k_harmony"]


def in_pieces(text: str, sizes: list[int]) -> list[str]:
    pieces, at, turn = [], 0, 0
    while at < len(text):
        pieces.append(text[at : at + sizes[turn % len(sizes)]])
        at, turn = at + len(pieces[-1]), turn + 1
    return pieces


def check(tokenizer: Tokenizer, text: str, sizes: list[int], *, special: bool) -> None:
    stream = tokenizer.encode_stream(in_pieces(text, sizes), special=special)
    whole = tokenizer.encode_prompt(text, special=special)
    assert [id for ids in stream for id in ids] == whole


@pytest.fixture(autouse=True, scope="module")
def short_chunks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", 12)
        yield


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory) -> Tokenizer:
    return load_tokenizer(None, write_kind(request.param, tmp_path_factory.mktemp("k") / "m"))


@each
@given(text=TEXT, sizes=SIZES, special=st.booleans())
def test_of_every_kind(kind: Tokenizer, text: str, sizes: list[int], special: bool) -> None:
    check(kind, text, sizes, special=special)


@pytest.fixture(scope="module", params=ENCODINGS)
def encoding(request: pytest.FixtureRequest) -> Tokenizer:
    """tiktoken's own way to split, over tokens that join across most borders of words."""
    joined = [
        a + b for a in (b"t", b"e", b"s", b" ", b"\n", b".", b"5", b"'") for b in (b"t", b" ")
    ]
    ranks = byte_ranks(*joined, b"\n\n", b".\n", b"..", b"e\n", b" c", b"36")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("load_tiktoken_bpe", "data_gym_to_mergeable_bpe_ranks"):
            patch.setattr(openai, name, lambda *_, **__: ranks)
        made = openai.ENCODING_CONSTRUCTORS[request.param]()
    return TiktokenTokenizer(
        Encoding(
            made["name"],
            pat_str=made["pat_str"],
            mergeable_ranks=ranks,
            special_tokens=made["special_tokens"],
        )
    )


@each
@given(text=TEXT, sizes=SIZES, special=st.booleans())
def test_of_every_encoding(encoding: Tokenizer, text: str, sizes: list[int], special: bool) -> None:
    check(encoding, text, sizes, special=special)


@pytest.mark.parametrize(
    "kind", ["plain", "digits", "GPT-2", "WordPiece", "normalised"], indirect=True
)
def test_common_kinds_hold_only_a_part_of_a_text(kind: Tokenizer) -> None:
    taken = 0

    def pieces():
        nonlocal taken
        for taken in range(1000):  # noqa: B007
            yield "the cat sat on the mat, the dog too. "

    stream = kind.encode_stream(pieces())
    next(stream)
    next(stream)
    assert taken < 100


def test_a_long_text_without_a_place_to_cut_is_still_whole(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(None, write_kind("plain", tmp_path / "m"))
    check(tokenizer, "5_" * 500, [7], special=False)
