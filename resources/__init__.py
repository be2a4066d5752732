"""Weights, icons and other files that ship with r2n2; read them through importlib.resources."""
