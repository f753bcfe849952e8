"""A benchmark on a cluster: engines and LoadGens as Jobs, watched and collected through its API."""
