"""MLPerf Inference (Llama-3.1-8B) on a few nodes: load generation, engines, accuracy and verdicts."""

__version__ = "0.1.0"
