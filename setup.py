"""A shim for tools that call setup.py; pyproject.toml holds all the metadata."""

from setuptools import setup

setup()
