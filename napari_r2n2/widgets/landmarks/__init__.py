"""The Landmarks widget and its panels."""
