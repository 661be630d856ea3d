"""`fuseline lab`: rehearsed attacks on an emulated product, as anybody can run them."""

from __future__ import annotations

from cyclopts import App

app = App(name="lab", help="Attack emulated products, and see what holds.")
# Loaded when called: each needs packages that the others do not.
app.command("fuseline.cli.lab_faults:faults", name="faults")
app.command("fuseline.cli.lab_chips:chips", name="chips")
app.command("fuseline.cli.lab_chip_attacks:chip_attacks", name="chip-attacks")
