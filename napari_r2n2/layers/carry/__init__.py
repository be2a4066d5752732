"""Layers carried along by a registration: to the reference, or from one frame to every frame."""
