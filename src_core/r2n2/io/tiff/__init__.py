"""TIFF: plain, ImageJ, OME and Micro-Manager."""
