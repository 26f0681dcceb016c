"""The pictures of the docs are made of real runs, and each is there."""

from xml.etree import ElementTree

import pictures


def test_a_picture_has_what_the_terminal_showed():
    screen = pictures.run(["count-params", "gpt2-124m"])
    root = ElementTree.fromstring(pictures.picture(screen, "gptcli"))
    text = "".join(root.itertext()).replace("\xa0", " ")
    assert "$ gptcli count-params gpt2-124m" in text
    assert "163,009,536" in text
    assert "124M or 163M?" in text


def test_every_picture_is_in_the_docs():
    made = {path.stem for path in pictures.IMAGES.glob("*.svg")}
    assert made == set(pictures.RUNS)
