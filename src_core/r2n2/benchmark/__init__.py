"""All methods side by side on one series: ours and other people's programs, in one run on one machine."""
