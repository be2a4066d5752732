"""The command line: one module a group of commands; each turns arguments into settings and calls the public functions."""

from r2n2.cli.app import main

__all__ = ["main"]
