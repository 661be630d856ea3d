"""`fuseline plane`: the cloud side."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from fuseline.cli.output import DEFAULT_STATE, AsJson, Parent, State, console, print_json
from fuseline.device.element.hardening import die_with_parent
from fuseline.errors import BindRefused
from fuseline.plane import logs
from fuseline.plane.config import PlaneConfig
from fuseline.plane.serve import Listen, Plane, Running
from fuseline.plane.store import migrate

app = App(name="plane", help="Run the plane: identity registry, OTA orchestration, attestation verifier.")

Port = Annotated[int, Parameter(validator=Number(gte=0, lte=65535))]


@app.command
def serve(
    *,
    state: State = DEFAULT_STATE,
    device_host: str = "127.0.0.1",
    device_port: Port = 8443,
    operator_host: str = "127.0.0.1",
    operator_port: Port = 8080,
    operator_cert: Path | None = None,
    operator_key: Path | None = None,
    proxy_socket: Path | None = None,
    workers: Annotated[int, Parameter(validator=Number(gte=1, lte=64))] = 1,
    as_json: AsJson = False,
    parent: Parent = 0,
) -> None:
    """Serve devices and operators until SIGINT or SIGTERM.

    Args:
        state: Folder that keeps the fleet.
        device_host: Address of the device port (mutual TLS 1.3).
        device_port: Its port; 0 takes a free one.
        operator_host: Address of the operator port; beyond loopback it needs TLS.
        operator_port: Its port; 0 takes a free one.
        operator_cert: Certificate chain for TLS on the operator port, PEM.
        operator_key: Its key, PEM.
        proxy_socket: Unix socket for a TLS-terminating proxy that sets Client-Cert (RFC 9440).
        workers: Processes that serve.
        as_json: Print one JSON document when ready.
        parent: Process to end with.
    """
    if parent:
        die_with_parent(parent)
    logs.configure()
    if (operator_cert is None) != (operator_key is None):
        raise BindRefused("TLS on the operator port takes both --operator-cert and --operator-key")
    listen = Listen(
        device_host=device_host,
        device_port=device_port,
        operator_host=operator_host,
        operator_port=operator_port,
        operator_tls=(operator_cert, operator_key) if operator_cert and operator_key else None,
        proxy_socket=proxy_socket,
        workers=workers,
    )
    config = PlaneConfig.load(state.resolve() / "plane")

    def ready(running: Running) -> None:
        if as_json:
            print_json(dataclasses.asdict(running))
            return
        console.print(f"devices    {running.device_url}")
        console.print(f"operators  {running.operator_url}")
        console.print(f"token      {config.operator_token}  (in {config.folder / 'operator.token'})")
        if config.settings.development:
            console.print("This is a development fleet: its keys are worthless elsewhere.")

    Plane(config, listen).run(ready)


@app.command(name="migrate")
def migrate_database(*, state: State = DEFAULT_STATE, as_json: AsJson = False) -> None:
    """Bring the database to this program's schema; `serve` does so too."""
    revision = migrate.upgrade(PlaneConfig.load(state.resolve() / "plane").database)
    if as_json:
        print_json({"revision": revision})
    else:
        console.print(f"the database is at revision {revision}")
