# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Configures a package repository, once apt is free. See the module of the same name."""

from __future__ import annotations

from ansible.plugins.loader import action_loader


class ActionModule(action_loader.get("mlperf_apt_base", class_only=True)):
    """Runs the module on the host."""
