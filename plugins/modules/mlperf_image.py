#!/usr/bin/python
# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Brings one image into containerd, from a registry or from an archive."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mlperf_image
short_description: Bring one image into containerd
description:
  - Looks whether containerd has the image; pulls it, or imports an archive, when it has not.
  - The image is marked as pinned, so that the kubelet never removes it to make room.
options:
  reference:
    description: Name of the image, with a tag or a digest.
    type: str
    required: true
  source:
    description: Where a missing image comes from. V(nowhere) only looks.
    type: str
    choices: [nowhere, registry, archive]
    default: nowhere
  archive:
    description: Archive on the host, made by C(buildah push) or C(skopeo copy).
    type: path
    default: ""
  remove_archive:
    description: Whether the archive is removed once it is imported.
    type: bool
    default: false
  hosts_folder:
    description: Folder of containerd's registry settings.
    type: path
    default: /etc/containerd/certs.d
author: The MLPerf distributed authors
attributes:
  check_mode:
    support: full
    description: Brings nothing, and says whether it would.
  diff_mode:
    support: full
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
  description: Digest of the image's manifest, which covers all its content. Empty when there is none.
  returned: success
  type: str
reason:
  description: Why containerd could not be asked; empty when it could.
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
    """Call containerd in the kubelet's namespace."""
    argv = [module.get_bin_path("ctr", required=True), "--namespace=k8s.io", "images", *arguments]
    code, out, err = module.run_command(argv)
    return code, out, err


def look(module: Any) -> Tuple[str, str]:
    """(digest of the image, why containerd cannot tell)."""
    if not module.get_bin_path("ctr"):
        return "", "containerd is not on this host"
    code, out, err = ctr(module, ["list", f"name=={module.params['reference']}"])
    if code != 0:
        return "", err.strip().splitlines()[-1] if err.strip() else "containerd does not answer"
    lines = [line.split() for line in out.splitlines()]
    for words in lines:
        if words and words[0] == module.params["reference"]:
            found = DIGEST.search(" ".join(words[1:]))
            return (found.group(0) if found else ""), ""
    return "", ""


def bring(module: Any) -> None:
    """Pull or import."""
    params = module.params
    if params["source"] == "registry":
        crictl = module.get_bin_path("crictl")
        if crictl:
            # It follows the registry settings that the kubelet's pulls follow.
            endpoint = "--runtime-endpoint=unix:///run/containerd/containerd.sock"
            code, out, err = module.run_command([crictl, endpoint, "pull", params["reference"]])
        else:
            code, out, err = ctr(module, ["pull", f"--hosts-dir={params['hosts_folder']}", params["reference"]])
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
    if not look(module)[0]:
        module.fail_json(
            msg=f"{params['archive']} does not hold {params['reference']}; it brought: {out.strip()[-600:]}"
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
            "hosts_folder": {"type": "path", "default": "/etc/containerd/certs.d"},
        },
        supports_check_mode=True,
    )
    reference, source = module.params["reference"], module.params["source"]
    before, reason = look(module)
    if reason and not module.check_mode:
        module.fail_json(msg=f"{reason}; run site.yml --tags containerd first")
    after, changed = before, not before and source != "nowhere"
    if changed and not module.check_mode:
        bring(module)
        after = look(module)[0]
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
