# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Options of the modules that call the harness."""

from __future__ import annotations


class ModuleDocFragment:
    """The command, and where what it manages is."""

    DOCUMENTATION = r"""
options:
  command:
    description: The C(harness) command as a list of words.
    type: list
    elements: str
    required: true
  root:
    description: Folder of this node's engines and runs.
    type: path
    required: true
  launcher:
    description:
      - What starts engines and runs. Unless it is V(process), O(command) is C(harness cluster), which manages Jobs by
        the cluster's API, and O(root) is the folder in which pods mount their claims.
    type: str
    choices: [process, kubernetes, torchx]
    default: process
"""
