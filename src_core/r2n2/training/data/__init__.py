"""What training learns from: series found below folders, the slices and pairs taken from them, and one file that holds them all."""
