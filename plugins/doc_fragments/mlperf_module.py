# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""What all modules have: their author, and how they behave in check mode and with diffs."""

from __future__ import annotations


class ModuleDocFragment:
    """Of a module that changes a host; and, as `mlperf_module.reads`, of one that only reads."""

    DOCUMENTATION = r"""
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Changes nothing, and reports whether it would.
  diff_mode:
    support: full
    description: Shows what changes.
"""
    READS = r"""
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Only reads.
  diff_mode:
    support: none
    description: Changes nothing.
"""
