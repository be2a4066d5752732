"""napari plugin of R2N2: thin shells over the r2n2 package."""
