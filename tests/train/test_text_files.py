import gzip
from pathlib import Path

import pytest
from story_text import stories, write_stories

from gptcli.core.errors import InputError, UsageError
from gptcli.train.text_files import TextSource, parse_source, read_text, split_validation


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("a.txt", TextSource(Path("a.txt"), 1, 1)),
        ("a.txt@2", TextSource(Path("a.txt"), 2, 2)),
        ("b@c/a.gz@0.5:0", TextSource(Path("b@c/a.gz"), 0.5, 0)),
    ],
)
def test_a_text_may_name_its_weights(argument: str, expected: TextSource) -> None:
    assert parse_source(argument) == expected


def test_an_existing_file_with_an_at_in_its_name_is_that_file(tmp_path: Path) -> None:
    path = tmp_path / "me@2"
    path.touch()
    assert parse_source(str(path)) == TextSource(path)


@pytest.mark.parametrize("weights", ["x", "1:2:3", "-1", "nan", "inf", "", "1:"])
def test_weights_that_are_no_weights_are_refused(weights: str) -> None:
    with pytest.raises(UsageError, match="expected FILE@WEIGHT"):
        parse_source(f"a.txt@{weights}")


def test_gzip_and_plain_text_give_the_same_documents(tmp_path: Path) -> None:
    plain = write_stories(tmp_path / "a.txt", 7)
    packed = tmp_path / "named-as-it-likes"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_text(plain).documents == read_text(packed).documents == tuple(stories(7))


def test_only_a_whole_line_separates(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one <|endoftext|> two\r\n<|endoftext|>\n<|endoftext|>\nthree\n\n<|endoftext|>")
    assert read_text(path).documents == ("one <|endoftext|> two", "three")


def test_typographic_marks_become_plain(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\u201cI can\u2019t\u2014I won\u2019t\u2026\u201d", encoding="utf-8")
    assert read_text(path, fold_quotes=True).documents == ("\"I can't--I won't...\"",)
    assert "\u201c" in read_text(path).documents[0]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "has no text"),
        (b"\n<|endoftext|>\n\n", "has no text"),
        (b"fine\nnot \xff fine", "line 2: not UTF-8"),
        (gzip.compress(b"a story" * 99, mtime=0)[:-9], "ends early"),
        (b"\x1f\x8b but no gzip", "is damaged"),
    ],
)
def test_unreadable_text_is_named(tmp_path: Path, data: bytes, problem: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=problem):
        read_text(path)


@pytest.mark.parametrize("path", ["missing", "."])
def test_what_is_no_file_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError):
        read_text(tmp_path / path)


@pytest.mark.parametrize("share", [1e-9, 0.1, 0.5, 0.999])
def test_both_sides_of_the_split_have_documents_and_share_none(share: float) -> None:
    documents = tuple(dict.fromkeys(stories(100)))
    train, valid = split_validation(documents, share)
    assert train
    assert valid
    assert sorted(train + valid) == sorted(documents)


def test_the_split_does_not_depend_on_the_order() -> None:
    documents = tuple(stories(50))
    assert split_validation(documents, 0.2)[1] == split_validation(documents[::-1], 0.2)[1]


def test_a_single_document_is_cut_at_a_line() -> None:
    (train,), (valid,) = split_validation(("one\ntwo\nthree\nfour\n",), 0.3)
    assert (train, valid) == ("one\ntwo\n", "three\nfour\n")
