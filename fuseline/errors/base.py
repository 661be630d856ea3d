"""The base of all errors."""

from __future__ import annotations

from typing import Any, ClassVar


class FuselineError(Exception):
    """Base of all errors.

    Args:
        message: What was found, in one sentence, without secrets.
        **evidence: The facts behind it as JSON-able data, for machines and for the console.
    """

    code: ClassVar[str] = "E_FUSELINE"
    hint: ClassVar[str] = "Run `fuseline doctor` and look at the evidence."

    def __init__(self, message: str, **evidence: Any) -> None:
        super().__init__(message)
        self.message = message
        self.evidence = evidence

    def diagnostics(self) -> str:
        """Return what happened and what to do next, for a person."""
        facts = "".join(f"\n  {key}: {value}" for key, value in self.evidence.items())
        return f"{self.code}: {self.message}{facts}\n  next: {self.hint}"

    def as_dict(self) -> dict[str, Any]:
        """Return the same facts for a machine."""
        return {
            "code": self.code,
            "message": self.message,
            "evidence": self.evidence,
            "hint": self.hint,
        }
