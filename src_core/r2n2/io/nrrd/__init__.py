"""NRRD, with the sequences and segmentations of Slicer."""
