"""The YAML that is read is small and plain; the rest is refused before it can act."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gptcli.core.errors import InputError
from gptcli.core.strict_yaml import MAX_DEPTH, MAX_NODES, parse_yaml

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(min_codepoint=32, max_codepoint=0xD7FF, exclude_characters="\x7f"))
)  # fmt: skip
PLAIN_TEXT = st.text("abcdefgh_", min_size=1, max_size=8)


def refusal(text: str) -> str:
    with pytest.raises(InputError) as caught:
        parse_yaml(text, "x.yaml")
    assert caught.value.where == "x.yaml"
    return caught.value.problem


@given(st.dictionaries(PLAIN_TEXT, SCALARS | st.lists(SCALARS, max_size=4), max_size=6))
def test_json_means_the_same_in_yaml(value: dict[str, object]) -> None:
    assert parse_yaml(json.dumps(value), "f") == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12), ("-7", -7), ("0", 0), ("0.5", 0.5), ("1e-5", 1e-5), ("-1.5E+2", -150.0),
        ("true", True), ("false", False), ("null", None), ("~", None), ("", None),
    ],
)  # fmt: skip
def test_scalars_that_json_can_write_have_their_value(text: str, value: object) -> None:
    result = parse_yaml(f"a: {text}", "f")
    assert result == {"a": value}
    assert type(result["a"]) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "yes", "no", "on", "off", "y", "True", "TRUE", "False", "Null", "NULL",
        "010", "0o10", "0x10", "0b1", "1_000", "1:30", "+1", ".5", "1.", "1.e3", "01.5",
        ".nan", ".inf", "-.inf", "NaN", "Infinity", "2024-01-01", "2024-01-01 00:00:00", "=",
        "\u0661", "12\u00a0",
    ],
)  # fmt: skip
def test_what_yaml_1_1_would_convert_is_text(text: str) -> None:
    assert parse_yaml(f"a: {text}", "f") == {"a": text}


@pytest.mark.parametrize("text", ['"12"', "'12'", "|\n  12", ">\n  12", '"true"', "'null'"])
def test_quoted_and_block_scalars_are_text(text: str) -> None:
    value = parse_yaml(f"a: {text}", "f")["a"]
    assert value in {"12", "12\n", "true", "null"}


def test_comments_a_document_marker_and_a_byte_order_mark_are_fine() -> None:
    text = "\ufeff# first\n---\na: 1 # one\nb: {c: [2, x]}\n...\n"
    assert parse_yaml(text, "f") == {"a": 1, "b": {"c": [2, "x"]}}


@pytest.mark.parametrize("text", ["", "# only a comment", "---", "\n\n"])
def test_nothing_is_none(text: str) -> None:
    assert parse_yaml(text, "f") is None


def merge_key_bomb(levels: int) -> str:
    lines = ["a0: &a0 {x: 1}"]
    for i in range(1, levels):
        lines.append(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}")
    return "\n".join(lines)


def alias_bomb(levels: int) -> str:
    lines = ["a0: &a0 [x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (merge_key_bomb(40), "line 1: YAML anchors and aliases are not supported"),
        (alias_bomb(40), "line 1: YAML anchors and aliases are not supported"),
        ("a: 1\nb: *a", "line 2: YAML anchors and aliases are not supported"),
        ("&a b: 1", "line 1: YAML anchors and aliases are not supported"),
        ("x: 1\n<<: {a: 1}", "line 2: YAML merge keys are not supported"),
        ("x: {<<: [{a: 1}]}", "line 1: YAML merge keys are not supported"),
        ("a: !!python/object/apply:os.system [id]", "line 1: YAML tags are not supported"),
        ("a: !!int '1'", "line 1: YAML tags are not supported"),
        ("a: ! 1", "line 1: YAML tags are not supported"),
        ("%TAG ! !x\n--- a", "line 1: YAML tags are not supported"),
        ("a: 1\n---\nb: 2", "line 2: a second YAML document; expected one"),
        ("[" * 100_000, "line 1: nested too deeply (expected at most 4 levels)"),
        ("{a: " * 100_000, "line 1: nested too deeply (expected at most 4 levels)"),
        ("- " * 100_000, "line 1: nested too deeply (expected at most 4 levels)"),
        ("? " * 100_000, "line 1: nested too deeply (expected at most 4 levels)"),
        ("\n".join("- a" for _ in range(100_000)), f"line {MAX_NODES}: too many values"),
        ("a: 1\nb: 2\na: 1", 'line 3: duplicate key "a"'),
        ("a: 1\n'a': 1", 'line 2: duplicate key "a"'),
        ("1: 2", "line 1: the key 1 is not text"),
        ("a: 1\ntrue: 2", "line 2: the key true is not text"),
        ("?\n: 2", "line 1: the key of no characters is not text"),
        ("? [a]\n: 1", "line 1: a key is not text"),
        ("a: " + "1" * 5000, "line 1: an integer of 5,000 digits"),
        ("a: [1", "line 1: not YAML"),
        ("a: 1\n\tb: 2", "line 2: not YAML"),
        ("a: b: c", "line 1: not YAML"),
        ("a: 1\nb: \x1b[31m", r"line 2: not YAML (character \x1b)"),
        ("a: '\ud800'", r"line 1: not YAML (character \ud800)"),
        (r'a: "\UFFFFFFFF"', "not YAML"),
        (r'a: "\U00110000"', "not YAML"),
        ("%YAML " + "1" * 5000 + ".1\n--- a", "not YAML"),
    ],
)  # fmt: skip
def test_yaml_beyond_the_plain_subset_is_refused(text: str, problem: str) -> None:
    assert refusal(text).startswith(problem)


def test_the_limits_themselves_are_allowed() -> None:
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_yaml(deep, "f") == json.loads(deep)
    assert parse_yaml(json.dumps([1] * (MAX_NODES - 1)), "f") == [1] * (MAX_NODES - 1)


def test_a_quoted_merge_key_is_a_key() -> None:
    assert parse_yaml("'<<': 1", "f") == {"<<": 1}


def plain(value: object) -> bool:
    """Whether only the plain types came out."""
    if isinstance(value, dict):
        return all(type(key) is str and plain(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(plain, value))
    return value is None or type(value) in (str, int, float, bool)


@given(st.text("ab:-? \n\t#&*!|>'\"%@`{}[],01.e<~\\xuU=\u2028\x85\x00", max_size=40))
@example('"\\x')
@example("%\n")
@example("? \n- a")
def test_any_text_is_plain_values_or_an_input_error(text: str) -> None:
    try:
        value = parse_yaml(text, "f")
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert plain(value)
