"""The installation, the state folder and the journey."""

from __future__ import annotations

from fuseline.errors.base import FuselineError


class SetupError(FuselineError):
    """The installation or the state folder is not usable."""

    code = "E_SETUP"


class StateMissing(SetupError):
    """The state folder lacks something that this command reads."""

    code = "E_STATE_MISSING"
    hint = "`fuseline up` or `fuseline factory init` makes a development fleet."


class StateMismatch(SetupError):
    """The state folder was made with other settings than are asked for now."""

    code = "E_STATE_MISMATCH"
    hint = "Leave the option away to go on with this fleet, or use another --state folder."


class StatePermissions(SetupError):
    """A secret is readable by others."""

    code = "E_STATE_PERMISSIONS"
    hint = "chmod 600 the file; treat the key as leaked."


class StateBusy(SetupError):
    """Another process is running on this state folder."""

    code = "E_STATE_BUSY"
    hint = "Stop the other one, or use another --state folder."


class SchemaVersion(SetupError):
    """The database is of another version than this program."""

    code = "E_SCHEMA_VERSION"
    hint = "Run the version of Fuseline that wrote it, or a newer one."


class BindRefused(SetupError):
    """The address cannot be bound, or must not be."""

    code = "E_BIND"
    hint = "Choose a free port; anything but loopback needs TLS on the operator port."


class ToolMissing(SetupError):
    """An external tool that this command needs is not installed."""

    code = "E_TOOL_MISSING"
    hint = "`make install` installs everything that `make run` needs."


class JourneyError(FuselineError):
    """`fuseline up` did not reach its goal."""

    code = "E_JOURNEY"


class JourneyTimeout(JourneyError):
    """A stage did not finish in time."""

    code = "E_JOURNEY_TIMEOUT"
    hint = "The stage and the device's last events are in the evidence; its log has the rest."


class JourneyProcess(JourneyError):
    """A process of the fleet ended on its own."""

    code = "E_JOURNEY_PROCESS"
    hint = "Its log under the state folder says why."
