# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Installs packages, once apt is free. See plugins/modules/mlperf_packages.py for what users need."""

from __future__ import annotations

from ansible.plugins.loader import action_loader


class ActionModule(action_loader.get("mlperf_apt_base", class_only=True)):
    """Runs the module on the host."""
