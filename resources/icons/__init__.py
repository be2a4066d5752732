"""Icons of the napari plugin."""
