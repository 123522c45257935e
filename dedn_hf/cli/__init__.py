"""The `dedn` command."""

from dedn_hf.cli.parser import main

__all__ = ["main"]
