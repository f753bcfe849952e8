"""Faults between a client and the API server."""

from dataclasses import dataclass, field

from tests.cluster.api_errors import ApiError, away
from tests.cluster.rbac import Attributes


@dataclass
class Fault:
    """A fault of requests with a verb and a resource, empty for all; `times` None means always."""

    verb: str = ""
    resource: str = ""
    times: int | None = 1
    code: int = 0
    delay_s: float = 0.0

    def meets(self, attributes: Attributes) -> bool:
        """Whether it applies to this request; counts it."""
        if self.times == 0 or self.verb not in ("", attributes.verb) or self.resource not in ("", attributes.full):
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass
class Faults:
    """The faults that are planned. `watch_events`: a watch is dropped after so many events; `drops` is how often."""

    planned: list[Fault] = field(default_factory=list)
    watch_events: int = 0
    drops: int = 0
    expire_in_stream: bool = True

    def of(self, attributes: Attributes) -> tuple[float, ApiError | None]:
        """The delay of the response in seconds, and its error."""
        delay = 0.0
        for fault in self.planned:
            if fault.meets(attributes):
                delay += fault.delay_s
                if fault.code:
                    return delay, away(fault.code)
        return delay, None

    def drops_after(self) -> int | None:
        """After how many events this watch is dropped; None for not at all."""
        if self.drops <= 0:
            return None
        self.drops -= 1
        return self.watch_events
