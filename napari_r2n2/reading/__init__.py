"""What napari's File menu offers: files and folders as layers, and the sample series."""
