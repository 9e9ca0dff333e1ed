"""Errors that a reader can cause. Each message is one line: what is wrong, where, and what to do about it."""

from __future__ import annotations


class BookError(ValueError):
    """Something the reader can put right: a wrong parameter, bad data, a read-only folder."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))


class MissingData(BookError):
    """A file that is neither in the cache nor can be downloaded."""
