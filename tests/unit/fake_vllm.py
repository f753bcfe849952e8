"""A fake of vLLM's API server: its pages, log lines, child processes and failures.

`fake_vllm.py PORT JSON` with the keys: start_s, log (lines printed while starting), exit_after_s and exit_code, crash
(lines printed before that), children (how many), ignore_term (server and children), hide_child (a descendant in a
session of its own without the environment), dead_after_s (from then on /health is 503), stuck_after_s (from then on it
makes no token of its three requests), silent (never listens), and
what the pages show: model, max_model_len, prefix, speculative, and what the log says: dtype, quantization.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PORT = int(sys.argv[1])
FAKE = {
    "start_s": 0.0, "log": [], "exit_after_s": None, "exit_code": 1, "crash": [], "children": 2, "ignore_term": False,
    "hide_child": False, "dead_after_s": None, "stuck_after_s": None, "silent": False, "model": "model",
    "max_model_len": 2668, "prefix": False, "speculative": False, "dtype": "float32", "quantization": None,
}  # fmt: skip
unknown = set(json.loads(sys.argv[2])) - set(FAKE)
assert not unknown, unknown
FAKE |= json.loads(sys.argv[2])
BEGAN = time.monotonic()
SLEEPER = "import time; time.sleep(600)"
if FAKE["ignore_term"]:
    SLEEPER = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, kind, body = 200, "application/json", "{}"
        if self.path == "/health":
            body = ""
            if FAKE["dead_after_s"] is not None and time.monotonic() - BEGAN > FAKE["dead_after_s"]:
                status = 503
        elif self.path == "/v1/models":
            card = {"id": FAKE["model"], "root": FAKE["model"], "max_model_len": FAKE["max_model_len"]}
            body = json.dumps({"object": "list", "data": [card]})
        elif self.path == "/version":
            body = '{"version": "0.32.0"}'
        elif self.path == "/metrics":
            kind = "text/plain; version=0.0.4"
            body = 'vllm:num_requests_running{engine="0"} 3.0\nvllm:num_requests_waiting{engine="0"} 2.0\n'
            made_s = min(time.monotonic() - BEGAN, FAKE["stuck_after_s"] or float("inf"))
            body += f'vllm:generation_tokens_total{{engine="0"}} {made_s:.3f}\n'
            body += 'vllm:kv_cache_usage_perc{engine="0"} 0.25\n'
            body += f'vllm:cache_config_info{{block_size="16",enable_prefix_caching="{FAKE["prefix"]}"}} 1.0\n'
            if FAKE["speculative"]:
                body += 'vllm:spec_decode_num_drafts_total{engine="0"} 0.0\n'
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


if FAKE["ignore_term"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(FAKE["children"]):
    subprocess.Popen([sys.executable, "-S", "-c", SLEEPER])
if FAKE["hide_child"]:
    subprocess.Popen([sys.executable, "-S", "-c", SLEEPER], env={"HIDDEN": str(Path.cwd())}, start_new_session=True)
settings = f"dtype=torch.{FAKE['dtype']}, max_seq_len={FAKE['max_model_len']}, quantization={FAKE['quantization']}"
print(f"(EngineCore pid=1) INFO Initializing a V1 LLM engine (v0.32.0) with config: {settings}", flush=True)
for line in FAKE["log"]:
    print(line, flush=True)
if FAKE["exit_after_s"] is not None:

    def leave() -> None:
        for line in FAKE["crash"]:
            print(line, flush=True)
        os._exit(FAKE["exit_code"])

    threading.Timer(FAKE["exit_after_s"], leave).start()
time.sleep(FAKE["start_s"])
while FAKE["silent"]:
    time.sleep(1)
ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
