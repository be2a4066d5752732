"""OME-Zarr and bare Zarr arrays."""
