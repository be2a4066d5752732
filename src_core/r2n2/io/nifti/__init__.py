"""NIfTI and Analyze: files and pairs, read and written."""
