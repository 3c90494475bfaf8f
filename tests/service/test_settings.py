import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from proscale.runtime import parse_sizes
from proscale_service.settings import PREFIX, Settings, describe_invalid, former_variables, unknown_variables


def test_every_setting_is_described() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_environment_then_constructor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROSCALE_PORT", "9001")
    monkeypatch.setenv("PROSCALE_MAX_CONCURRENT_PICTURES", "3")
    assert (Settings().port, Settings().max_concurrent_pictures) == (9001, 3)
    assert (Settings(port=5).port, Settings(port=5).max_concurrent_pictures) == (5, 3)


@pytest.mark.parametrize("name", sorted(Settings.model_fields.keys() - {"warmup", "triton_url", "dialects"}))
def test_an_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    default = Settings()
    monkeypatch.setenv(PREFIX + name.upper(), "")
    assert Settings() == default


def test_compiling_needs_sizes_where_something_computes() -> None:
    with pytest.raises(ValidationError, match="compile needs warmup"):
        Settings(compile=True)
    assert Settings(compile=True, engine="triton").compile


def test_thirty_megabytes_and_twenty_thousand_squared_are_too_much() -> None:
    assert Settings().max_upload_bytes < 30_000_000
    assert Settings().max_pixels < 20_000**2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"port": "http"}, r"--port: .*\(it is 'http'\)"),
        ({"max_concurrent_pictures": 0}, "--max-concurrent-pictures: .*greater than or equal to 1"),
        ({"precision": "half"}, "--precision: .*float32.*bfloat16"),
        ({"engine": "magic"}, "--engine: .*in_process"),
        ({"warmup": "640"}, "no size such as 480x640"),
        ({"max_pixels": 10**9}, "max_queue_pixels must be at least max_pixels"),
        ({"max_upload_bytes": 10**9}, "max_buffered_bytes must be at least"),
    ],
)
def test_wrong_settings_are_named(given: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(**given)
    text = describe_invalid(caught.value, given)
    assert re.search(words, text), text


def test_wrong_variables_are_named_as_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROSCALE_PORT", "http")
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert describe_invalid(caught.value, {}).startswith("PROSCALE_PORT: ")


def test_misspelt_variables_are_found() -> None:
    names = [PREFIX + name.upper() for name in Settings.model_fields]
    assert unknown_variables([*names, "PATH", "PROSCALE_PROT", "proscale_qeue"]) == ["PROSCALE_PROT", "proscale_qeue"]


@given(st.lists(st.tuples(st.integers(1, 9999), st.integers(1, 9999))))
def test_sizes_round_trip(sizes: list[tuple[int, int]]) -> None:
    assert parse_sizes(", ".join(f"{height}x{width}" for height, width in sizes)) == tuple(sizes)


@pytest.mark.parametrize("text", ["640", "0x5", "5x0", "axb", "5x5x5", "-1x5", "5 x"])
def test_invalid_sizes_are_named(text: str) -> None:
    with pytest.raises(ValueError, match="no size"):
        parse_sizes(text)


@pytest.mark.parametrize(
    ("device", "warmup", "sizes"),
    [("cpu", None, []), ("cuda:1", None, [(480, 640)]), ("cuda", "", []), ("cpu", "32x64, 8x9", [(32, 64), (8, 9)])],
)
def test_a_gpu_is_warmed_up_and_a_cpu_on_demand(device: str, warmup: str | None, sizes: list[tuple[int, int]]) -> None:
    assert Settings(device=device, warmup=warmup).runtime.warmup == tuple(sizes)


def test_triton_addresses_are_parsed() -> None:
    assert Settings(triton_url="a:8001, b.svc:9, a:8001,[::1]:7").triton_urls == ["a:8001", "b.svc:9", "[::1]:7"]


@pytest.mark.parametrize("url", ["", " , ", "triton", "triton:", ":8001", "http://triton:8001", "triton:99999", "triton:0"])
def test_invalid_triton_addresses_are_named(url: str) -> None:
    with pytest.raises(ValidationError, match="8001"):
        Settings(triton_url=url)


def test_a_former_name_is_understood_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROSCALE_MAX_QUEUE", "3")
    assert Settings().max_concurrent_pictures == 3
    assert former_variables(["PROSCALE_MAX_QUEUE", "PROSCALE_PORT"]) == {"PROSCALE_MAX_QUEUE": "PROSCALE_MAX_CONCURRENT_PICTURES"}
    assert unknown_variables(["PROSCALE_MAX_QUEUE"]) == []
    monkeypatch.setenv("PROSCALE_MAX_CONCURRENT_PICTURES", "4")
    assert Settings().max_concurrent_pictures == 4
    assert Settings(max_concurrent_pictures=5).max_concurrent_pictures == 5
