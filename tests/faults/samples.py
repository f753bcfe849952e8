"""Whether a run's journal, LoadGen's logs and what the engines answered agree, sample for sample."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from harness import accuracy_parts, mllog
from harness.journal import Line, read
from harness.spec import Spec

Answers = Mapping[int, list[int]]


def lines(folder: Path) -> tuple[Line, ...]:
    """A journal's whole lines; only the last may be cut. A link elsewhere counts as none."""
    path = folder / "journal.jsonl"
    if not path.is_file():
        return ()
    contents = read(path)
    assert not contents.damaged, contents.problem
    return contents.lines


def answers_in(folder: Path, mode: str) -> list[Line]:
    """A journal's lines of answered samples in one mode."""
    return [line for line in lines(folder) if line["mode"] == mode and "failed" not in line]


def failed(folder: Path) -> set[int]:
    """Samples that failed, by journal and outcome."""
    outcome = folder / "outcome.json"
    named = json.loads(outcome.read_text())["failures"] if outcome.exists() else []
    return {line["qsl_idx"] for line in [*named, *(line for line in lines(folder) if "failed" in line)]}


def is_complete(run_dir: Path, spec: Spec) -> bool:
    """Whether every sample of the run's modes was answered."""
    whole = set(range(spec.window.start, spec.window.stop))
    modes = ("performance", "accuracy") if spec.mode.value == "both" else (spec.mode.value,)
    return all({line["qsl_idx"] for line in answers_in(run_dir, mode)} == whole for mode in modes)


def disagreements(run_dir: Path, spec: Spec, answers: Answers, spoilt: set[int]) -> list[str]:
    """What is wrong in a run's files.

    Args:
        run_dir, spec: the run, finished or not.
        answers: what an engine in order answers to each sample.
        spoilt: samples that an engine did not answer as that; where there are any, no others may have failed.
    """
    problems = [f"sample {index} failed by itself" for index in failed(run_dir) - spoilt if spoilt]
    for mode in ("performance", "accuracy"):
        answered = answers_in(run_dir, mode)
        for line in answered:
            index = line["qsl_idx"]
            if line["token_ids"] != answers[index] and index not in spoilt:
                problems.append(f"{mode}: sample {index} was invented: {line['token_ids'][:4]}")
        counts = Counter(line["qsl_idx"] for line in answered)
        problems += [f"{mode}: sample {index} {count} times" for index, count in counts.items() if count > 1]
    return [*problems, *_against_performance_log(run_dir), *_against_accuracy_logs(run_dir, spec)]


def _against_performance_log(run_dir: Path) -> list[str]:
    """Differences between LoadGen's performance log and the journal, where LoadGen came to its end."""
    log = run_dir / "performance" / "mlperf_log_detail.txt"
    values = mllog.read(log)[0] if log.exists() and b"result_validity" in log.read_bytes() else {}
    if not values:
        return []
    generated = values["generated_query_count"] * values.get("generated_samples_per_query", 1)
    count = len(answers_in(run_dir, "performance"))
    return [] if generated == count else [f"LoadGen completed {generated} samples, the journal has {count}"]


def _against_accuracy_logs(run_dir: Path, spec: Spec) -> list[str]:
    """Differences between the journal and the accuracy log of each part in which LoadGen came to its end."""
    own = {line["qsl_idx"]: line["token_ids"] for line in answers_in(run_dir, "accuracy")}
    problems = []
    for part in [part for part in accuracy_parts.parts(run_dir, spec.window) if part.whole]:
        entries = json.loads(part.log.read_text())
        logged = {part.qsl_idx[entry["qsl_idx"]]: _ids(entry["data"]) for entry in entries}
        differing = [index for index, ids in logged.items() if own.get(index) != ids]
        missing = set(part.qsl_idx) - logged.keys()
        if differing or missing:
            problems.append(f"{part.folder.name}: log and journal differ in {differing}, LoadGen's log lacks {missing}")
    return problems


def _ids(data: str) -> list[int]:
    return list(memoryview(bytes.fromhex(data)).cast("i"))
