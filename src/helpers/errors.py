"""Errors that a reader can cause. Each message is one line: what is wrong, where, and what to do about it."""

from __future__ import annotations

import re


class BookError(ValueError):
    """Something the reader can put right: a wrong parameter, bad data, a read-only folder."""

    def __init__(self, message: str) -> None:
        text = str(message)
        if text.startswith("Caught ") and " worker process " in text.partition("\n")[0]:
            # torch raises what a DataLoader's worker raised anew, with the traceback in the message
            text = re.split(r"helpers\.errors\.\w+: ", text)[-1]
        super().__init__(" ".join(text.split()))


class MissingData(BookError):
    """A file that is neither in the cache nor can be downloaded."""
