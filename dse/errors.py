"""The error of this package: what is wrong, and what would be right."""

from __future__ import annotations


class DseError(ValueError):
    """Something is wrong with a study, a run or a design.

    `message` names the file, key and value that are wrong; `hint` says what would be right.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message if not hint else f"{message} ({hint})")
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[DseError], tuple[str, str]]:
        return type(self), (self.message, self.hint)  # so that it crosses from a worker process whole
