"""`proscale flops`."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from proscale.cli import main


def test_published_architectures_are_counted() -> None:
    result = CliRunner().invoke(main, ["flops", "640x480", "--backbone", "swin-t"])
    assert result.exit_code == 0, result.output
    assert "padded 1088x800" in result.output
    lines = {line.split("  ")[0]: line.split()[-3:] for line in result.output.splitlines()}
    assert lines["total"] == ["168.15", "229.20", "26.6%"]
    assert lines["pixel_decoder, all"] == ["57.00", "118.05", "51.7%"]


def test_mask2former_saves_nothing() -> None:
    result = CliRunner().invoke(main, ["flops", "--backbone", "r50", "--layers", "6"])
    assert result.exit_code == 0, result.output
    assert "%" not in result.output


def test_a_checkpoint_is_counted(small_checkpoint: Path) -> None:
    result = CliRunner().invoke(main, ["flops", "80x60", "--checkpoint", str(small_checkpoint)])
    assert result.exit_code == 0, result.output
    assert "small random model: picture 80x60, padded 128x96" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["640"], "is not WIDTHxHEIGHT"),
        (["0x5"], "is not WIDTHxHEIGHT"),
        (["--layers", "3,3,3"], "--layers needs --backbone"),
        (["--backbone", "r50", "--layers", "3,3"], "neither P1,P2,P3"),
        (["--checkpoint", "nowhere"], "no model folder at nowhere"),
    ],
)
def test_wrong_arguments_are_explained(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["flops", *arguments])
    assert result.exit_code != 0
    assert message in result.output
