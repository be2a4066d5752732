"""Landmarks: pairs placed by hand in the frames of a series, and the errors they measure; the widget is a shell over the model."""
