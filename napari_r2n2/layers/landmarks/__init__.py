"""Landmarks in a viewer: the points layer that is edited, and what a click in it means."""
