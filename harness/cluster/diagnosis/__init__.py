"""What Jobs, pods, events and nodes say about an engine or a run: its state, the cause, and the next step."""

from harness.cluster.diagnosis.causes import Cause, Diagnosis, Kind, Object, Observation
from harness.cluster.diagnosis.checks import diagnose

__all__ = ["Cause", "Diagnosis", "Kind", "Object", "Observation", "diagnose"]
