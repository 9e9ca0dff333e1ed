"""What every unit test starts from."""

import sys

import pytest


@pytest.fixture(autouse=True)
def no_chapter_loaded(monkeypatch):
    """Chapters loaded by earlier tests in this process would count as inputs of the records made here."""
    for name in [name for name in sys.modules if name.startswith("helpers_chapter_")]:
        monkeypatch.delitem(sys.modules, name)
