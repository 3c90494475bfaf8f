import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from proscale_service.access.keys import USUAL_RIGHTS, Key, KeysError, find, hash_of, new_key, parse_keys, read_keys
from proscale_service.keys_command import keys


def command(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(keys, list(arguments), input=stdin)


def test_a_key_is_made_found_listed_and_removed(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    first = command(
        "add", str(file), "alice", "--right", "models", "--right", "plan", "--requests-per-s", "2.5", "--concurrent-pictures", "3"
    )
    second = command("add", str(file), "größe: 2 #", "--pixels-per-s", "1e6")
    assert (first.exit_code, second.exit_code) == (0, 0)
    made = [first.output.strip(), second.output.strip()]
    assert all(re.fullmatch(r"ps_[A-Za-z0-9_-]{43}", key) for key in made)
    alice, other = read_keys(file)
    assert (alice.name, alice.rights, alice.requests_per_s, alice.concurrent_pictures) == ("alice", ("models", "plan"), 2.5, 3)
    assert (other.name, other.rights, other.pixels_per_s) == ("größe: 2 #", USUAL_RIGHTS, 1e6)
    assert [find([alice, other], key) for key in made] == [alice, other]
    text = file.read_text()
    assert not any(key in text for key in made)
    assert file.stat().st_mode & 0o777 == 0o600
    listed = command("list", str(file)).output
    assert all(words in listed for words in (alice.id, "alice", "models,plan", "requests_per_s=2.5", other.id, "pixels_per_s=1e+06"))
    assert "sha256" not in listed

    assert command("remove", str(file), "alice").exit_code == 0
    assert [key.name for key in read_keys(file)] == ["größe: 2 #"]
    assert "last key" in command("remove", str(file), "größe: 2 #").output
    assert os.listdir(tmp_path) == ["keys.yaml"]


def test_what_the_command_refuses(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    for arguments, words in [
        (("list", str(file)), "cannot be read"),
        (("add", str(tmp_path / "no" / "keys.yaml"), "x"), "cannot be written"),
        (("add", str(file), ""), "1 to 100 characters"),
        (("add", str(file), "x", "--right", "everything"), "everything"),
        (("add", str(file), "x", "--requests-per-s", "0"), "requests-per-s"),
    ]:
        result = command(*arguments)
        assert result.exit_code != 0
        assert words in result.output
    assert command("add", str(file), "x").exit_code == 0
    assert "already" in command("add", str(file), "x").output
    assert "no key 'y'" in command("remove", str(file), "y").output


def test_a_key_of_ones_own_is_hashed_and_a_short_one_refused() -> None:
    own = "correct horse battery staple"
    assert command("hash", stdin=f"{own}\n").output.strip() == hash_of(own)
    refused = command("hash", stdin="password\n")
    assert refused.exit_code == 1
    assert "at least 24" in refused.output


HASH = hash_of("a" * 30)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must hold `keys:`"),
        ("keys:", "must hold `keys:`"),
        ("keys: []", "has no keys"),
        ("keys: {}", "must hold"),
        ("- name: x", "must hold"),
        ("keys: [\n", "not YAML, in line 2"),
        ("keys: [1]", "key 1"),
        ("\x00", "not YAML"),
        ("keys: [{name: x}]", "key 1: hash: Field required"),
        (f"keys: [{{name: x, hash: '{HASH}'}}]\nmore: 1", "and nothing else"),
        ("keys: [{name: x, hash: ps_SECRETSECRET}]", "64 hexadecimal digits"),
        (f"keys: [{{name: x, hash: '{HASH}', class: Big Spender}}]", "1 to 32 characters of a-z"),
        (f"keys: [{{name: x, hash: '{HASH}', rights: [everything]}}]", "key 1: rights.0"),
        (f"keys: [{{name: x, hash: '{HASH}', requests_per_s: 0}}]", "requests_per_s"),
        (f"keys: [{{name: x, hash: '{HASH}', requests_per_s: .nan}}]", "requests_per_s"),
        (f"keys: [{{name: x, hash: '{HASH}', request_per_s: 1}}]", "request_per_s"),
        (f"keys: [{{name: x, hash: '{HASH}'}}, {{name: y, hash: '{HASH}'}}]", "key 2 has the hash of another one"),
        (f"keys: [{{name: x, hash: '{HASH}'}}, {{name: x, hash: '{hash_of('b')}'}}]", "key 2 has the name of another one"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
    ],
)
def test_files_that_are_wrong_say_where_and_tell_no_secret(text: str, words: str) -> None:
    with pytest.raises(KeysError) as caught:
        parse_keys(text, "keys.yaml")
    assert words in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert HASH not in str(caught.value)


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "binary"):
        with pytest.raises(KeysError, match="cannot be read"):
            read_keys(path)


@given(st.text(max_size=300))
def test_only_the_exact_key_is_found(presented: str) -> None:
    key = new_key()
    known = [Key(name="a", hash=hash_of(key)), Key(name="b", hash=hash_of(new_key()))]
    assert find(known, presented) is None
    assert find(known, key[:-1]) is None
    assert find(known, key) == known[0]
    assert known[0].id not in known[0].hash
