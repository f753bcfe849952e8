"""The machine a run is on: what it is, what it holds, and what it and its servers do while the run goes on."""
