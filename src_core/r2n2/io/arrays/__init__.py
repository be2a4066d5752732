"""Arrays without a format of images around them: NumPy, MATLAB, HDF5."""
