"""napari plugin of R2N2: thin shells over the r2n2 package."""

from r2n2.runtime.openmp import wait_asleep

# The window draws while a registration computes, often on the same few processors; torch is loaded later, at the first run.
wait_asleep()
