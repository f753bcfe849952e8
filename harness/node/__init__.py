"""The machine a run is on: what it is, whether it is ready, and what it does while the run goes on."""
