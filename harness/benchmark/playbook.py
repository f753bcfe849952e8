"""One ansible-playbook, run by ansible-runner: its output, its failures and its end."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.errors import BadInput, HarnessError, NotReady, RunFailed

_CANCEL_TIMEOUT_S = 120.0


class Play:
    """One ansible-playbook, run by ansible-runner in a thread of its own."""

    def __init__(
        self,
        root: Path,
        playbook: str,
        inventory: Path | None,
        limit: str | None,
        values: dict[str, Any],
        on_output: Callable[[str], None],
        on_directory: Callable[[Path], None] = lambda directory: None,
    ) -> None:
        """Start it; `on_directory` is called with the benchmark's results folder once that is known."""
        try:
            import ansible_runner
        except ImportError:
            raise NotReady(
                "ansible-runner is not installed here; install this package with its `ansible` extra"
            ) from None
        self._cancelled = False
        self._on_output, self._on_directory = on_output, on_directory
        self._failures: list[dict[str, Any]] = []
        self._private = tempfile.TemporaryDirectory(prefix="benchmark-")
        options: dict[str, Any] = {"inventory": str(inventory)} if inventory else {}
        if limit:
            options["limit"] = limit
        self._thread, self._runner = ansible_runner.run_async(
            private_data_dir=self._private.name,
            project_dir=str(root),
            playbook=playbook,
            extravars=values,
            envvars=_environment(root),
            event_handler=self._handle,
            cancel_callback=lambda: self._cancelled,
            quiet=True,
            **options,
        )

    def running(self) -> bool:
        """Whether it has not ended."""
        return bool(self._thread.is_alive())

    def cancel(self) -> None:
        """Stop it now."""
        self._cancelled = True
        self.wait()

    def wait(self) -> None:
        """Wait for its end, for a bounded time."""
        self._thread.join(timeout=_CANCEL_TIMEOUT_S)
        self._private.cleanup()

    @property
    def return_code(self) -> int:
        """Exit code of ansible-playbook."""
        self.wait()
        return int(self._runner.rc or 0)

    def error(self, what: str) -> HarnessError:
        """Why it failed, after `what`, by who must act: modules pass on the exit code of the command that refused."""
        messages = [f"{failure['host']}: {failure['message']}" for failure in self._failures]
        sentence = "; ".join(dict.fromkeys(messages)) or f"ansible-playbook ended with {self._runner.rc} and no message"
        codes = {failure["exit"] for failure in self._failures}
        kind = next((kind for kind in (BadInput, NotReady) if kind.exit_code in codes), RunFailed)
        return kind(f"{what}: {sentence}")

    def _handle(self, event: dict[str, Any]) -> bool:
        if event.get("stdout"):
            self._on_output(event["stdout"])
        data = event.get("event_data") or {}
        if event["event"] == "runner_on_ok" and data.get("task_action") == "mlperf_request":
            self._on_directory(Path(data["res"]["directory"]))
        if event["event"] in ("runner_on_failed", "runner_on_unreachable"):
            result = data.get("res") or {}
            if not data.get("ignore_errors"):
                message = str(result.get("msg") or result.get("reason") or "failed without a message").strip()
                self._failures.append({"host": data.get("host"), "message": message, "exit": result.get("exit")})
        return False


def _environment(root: Path) -> dict[str, str]:
    """The project's own settings, and the ansible-playbook that belongs to this Python."""
    here = str(Path(sys.executable).parent)
    return {"ANSIBLE_CONFIG": str(root / "ansible.cfg"), "PATH": f"{here}{os.pathsep}{os.environ.get('PATH', '')}"}
