#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Installs a container image into containerd, from a registry or an archive."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_image
short_description: Install a container image into containerd
description:
  - Pulls the image or imports its archive if containerd does not have it.
  - Labels the image as pinned, so that the kubelet does not remove it to free disk space.
extends_documentation_fragment: [mlperf_module]
options:
  reference:
    description: Name of the image, with a tag or a digest.
    type: str
    required: true
  source:
    description: Where a missing image comes from. V(nowhere) only reports whether it exists.
    type: str
    choices: [nowhere, registry, archive]
    default: nowhere
  archive:
    description: Archive on the host, made by C(buildah push) or C(skopeo copy).
    type: path
    default: ""
  remove_archive:
    description: Whether to remove the archive after the import.
    type: bool
    default: false
attributes:
  diff_mode:
    description: Shows the image's digest before and after.
"""

EXAMPLES = r"""
- name: Import the node image
  mlperf_image:
    reference: localhost/mlperf-node:3f1c2a9b7d10
    source: archive
    archive: /var/lib/mlperf-images/node.tar
"""

RETURN = r"""
present:
  description: Whether containerd had the image before.
  returned: success
  type: bool
digest:
  description: Digest of the image's manifest, which covers all its content. Empty where there is no image.
  returned: success
  type: str
reason:
  description: Why containerd could not be queried; empty when it could.
  returned: success
  type: str
"""

import os
import re
from typing import Any, List, Tuple

from ansible.module_utils.basic import AnsibleModule

PINNED = "io.cri-containerd.pinned=pinned"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def ctr(module: Any, arguments: List[str]) -> Tuple[int, str, str]:
    """Run ctr images in the kubelet's namespace."""
    argv = [module.get_bin_path("ctr", required=True), "--namespace=k8s.io", "images", *arguments]
    code, out, err = module.run_command(argv)
    return code, out, err


def find(module: Any) -> Tuple[str, str]:
    """(digest of the image, why containerd could not be queried)."""
    if not module.get_bin_path("ctr"):
        return "", "containerd is not on this host"
    code, out, err = ctr(module, ["list", f"name=={module.params['reference']}"])
    if code != 0:
        return "", err.strip().splitlines()[-1] if err.strip() else "containerd does not answer"
    lines = [line.split() for line in out.splitlines()]
    for words in lines:
        if words and words[0] == module.params["reference"]:
            digest = DIGEST.search(" ".join(words[1:]))
            return (digest.group(0) if digest else ""), ""
    return "", ""


def install(module: Any) -> None:
    """Pull the image, or import its archive."""
    params = module.params
    if params["source"] == "registry":
        crictl = module.get_bin_path("crictl")
        if crictl:
            # It uses the same registry settings as the kubelet.
            endpoint = "--runtime-endpoint=unix:///run/containerd/containerd.sock"
            code, out, err = module.run_command([crictl, endpoint, "pull", params["reference"]])
        else:
            code, out, err = ctr(module, ["pull", "--hosts-dir=/etc/containerd/certs.d", params["reference"]])
        if code != 0:
            module.fail_json(
                msg=f"{params['reference']} cannot be pulled: {(err.strip() or out.strip())[-600:]}. "
                "Is the registry reachable from this host, does it have this digest, "
                "is its certificate trusted (containerd_registries)?"
            )
        return
    if not os.path.isfile(params["archive"]):
        module.fail_json(msg=f"archive {params['archive']} of {params['reference']} is not on this host")
    code, out, err = ctr(module, ["import", params["archive"]])
    if code != 0:
        module.fail_json(
            msg=f"{params['archive']} cannot be imported: {err.strip()[-600:]}. "
            "Is there room on the disk (df -h /var/lib/containerd)?"
        )
    if not find(module)[0]:
        module.fail_json(
            msg=f"{params['archive']} does not contain {params['reference']}; it contains: {out.strip()[-600:]}"
        )
    if params["remove_archive"]:
        os.unlink(params["archive"])


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "reference": {"type": "str", "required": True},
            "source": {"type": "str", "choices": ["nowhere", "registry", "archive"], "default": "nowhere"},
            "archive": {"type": "path", "default": ""},
            "remove_archive": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    reference, source = module.params["reference"], module.params["source"]
    before, reason = find(module)
    if reason and not module.check_mode:
        module.fail_json(msg=f"{reason}; run site.yml --tags containerd first")
    after, changed = before, not before and source != "nowhere"
    if changed and not module.check_mode:
        install(module)
        after = find(module)[0]
        ctr(module, ["label", reference, PINNED])
    module.exit_json(
        changed=changed,
        present=bool(before),
        digest=after,
        reason=reason,
        diff={"before": f"{reference} {before or 'absent'}\n", "after": f"{reference} {after or 'present'}\n"},
    )


if __name__ == "__main__":
    main()
