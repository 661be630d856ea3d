"""`fuseline chip`: an emulated chip, from wafer test to a product, and everything done to it."""

from __future__ import annotations

from cyclopts import App

from fuseline.errors import ToolMissing

try:
    from fuseline.cli.chip_boot import boot, flash, list_errors, run
    from fuseline.cli.chip_debug import debug, debug_sign
    from fuseline.cli.chip_fuse import fuse
    from fuseline.cli.chip_make import factory, new, provision
    from fuseline.cli.chip_puf import app as puf
    from fuseline.cli.chip_show import show
except ModuleNotFoundError as missing:
    # An installation that only runs a plane lacks the extra `chip`.
    raise ToolMissing("the emulated chip's packages are not installed", package=missing.name) from missing

app = App(
    name="chip",
    help="Emulated chips: make, provision and boot them, and rehearse what cannot be undone.",
)
for _verb in (new, factory, provision, boot, show, fuse, flash, debug, run):
    app.command(_verb)
app.command(debug_sign, name="debug-sign")
app.command(list_errors, name="errors")
app.command(puf)
