"""playbooks/doctor.yml by its exit code: what is seen is given, everything after that is the real playbook."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_host_survey import A30, node

REPOSITORY = Path(__file__).resolve().parents[2]
# Takes the place of the module that looks at a host.
LOOK = """\
#!/usr/bin/python3
# WANT_JSON
import json, sys
given = json.load(open(sys.argv[1]))
with open(given["root"]) as stream:
    print(json.dumps({"changed": False, "facts": json.load(stream)}))
"""


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        (A30, 0, "2 hosts, 0 failed, 0 warnings"),
        (A30.replace("165.00, 165.00, 165.00", "100.00, 165.00, 165.00"), 2, "jw3 slower: will be slower than jw2"),
    ],
)
def test_exit_code_tells_whether_there_is_something_to_do(tmp_path: Path, line: str, status: int, words: str) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "mlperf_host_facts.py").write_text(LOOK)
    hosts: dict[str, Any] = {}
    for name, seen in (("jw2", node()), ("jw3", node(line))):
        (tmp_path / f"{name}.json").write_text(json.dumps(seen))
        hosts[name] = {"ansible_connection": "local", "harness_root": str(tmp_path / f"{name}.json")}
    inventory = tmp_path / "hosts.json"
    inventory.write_text(json.dumps({"gpu_nodes": {"hosts": hosts}, "cluster": {"children": {"gpu_nodes": {}}}}))
    report = tmp_path / "doctor.json"
    playbook = [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, "playbooks/doctor.yml"]
    done = subprocess.run(
        [*playbook, "-e", f"doctor_file={report}"],
        cwd=REPOSITORY,
        env={**os.environ, "ANSIBLE_LIBRARY": f"{tmp_path / 'modules'}:plugins/modules", "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert words in " ".join(done.stdout.split())
    assert set(json.loads(report.read_text())["nodes"]) == {"jw2", "jw3"}
