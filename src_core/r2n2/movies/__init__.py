"""Movies of an aligned series: before beside after, and one frame step by step, as GIF and MP4."""
