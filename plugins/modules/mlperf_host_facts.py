#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Reads what a host is: system, hardware, NVIDIA driver and packages."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_host_facts
short_description: "Read what a host is: system, hardware, NVIDIA driver and packages"
description:
  - Returns operating system, memory, disk, clock, PCI bus, NVIDIA driver, GPUs and packages in one call.
  - Needs only Python's standard library on the host, and does not fail for what is missing there.
extends_documentation_fragment: [mlperf_module.reads]
options:
  packages:
    description: Debian packages to return the version and hold of. Wildcards are allowed.
    type: list
    elements: str
    default: []
  root:
    description: Directory whose free disk space is returned. Need not exist yet.
    type: path
    default: /var/lib/mlperf
  pci_root:
    description: Directory of the PCI devices.
    type: path
    default: /sys/bus/pci/devices
  driver_file:
    description: File in which the loaded NVIDIA driver states its version.
    type: path
    default: /proc/driver/nvidia/version
  reference_unix:
    description: Time on the controller when the task started, to compare the clocks.
    type: float
  python:
    description: The Python with which an environment would be made, whose version and headers are returned.
    type: str
    default: ""
  paths:
    description:
      - Files and folders of which kind, size, first bytes, owner and access are returned, and the files in a folder.
    type: list
    elements: path
    default: []
  ports:
    description: TCP ports of which those that something listens on are returned.
    type: list
    elements: int
    default: []
  smi:
    description: The C(nvidia-smi) command.
    type: str
    default: nvidia-smi
"""

EXAMPLES = r"""
- name: Gather the host's facts
  mlperf_host_facts:
    packages: [containerd.io, kubelet]
  register: host
"""

RETURN = r"""
facts:
  description: The host's facts. A value that could not be read is null.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mlperf_host_facts import host_facts


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "default": []},
            "root": {"type": "path", "default": "/var/lib/mlperf"},
            "pci_root": {"type": "path", "default": "/sys/bus/pci/devices"},
            "driver_file": {"type": "path", "default": "/proc/driver/nvidia/version"},
            "reference_unix": {"type": "float"},
            "python": {"type": "str", "default": ""},
            "paths": {"type": "list", "elements": "path", "default": []},
            "ports": {"type": "list", "elements": "int", "default": []},
            "smi": {"type": "str", "default": "nvidia-smi"},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, facts=host_facts(**module.params))


if __name__ == "__main__":
    main()
