"""hawkBit DDI: the messages with the names and quirks of real clients."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuseline.errors import MessageMalformed
from fuseline.formats import ddi

CONFIG = ddi.PollingConfig(ddi.PollingSleep("00:05:00"))


def test_a_poll_has_links_only_where_there_is_something_behind_them() -> None:
    nothing = msgspec.to_builtins(ddi.Poll(CONFIG))
    assert nothing == {"config": {"polling": {"sleep": "00:05:00"}}, "_links": {}}
    links = ddi.PollLinks(ddi.Href("/d"), ddi.Href("/c"), ddi.Href("/a"))
    assert msgspec.json.decode(msgspec.json.encode(ddi.Poll(CONFIG, links)))["_links"] == {
        "deploymentBase": {"href": "/d"},
        "cancelAction": {"href": "/c"},
        "configData": {"href": "/a"},
    }


def test_an_artifact_has_the_link_that_zephyr_reads() -> None:
    links = ddi.ArtifactLinks(ddi.Href("/x"), ddi.Href("/x"))
    artifact = ddi.Artifact("image.bin", ddi.Hashes("1", "5", "256"), 7, links)
    raw = msgspec.json.encode(artifact)
    assert set(msgspec.json.decode(raw)["_links"]) == {"download", "download-http"}
    assert msgspec.json.decode(raw, type=ddi.Artifact) == artifact


def test_a_cancel_action_names_what_to_stop() -> None:
    raw = msgspec.json.encode(ddi.CancelAction("7", ddi.CancelTarget("6")))
    assert msgspec.json.decode(raw) == {"id": "7", "cancelAction": {"stopId": "6"}}


@pytest.mark.parametrize("number", ['"7"', "7"])
def test_feedback_of_swupdate_and_of_hawkbit_is_read(number: str) -> None:
    raw = (
        f'{{"id":{number},"time":"20260101T000000","status":{{"result":{{"finished":"none",'
        '"progress":{"cnt":1,"of":0}},"execution":"proceeding","details":["a","b"]}}'
    )
    feedback = msgspec.json.decode(raw, type=ddi.Feedback)
    assert str(feedback.id) == "7"
    assert feedback.status.execution is ddi.Execution.PROCEEDING
    assert feedback.status.details == ["a", "b"]


@pytest.mark.parametrize(
    "raw",
    [
        "{}",
        "[]",
        '{"status":{}}',
        '{"status":{"execution":"attested","result":{"finished":"success"}}}',
        '{"status":{"execution":"closed","result":{"finished":"maybe"}}}',
        '{"status":{"execution":"closed","result":{"finished":"none"},"details":"text"}}',
        '{"id":[],"status":{"execution":"closed","result":{"finished":"none"}}}',
        '{"status":{"execution":"closed","result":{"finished":"none"}}',
    ],
)
def test_feedback_of_another_shape_is_refused(raw: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(raw, type=ddi.Feedback)


@pytest.mark.parametrize("raw", ['{"data":{"a":1}}', '{"data":[]}', "{}", '{"data":{},"mode":"drop"}'])
def test_attributes_of_another_shape_are_refused(raw: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(raw, type=ddi.ConfigData)


@given(st.integers(1, 86_399))
def test_a_poll_interval_survives_the_way(seconds: int) -> None:
    assert ddi.sleep_seconds(ddi.sleep_text(seconds)) == seconds


@pytest.mark.parametrize(("seconds", "text"), [(0, "00:00:01"), (-5, "00:00:01"), (86_400, "23:59:59")])
def test_a_poll_interval_is_bounded(seconds: int, text: str) -> None:
    assert ddi.sleep_text(seconds) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "00:00",
        "00:00:00:00",
        "0:0:0",
        "00:60:00",
        "00:00:60",
        "-1:00:00",
        "+1:00:00",
        "1_0:00:00",
        " 00:00:05",
        "00:00:05\n",
        "\u0660\u0660:00:05",
        "100:00:00",
        "aa:bb:cc",
    ],
)
def test_a_poll_interval_of_another_shape_is_refused(text: str) -> None:
    with pytest.raises(MessageMalformed):
        ddi.sleep_seconds(text)
