"""The folder of a run: what ``r2n2 register`` writes, goes on from after a stop, and reads again."""
