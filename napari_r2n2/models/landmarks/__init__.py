"""Landmarks as numbers: marks, the errors they measure, files; nothing here knows a viewer."""
