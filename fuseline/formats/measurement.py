"""What the boot chain measures of a firmware image, and so what a release's reference value is.

The device's loader and the plane's release store use this one function, so they cannot disagree.
"""

from __future__ import annotations

from fuseline.formats.mcuboot import VerifiedImage
from fuseline.formats.psa import SoftwareComponent

# MCUboot's boot records name the role of a component; "FW" is the image that the loader starts.
FIRMWARE = "FW"


def measure_image(image: VerifiedImage) -> SoftwareComponent:
    """Return a verified image as a measured software component (RFC 9783 4.4.1)."""
    return SoftwareComponent(
        measurement_type=FIRMWARE,
        measurement_value=image.digest,
        signer_id=image.signer_id,
        version=str(image.version),
    )
