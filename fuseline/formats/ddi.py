"""hawkBit Direct Device Integration v1: the messages, as real clients speak them.

Quirks that shaped this file, each seen on the wire: SWUpdate sends the feedback `id` as a number and
`progress.of` zero; Zephyr wants ``part`` to be ``bApp``, one chunk, one artifact and a sha256; times are
``HH:MM:SS``.
"""

from __future__ import annotations

import enum
import re
from typing import Literal

import msgspec

from fuseline.errors import MessageMalformed

MEDIA_TYPE = "application/hal+json"

_SLEEP = re.compile(r"(\d{2}):([0-5]\d):([0-5]\d)", re.ASCII)


class Href(msgspec.Struct, frozen=True):
    """A HAL link."""

    href: str


class PollingSleep(msgspec.Struct, frozen=True):
    """How long to sleep between polls, ``HH:MM:SS``."""

    sleep: str


class PollingConfig(msgspec.Struct, frozen=True):
    """The controller's configuration."""

    polling: PollingSleep


class PollLinks(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """What there is to do: links are present only when there is something behind them."""

    deployment_base: Href | None = None
    cancel_action: Href | None = None
    config_data: Href | None = None


class Poll(msgspec.Struct, frozen=True):
    """``GET /{tenant}/controller/v1/{id}``."""

    config: PollingConfig
    links: PollLinks = msgspec.field(name="_links", default=PollLinks())


class Hashes(msgspec.Struct, frozen=True):
    """Hex digests of an artifact. hawkBit's clients read sha1 and md5 too; only sha256 counts."""

    sha1: str
    md5: str
    sha256: str


class ArtifactLinks(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the bytes are; Zephyr reads ``download-http`` only."""

    download: Href
    download_http: Href = msgspec.field(name="download-http")


class Artifact(msgspec.Struct, frozen=True):
    """One file of a chunk; `size` in bytes."""

    filename: str
    hashes: Hashes
    size: int
    links: ArtifactLinks = msgspec.field(name="_links")


class Chunk(msgspec.Struct, frozen=True):
    """A software module of the deployment."""

    part: str
    version: str
    name: str
    artifacts: list[Artifact]


class Deployment(msgspec.Struct, frozen=True):
    """How and what to install."""

    download: Literal["forced", "attempt", "skip"]
    update: Literal["forced", "attempt", "skip"]
    chunks: list[Chunk]


class DeploymentBase(msgspec.Struct, frozen=True):
    """``GET …/deploymentBase/{action}``."""

    id: str
    deployment: Deployment


class CancelTarget(msgspec.Struct, frozen=True, rename="camel"):
    """Which action to stop."""

    stop_id: str


class CancelAction(msgspec.Struct, frozen=True, rename="camel"):
    """``GET …/cancelAction/{action}``."""

    id: str
    cancel_action: CancelTarget


class Execution(enum.StrEnum):
    """Where the client is with the action."""

    CLOSED = "closed"
    PROCEEDING = "proceeding"
    CANCELED = "canceled"
    SCHEDULED = "scheduled"
    REJECTED = "rejected"
    RESUMED = "resumed"
    DOWNLOAD = "download"
    DOWNLOADED = "downloaded"


class Finished(enum.StrEnum):
    """How the client says the action ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    NONE = "none"


class Result(msgspec.Struct, frozen=True):
    """The client's own verdict; a claim, not a fact."""

    finished: Finished


class Status(msgspec.Struct, frozen=True, omit_defaults=True):
    """The client's report; `details` are free text for people."""

    execution: Execution
    result: Result
    details: list[str] = []


class Feedback(msgspec.Struct, frozen=True, omit_defaults=True):
    """``POST …/feedback``; `id` comes as a string or as a number."""

    status: Status
    id: str | int | None = None


class ConfigData(msgspec.Struct, frozen=True, omit_defaults=True):
    """``PUT …/configData``: attributes the device tells of itself; claims, not facts."""

    data: dict[str, str]
    mode: Literal["merge", "replace", "remove"] = "merge"


def sleep_text(seconds: int) -> str:
    """Write a poll interval (1 s to 24 h) as ``HH:MM:SS``."""
    bounded = max(1, min(seconds, 86_399))
    return f"{bounded // 3600:02}:{bounded // 60 % 60:02}:{bounded % 60:02}"


def sleep_seconds(text: str) -> int:
    """Read ``HH:MM:SS``.

    Raises:
        MessageMalformed: Another shape.
    """
    match = _SLEEP.fullmatch(text)
    if match is None:
        raise MessageMalformed("a poll interval is written HH:MM:SS", text=text[:80])
    hours, minutes, seconds = (int(part) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds
