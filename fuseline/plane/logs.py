"""The plane's log: one JSON object a line on standard error.

Tracebacks name places, never the values of variables: a key in a frame must not reach a log.
"""

from __future__ import annotations

import sys

import structlog


def configure() -> None:
    """Set up logging for this process."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
