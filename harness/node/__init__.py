"""The machine of a run: hardware, model files, running servers, and telemetry."""
