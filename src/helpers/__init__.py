"""Helpers of the book *Hands-On Brain Foundation Models*.

Plumbing shared by the chapters: data, simulation, training, evaluation, plots, records, running and building.
What a paper contributes stays in its chapter. Importing the package imports nothing heavy.
"""

__version__ = "0.1.0"
