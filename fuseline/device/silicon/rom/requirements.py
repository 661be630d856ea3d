"""What the boot ROM demands: the numbered requirements, and the word it says when one is not met."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING

from fuseline.errors import RomErrorUnknown

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Requirement:
    """One thing that the ROM demands.

    Attributes:
        id: Number, such as `ROM-SIG-5`; tests carry it in `pytest.mark.requirement`.
        code: Name of the refusal, such as `E_ROM_SIGNATURE`.
        word: What the ROM says with `Command.FAIL`.
        text: What is demanded, in one sentence.
    """

    id: str
    code: str
    word: int
    text: str


@functools.cache
def load_requirements() -> Mapping[str, Requirement]:
    """Return all requirements by id, in the order of the table."""
    table = tomllib.loads(files(__package__).joinpath("requirements.toml").read_text())
    return MappingProxyType({row["id"]: Requirement(**row) for row in table["requirement"]})


@functools.cache
def _by_word() -> Mapping[int, Requirement]:
    return {item.word: item for item in load_requirements().values()}


def requirement_of(error_word: int) -> Requirement:
    """Return the requirement that was not met.

    Args:
        error_word: As the ROM said it.

    Raises:
        RomErrorUnknown: This ROM says no such word.
    """
    found = _by_word().get(error_word)
    if found is None:
        raise RomErrorUnknown("this ROM says no such error word", word=f"0x{error_word:08x}")
    return found
