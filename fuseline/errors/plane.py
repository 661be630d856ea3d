"""What is asked of the plane and cannot be done."""

from __future__ import annotations

from fuseline.errors.base import FuselineError


class PlaneError(FuselineError):
    """Something asked of the plane cannot be done."""

    code = "E_PLANE"


class NotFound(PlaneError):
    """No such thing."""

    code = "E_NOT_FOUND"


class MethodNotAllowed(PlaneError):
    """The route exists, but not for this method."""

    code = "E_METHOD"


class MediaType(PlaneError):
    """The body's media type is not the one this route takes."""

    code = "E_MEDIA_TYPE"


class BodyTooLarge(PlaneError):
    """The request body is larger than this route allows."""

    code = "E_BODY_SIZE"


class OperatorToken(PlaneError):
    """The operator token is missing or wrong."""

    code = "E_OPERATOR_TOKEN"
    hint = "The token is printed at start and kept in `plane/operator.token` of the state folder."


class ReleaseConflict(PlaneError):
    """A release of this version exists with other bytes."""

    code = "E_RELEASE_CONFLICT"
    hint = "Releases are immutable; publish a new version."


class ReleaseDowngrade(PlaneError):
    """The release is below the security counter that the device is known to have."""

    code = "E_RELEASE_DOWNGRADE"
    hint = "Release again with a security counter at or above the device's."


class RolloutEmpty(PlaneError):
    """No device fits the rollout."""

    code = "E_ROLLOUT_EMPTY"
    hint = "Check the release's hardware against the devices'."


class ServerFault(PlaneError):
    """A defect of the plane itself; the log has the details under the same reference."""

    code = "E_INTERNAL"
    hint = "Report it with the reference."
