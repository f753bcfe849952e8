"""Published results to show beside results of the real Llama-3.1-8B, by the GPU's name as NVIDIA's driver has it.

In tokens/s per GPU. Each was published by MLCommons in the round and by the submitter in parentheses; the files are in
mlcommons/inference_results_v5.1 and mlcommons/inference_results_v6.1 on GitHub. There is none of an A30, A10 or L4.
"""

import re

from harness.report.record import Published

PUBLISHED = {
    "H100": Published(
        system="1×H100 SXM, vLLM FP8 (v5.1, Red Hat)", offline_tokens_per_s=5777, server_tokens_per_s=5104
    ),
    "L40S": Published(system="1×L40S, vLLM FP8 (v5.1, Red Hat)", offline_tokens_per_s=1642, server_tokens_per_s=1207),
    "H200": Published(system="one of 8×H200 (v5.1, HPE)", offline_tokens_per_s=8255, server_tokens_per_s=8114),
    "B300": Published(
        system="one of 8×B300, TensorRT-LLM (v6.1)", offline_tokens_per_s=21389, server_tokens_per_s=21744
    ),
}


def of(gpu: str | None) -> Published | None:
    """The published result of such a GPU, given a name like "NVIDIA H100 80GB HBM3"; None where there is none."""
    words = re.split(r"\W+", gpu or "")
    return next((published for name, published in PUBLISHED.items() if name in words), None)
