"""The report of a run as one self-contained HTML file: page, data, figures and their common look."""
