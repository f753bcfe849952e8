# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Options of the modules that call kubectl; their argument spec is in plugins/module_utils/mlperf_kubectl.py."""

from __future__ import annotations


class ModuleDocFragment:
    """The command, and its credentials."""

    DOCUMENTATION = r"""
options:
  kubectl:
    description: The command.
    type: str
    default: kubectl
  kubeconfig:
    description: Credentials for the cluster.
    type: path
    default: /etc/kubernetes/admin.conf
"""
