"""Versions as MCUboot's header holds them and imgtool's `--version` takes them."""

from __future__ import annotations

import pytest

from fuseline.errors import ImageMalformed
from fuseline.formats.mcuboot import Version


@pytest.mark.parametrize("text", ["0.0.0", "1.2.3", "1.2.3+4", "255.255.65535+4294967295"])
def test_a_version_reads_back_as_written(text: str) -> None:
    assert str(Version.parse(text)) == text


@pytest.mark.parametrize(("text", "full"), [("1", "1.0.0"), ("1.2", "1.2.0"), ("1.2.3+0", "1.2.3")])
def test_missing_parts_are_zero_and_build_zero_is_not_shown(text: str, full: str) -> None:
    assert str(Version.parse(text)) == full


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.",
        "01.2.3",
        "1.2.3+",
        "1.2.3-rc1",
        "256.0.0",
        "1.256.0",
        "1.2.65536",
        "1.2.3+4294967296",
        "1.2.3\n",
        "\N{ARABIC-INDIC DIGIT ONE}.2.3",
        "9" * 5000,
    ],
)
def test_text_that_the_header_cannot_hold_is_refused(text: str) -> None:
    with pytest.raises(ImageMalformed):
        Version.parse(text)


def test_versions_order_by_number_down_to_the_build() -> None:
    texts = ["10.0.0", "1.10.0", "1.2.3+4", "1.2.3", "1.0.0+1", "1", "0.9.9"]
    assert [str(version) for version in sorted(map(Version.parse, texts))] == [
        "0.9.9",
        "1.0.0",
        "1.0.0+1",
        "1.2.3",
        "1.2.3+4",
        "1.10.0",
        "10.0.0",
    ]
