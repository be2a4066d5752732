"""What the package asks of the process it runs in: signals, memory, threads, one writer a folder; knows nothing of images."""
