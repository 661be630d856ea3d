"""`fuseline release`: publishing signed images."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from fuseline.cli.output import DEFAULT_STATE, AsJson, State, console, print_json, print_table
from fuseline.errors import StateMissing
from fuseline.lab.operator import OperatorClient
from fuseline.plane.config import PlaneConfig

app = App(name="release", help="Publish and list releases: images that the offline release key signed.")


@app.command
def publish(
    image: Path, *, vendor: str, hardware: str, state: State = DEFAULT_STATE, as_json: AsJson = False
) -> None:
    """Publish a signed MCUboot image for a hardware class.

    Args:
        image: The image, as imgtool signed it.
        vendor: Vendor domain of the hardware class.
        hardware: Name of the hardware class.
        state: Folder that keeps the fleet.
        as_json: Print one JSON document.
    """
    try:
        content = image.read_bytes()
    except OSError as error:
        raise StateMissing(f"the image cannot be read: {error.strerror}", path=str(image)) from error
    client = OperatorClient.for_plane(PlaneConfig.load(state.resolve() / "plane"))
    published = client.publish(content, vendor=vendor, hardware=hardware)
    if as_json:
        print_json(published)
    else:
        console.print(f"published {published['version']}, digest {published['digest']}", soft_wrap=True)


@app.command(name="list")
def list_releases(*, state: State = DEFAULT_STATE, as_json: AsJson = False) -> None:
    """List the releases of the running plane."""
    releases = OperatorClient.for_plane(PlaneConfig.load(state.resolve() / "plane")).releases()
    if as_json:
        print_json({"releases": releases})
        return
    rows = [
        [
            f"{release['vendor']}/{release['hardware']}",
            release["version"],
            str(release["security_counter"]),
            release["digest"][:16],
            str(release["size"]),
        ]
        for release in releases
    ]
    print_table("Releases", ["hardware", "version", "counter", "digest", "bytes"], rows)
