"""The first cut: evidence of the simulated platform only. Goes as soon as every caller uses what stands beside it."""
