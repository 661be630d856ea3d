"""The console in a real browser: Debian's Chromium, driven by Playwright, against a running plane."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fuseline.formats import psa
from fuseline.formats.ddi import Execution, Finished

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.conftest import RunningPlane

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed"),
]
LAYERS = ["cloud", "application", "os", "firmware", "boot", "silicon"]

Measured = Callable[[str], psa.SoftwareComponent]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - heavy, and only for these tests

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, plane: RunningPlane, tmp_path: Path) -> Iterator[Page]:
    """A page on the console, logged in; every complaint of the browser fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    foreign: list[str] = []
    opened.on(
        "request",
        lambda request: None if request.url.startswith(plane.operator_url) else foreign.append(request.url),
    )
    _log_in(opened, plane)
    yield opened
    _keep_picture(opened, tmp_path)
    context.close()
    assert complaints == []
    assert foreign == []  # nothing from any other host


def _keep_picture(page: Page, folder: Path) -> None:
    """Leave a picture for whoever wants to look; the folder can be the caller's choice."""
    folder = Path(os.environ.get("FUSELINE_PICTURES", folder))
    name = re.sub(r"\W+", "-", os.environ["PYTEST_CURRENT_TEST"].split("::")[-1])
    page.screenshot(path=folder / f"console-{name}.png", full_page=True)


def _log_in(page: Page, plane: RunningPlane) -> None:
    page.goto(plane.operator_url + "/")
    page.wait_for_url("**/console/login")
    page.locator("#token").fill(plane.config.operator_token)
    page.locator("[data-testid=login-form]").press("Enter")
    page.wait_for_url(plane.operator_url + "/")


def test_a_wrong_token_is_told_and_stays_outside(browser: Browser, plane: RunningPlane) -> None:
    from playwright.sync_api import expect  # noqa: PLC0415

    page = browser.new_page()
    page.goto(plane.operator_url + "/")
    page.locator("#token").fill("guess")
    page.locator("#token").press("Enter")
    expect(page.get_by_test_id("login-error")).to_contain_text("E_OPERATOR_TOKEN")
    page.goto(plane.operator_url + "/")
    page.wait_for_url("**/console/login")
    page.close()


def test_every_layer_shows_its_role_and_live_state_on_hover_and_on_focus(page: Page) -> None:
    from playwright.sync_api import expect  # noqa: PLC0415

    tops = {layer: _top(page, layer) for layer in LAYERS}
    assert sorted(LAYERS, key=lambda layer: tops[layer]) == LAYERS  # silicon at the bottom, cloud on top
    panel = page.get_by_test_id("layer-panel")
    for layer in LAYERS:
        page.locator(f"button[data-layer={layer}]").hover()
        expect(panel).to_have_attribute("data-shown", layer)
        expect(panel.locator(f"[data-role={layer}]")).to_be_visible()
        expect(panel.locator(f"#summary-{layer}")).not_to_be_empty()
    page.mouse.move(0, 0)
    for layer in reversed(LAYERS):
        page.locator(f"button[data-layer={layer}]").focus()
        expect(panel).to_have_attribute("data-shown", layer)


def _top(page: Page, layer: str) -> float:
    box = page.locator(f"button[data-layer={layer}]").bounding_box()
    assert box is not None
    return box["y"]


def test_the_development_fleet_says_so(page: Page) -> None:
    from playwright.sync_api import expect  # noqa: PLC0415

    expect(page.get_by_test_id("dev-banner")).to_be_visible()


def test_the_fleet_changes_live_and_an_unproven_update_shows_why(
    page: Page, plane: RunningPlane, measured: Measured
) -> None:
    from playwright.sync_api import expect  # noqa: PLC0415

    expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "live")
    device = plane.soft_device()  # registered and enrolled while the page is open
    row = page.locator(f'tbody[data-device="{device.name}"]')
    expect(row).to_have_attribute("data-stage", "enrolled")
    device.attest(measured("1.0.0"))
    expect(row).to_have_attribute("data-stage", "attested")
    expect(row.locator("td[data-column=Running]")).to_contain_text("1.0.0")

    plane.roll_out()
    action = int(device.poll()["deploymentBase"]["href"].rpartition("/")[2])
    device.say(action, Execution.CLOSED, Finished.SUCCESS)
    device.attest(measured("1.0.0"))
    expect(row).to_have_attribute("data-stage", "unproven")
    expect(row).to_contain_text("its measurement is that of 1.0.0")
    expect(page.locator("button[data-layer=cloud]")).to_have_attribute("data-health", "warn")

    device.attest(measured("2.0.0"))
    expect(row).to_have_attribute("data-stage", "attested")
    row.locator("button.toggle").click()
    expect(row.locator(".stages li[data-stage=updated]")).to_contain_text(
        measured("2.0.0").measurement_value.hex()[:12]
    )
    expect(page.get_by_test_id("feed").locator("li[data-kind='action.attested']").first).to_be_visible()


def test_a_revoked_device_is_shown_as_revoked(page: Page, plane: RunningPlane) -> None:
    from playwright.sync_api import expect  # noqa: PLC0415

    device = plane.soft_device()
    plane.operator.revoke(device.name, "stolen from the lobby")
    row = page.locator(f'tbody[data-device="{device.name}"]')
    expect(row).to_have_attribute("data-stage", "revoked")


def test_at_phone_width_nothing_scrolls_sideways(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390


def test_logging_out_closes_the_console(page: Page, plane: RunningPlane) -> None:
    page.get_by_role("button", name=re.compile("log ?out|sign ?out", re.IGNORECASE)).click()
    page.wait_for_url("**/console/login")
