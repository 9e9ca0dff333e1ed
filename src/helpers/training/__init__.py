"""The parts of ``helpers.train``. Chapters import ``helpers.train`` only."""
