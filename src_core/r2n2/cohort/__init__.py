"""Many acquisitions into one folder, a task a slice position, on whatever does the tasks: this process, dask, or shards."""
