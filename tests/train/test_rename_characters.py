"""The helper that renames the characters of the built-in model's stories."""

import gzip
from pathlib import Path

import pytest
import rename_characters

from gptcli.train.text_files import read_text

STORIES = [
    "One day, Tom lost his ball. Then Lily found it in her garden, and they all played there.",
    "There was a boy, Tom, and he had a dog. When Tom ran, he called it. Mom was proud of him.",
    "It was then that Lily sang. As Lily sang, she held her mirror, and Mom was proud of her.",
    "The sun was warm. Nobody has a name here.",
]


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    source, target = tmp_path / "stories.txt.gz", tmp_path / "renamed.txt.gz"
    text = "".join(story + rename_characters.END for story in STORIES * 20)
    source.write_bytes(gzip.compress(text.encode()))
    monkeypatch.setattr("sys.argv", ["rename_characters.py", str(source), str(target)])
    rename_characters.main()
    return read_text(target).documents


def test_the_gender_of_a_name_is_that_of_the_pronouns_that_follow() -> None:
    assert rename_characters.names_by_pronoun(STORIES * 20) == (["Tom"], ["Lily"])


def test_a_story_keeps_its_words_but_for_consistent_new_names(copies: tuple[str, ...]) -> None:
    others = {"Tom": set(rename_characters.HIS), "Lily": set(rename_characters.HERS)}
    changed = 0
    for copy in copies:
        original = next(s for s in STORIES if s.split()[-4:] == copy.split()[-4:])
        renamed = dict[str, set[str]]()
        for before, after in zip(words(original), words(copy), strict=True):
            renamed.setdefault(before, set()).add(after)
        for before, after in renamed.items():
            assert len(after) == 1
            if after != {before}:
                assert after <= others[before]
                changed += 1
    assert changed > 40


def test_stories_without_names_are_left_out(copies: tuple[str, ...]) -> None:
    assert 0 < len(copies) < 61
    assert not any("Nobody" in copy for copy in copies)


def words(text: str) -> list[str]:
    return rename_characters.WORD.findall(text)
