"""Copy a text of stories with other names for their characters: `rename_characters.py IN OUT`.

A model that reads a story again under other names learns to keep to the names it was given. Names
are found by their capital letters, their gender by the pronouns that follow. A new name has the
same gender; half of the time it comes from the lists below, whose names are rare in the stories.
"""

import gzip
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from gptcli.train.text_files import SEPARATOR, read_text

END = f"\n{SEPARATOR}\n"
SEED = 18
LEAST = 3  # times that a word must stand as a name to be one
SHARE = 0.85  # of the names of a story that are changed

NAME_IN_A_SENTENCE = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+\b")
CAPITALISED = re.compile(r"\b[A-Z][a-z]+\b")
LOWER = re.compile(r"\b[a-z]+\b")
WORD = re.compile(r"[A-Za-z]+")
PRONOUN = {"he": 0, "him": 0, "his": 0, "she": 1, "her": 1, "hers": 1}


def listed(words: str) -> list[str]:
    """The words between white space."""
    return words.split()


NO_NAMES = listed(
    """
    Mom Mommy Mum Mummy Mama Mamma Mother Dad Daddy Papa Father Grandma Grandmother Granny
    Grandpa Grandfather Nana Mr Mrs Ms Miss Dr Uncle Aunt Auntie Sir Madam King Queen Prince
    Princess Captain Lord Lady God Santa Christmas Halloween Easter Monday Tuesday Wednesday
    Thursday Friday Saturday Sunday January February March April May June July August September
    October November December English French Spanish Chinese Indian American America Africa
    China India Earth Moon Sun Mars Yes No Okay Ok Hello Hi Bye Thank Thanks Please Oh Wow Look
    Once One Then The And But So When What Why How Who Where It He She They We You This That
    These Those There His Her Their My Your Let Do Can Come Go Stop Sorry Welcome Hooray Yay
    Farmer Doctor Teacher Baby
    """
)
HIS = listed(
    """
    Abel Adil Alvin Amir Anders Anton Arlo Arman Asher August Axel Barnaby Bashir Bayo Benno
    Bodhi Boris Bram Bruno Caleb Carlos Casper Cedric Chidi Clovis Cosmo Cyrus Dario Darius
    Denzel Desmond Diego Dilan Dmitri Edgar Elio Elmer Emeka Emil Enzo Ezra Fabian Farid Felix
    Ferdinand Finn Fitz Florian Gideon Gilbert Giles Gustav Hamid Harun Hector Henrik Hugo Idris
    Igor Ishaan Ivan Jabari Jasper Jiro Joaquin Jonas Jorge Kamal Karim Kasper Kenji Kofi Kwame
    Lars Leopold Linus Lorenzo Lucian Ludwig Malik Marco Marius Mateo Milo Mohan Moritz Nabil
    Nico Nikhil Niko Nuru Odin Olaf Omar Orson Oskar Otto Pablo Percy Pierre Quincy Quentin
    Rafael Rajiv Ramon Ravi Remy Rocco Rohan Rollo Rufus Rupert Salim Samir Santiago Sebastian
    Sergio Silas Soren Stefan Sven Tariq Thabo Theo Tobias Tomas Ulrich Umar Valentin Victor
    Vikram Walter Wilbur Xavier Yannick Yusuf Zane Zubin
    """
)
HERS = listed(
    """
    Abena Adele Aisha Alba Alma Amara Amina Anika Annika Anouk Aria Asha Astrid Aurora Ayana
    Beatrice Bettina Bianca Birgit Bronwyn Camille Carmen Cecilia Celeste Chiara Chloe Clara
    Clementine Cora Dalia Daphne Delia Devi Dora Edith Elena Elif Elodie Elsa Esme Esperanza
    Estelle Fatima Fern Fiona Flora Freya Frida Gemma Gerda Giulia Greta Gwen Hana Harriet Hazel
    Heidi Helga Hilda Ida Imani Ines Ingrid Iris Isla Ivy Jamila Jasmin Josefina Juno Kamala
    Katinka Keiko Kiran Kirsten Laila Leila Lena Leonie Linnea Lorena Lotte Lucia Luna Mabel
    Maeve Magda Maren Margot Marisol Matilda Meera Mila Mina Mira Miriam Nadia Naomi Nila Nina
    Noor Odette Olga Ottilie Paloma Pearl Petra Philippa Priya Ramona Rania Rhea Rosalind Sabine
    Safiya Salma Saoirse Selma Seraphina Shirin Sigrid Sonja Stella Sunita Tabitha Talia Tamar
    Thea Tova Ulla Uma Ursula Vera Viola Wanda Wilma Yara Yasmin Yoko Zahra Zelda Zoe Zora
    """
)


def names_by_pronoun(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names that are mostly followed by `he`, and those by `she`."""
    as_name, in_lower = Counter[str](), Counter[str]()
    for text in texts:
        as_name.update(NAME_IN_A_SENTENCE.findall(text))
        in_lower.update(LOWER.findall(text))
    names = {
        name
        for name, count in as_name.items()
        if count >= LEAST and count > 5 * in_lower[name.lower()] and name not in NO_NAMES
    }
    counts = {name: [0, 0] for name in sorted(names)}
    for text in texts:
        words = [word for word in WORD.findall(text) if word in names or word in PRONOUN]
        for word, following in pairwise(words):
            if word in names and following in PRONOUN:
                counts[word][PRONOUN[following]] += 1
    return (
        [name for name, (he, she) in counts.items() if he >= LEAST and he > 3 * she],
        [name for name, (he, she) in counts.items() if she >= LEAST and she > 3 * he],
    )


def renamed(texts: Sequence[str]) -> Iterator[str]:
    """Each story with new names; stories without a known name are left out."""
    draw = random.Random(SEED)
    known = names_by_pronoun(texts)
    gender = {name: number for number in (0, 1) for name in known[number]}
    for text in texts:
        words = CAPITALISED.findall(text)
        taken, new = set(words), dict[str, str]()
        for name in sorted(taken & gender.keys()):
            if draw.random() > SHARE:
                continue
            rare = (HIS, HERS)[gender[name]]
            pool = known[gender[name]] if draw.random() < 0.5 else rare
            free = [other for other in pool if other not in taken]
            new[name] = draw.choice(free or [other for other in rare if other not in taken])
            taken.add(new[name])
        if new:
            yield CAPITALISED.sub(partial(new_name, new), text)


def new_name(new: Mapping[str, str], match: re.Match[str]) -> str:
    """The new name of a renamed character; any other word itself."""
    return new.get(match[0], match[0])


def main() -> None:
    """Write the copy."""
    source, target = map(Path, sys.argv[1:])
    content = "".join(story + END for story in renamed(read_text(source).documents))
    with target.open("wb") as raw, gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as file:
        file.write(content.encode())


if __name__ == "__main__":
    main()
