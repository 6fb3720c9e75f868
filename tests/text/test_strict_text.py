"""Files and numbers that people write: nothing in them is lost, guessed, or told in more than a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from dydist.text.strict import (
    LARGEST_FILE,
    TextError,
    dump_yaml,
    load_json,
    load_yaml,
    number,
    read_user_text,
    whole_number,
)

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{after}: &{after} [{','.join([f'*{before}'] * 9)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
WRONG_YAML = [
    ("optim: {lr: 1}\noptim: {momentum: 0}", "line 2: optim is there twice, first in line 1"),
    ("a:\n  b:\n    c: 1\n    d: 2\n    c: 3", "line 5: a.b.c is there twice, first in line 3"),
    ("a: 1\n'a': 2", "line 2: a is there twice"),
    ("x: [{b: 1, b: 2}]", "x.b is there twice"),
    ("<<: {a: 1}\n<<: {b: 1}", "<< is there twice"),
    ("[" * 10_000, "nested too deeply"),
    ("a: " * 3 + "1", "mapping values are not allowed here"),
    ("{a: " * 5_000, "nested too deeply"),
    (BOMB, "aliases repeat values"),
    ("a: &a [*a]", "an alias stands for what it is in itself"),
    ("a: &a {b: *a}", "an alias stands for what it is in itself"),
    ("a: *b", "line 1: found undefined alias 'b'"),
    ("model:\n\tkernels: 4", "line 2: found character '\\t' that cannot start any token; indent with blanks"),
    ("a: 1\n---\nb: 2", "but found another document"),
    ("a: !!python/object:os.system x", "could not determine a constructor"),
    (f"seed: {'9' * 5_000}", "Exceeds the limit"),
    ("? [a]\n: b", "found unhashable key"),
    ("a: \a", "special characters are not allowed"),
    ("a: 'x", "found unexpected end of stream"),
]


@pytest.mark.parametrize(("text", "message"), WRONG_YAML, ids=[message for _, message in WRONG_YAML])
def test_yaml_that_cannot_be_used_is_told_in_one_line(text: str, message: str) -> None:
    with pytest.raises(TextError) as caught:
        load_yaml(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10), ("-3", -3), ("+3", 3), ("0", 0), ("0.5", 0.5), ("1.5e-3", 0.0015), (".5", 0.5),
        ("-.inf", float("-inf")),
        ("010", "010"), ("1_0", "1_0"), ("0x10", "0x10"), ("0b1", "0b1"), ("1:30", "1:30"), ("1_0.5", "1_0.5"),
        ("٣", "٣"), ("²", "²"), ("１２", "１２"), ("2026-11-28", "2026-11-28"),
        ("1e5", "1e5"), ("", None), ("# x", None),
        ("true", True), ("off", False), ("null", None), ("~", None),
    ],
)  # fmt: skip
def test_scalars(text: str, value: Any) -> None:
    found = load_yaml(text)
    assert (found, type(found)) == (value, type(value))


@example("\x85")
@example("a\x85b")
@given(st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.from_regex(r"[-+0-9_.:eExo]{1,8}")))
def test_what_is_dumped_is_taken_back(value: Any) -> None:
    assert load_yaml(dump_yaml({"a": value})) == {"a": value}


@given(st.one_of(st.text(st.characters(exclude_characters="\x85")), st.integers(), st.booleans(), st.none()))
def test_what_version_0_1_dumped_is_taken_back(value: Any) -> None:
    """It wrote config.yaml with safe_dump, which is wrong about NEL alone."""
    assert load_yaml(yaml.safe_dump({"a": value}, allow_unicode=True)) == {"a": value}


def test_a_time_without_quotes() -> None:
    with pytest.raises(TextError, match=r'line 2: time: 24:00:00 without quotes .* quote it: "24:00:00"'):
        load_yaml("nodes: 1\ntime: 24:00:00", times_in_quotes=True)
    assert load_yaml('time: "24:00:00"', times_in_quotes=True) == {"time": "24:00:00"}
    assert load_yaml("profile: 10:20") == {"profile": "10:20"}


def test_anchors_and_merged_keys_are_taken() -> None:
    text = "base: &base {lr: 1, momentum: 0}\na: {<<: *base, lr: 2}\nb: *base\nc: *base\n"
    assert load_yaml(text)["a"] == {"lr": 2, "momentum": 0}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_files_of_other_systems(encoding: str, end: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(f"run:{end}  name: größe{end}".encode(encoding))
    assert load_yaml(read_user_text(file)) == {"run": {"name": "größe"}}


def test_files_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(TextError, match="line 2: byte 0xff is not UTF-8"):
        read_user_text(file)
    file.write_bytes(b" " * (LARGEST_FILE + 1))
    with pytest.raises(TextError, match="larger than 1 MiB"):
        read_user_text(file)
    with pytest.raises(IsADirectoryError):
        read_user_text(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "'a' is there twice"),
        ('{"x": {"a": 1, "a": 2}}', "'a' is there twice"),
        ('{"a": NaN}', "NaN is not a number of JSON"),
        ('{"a": Infinity}', "Infinity is not a number of JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("{", "Expecting property name"),
        (f'{{"a": {"9" * 5000}}}', "Exceeds the limit"),
    ],
)
def test_json_that_cannot_be_used(text: str, message: str) -> None:
    with pytest.raises(TextError, match=message):
        load_json(text)


@pytest.mark.parametrize(
    "text", ["", " 3 ", "+3", "-3", "1_0", "²", "٣", "１２", "3\n", "0x1", "1.0", "1e3", "9" * 19]
)
def test_no_whole_number(text: str) -> None:
    assert whole_number(text) is None


def test_numbers() -> None:
    assert [whole_number(text) for text in ("0", "12", "000001234")] == [0, 12, 1234]
    assert [number(text) for text in ("1", "-1e-3", ".5", "+2.", "1E5")] == [1, -0.001, 0.5, 2, 100000]
    assert [number(text) for text in ("", "1_0", "٣", " 1", "1\n", "0x1", "1e", "infinity", "e5")] == [
        None
    ] * 9
