"""Faults of a run's files: of the disk that they are on, and of what is in them when they are judged."""

import json

from harness import checksums, journal
from harness.files import sha256_file
from tests.faults import disks
from tests.faults.disks import RunOnDisk
from tests.faults.ending import Fault
from tests.faults.run_faults import died, finished, refused
from tests.faults.runs import SLOW, OneRun, Run


def _journal_on_a_full_disk(run: Run) -> None:
    run.run_dir.mkdir(parents=True)
    (run.run_dir / "journal.jsonl").symlink_to("/dev/full")


def _outcome_was_written(run: Run) -> None:
    """The run's outcome is whole, and says that nothing was finished."""
    disks.mend(run.root)
    assert json.loads((run.run_dir / "outcome.json").read_text())["performance"] is None


DISKS = [
    Fault(
        "journal_full",
        "the journal cannot be written: the disk is full",
        "says what to free and ends the run",
        OneRun(
            inject=_journal_on_a_full_disk, server=SLOW, afterwards=lambda run: (run.run_dir / "journal.jsonl").unlink()
        ),
        died("cannot write .*journal.jsonl: the disk is full; free space there and run again", within_s=4),
    ),
    Fault(
        "disk_full",
        "the disk of a run fills while it runs",
        "says what to free, ends the run, and writes its last status into space that it had reserved",
        RunOnDisk(inject=lambda run: disks.fill(run.root), after=20, afterwards=_outcome_was_written),
        died("the disk is full; free space there and run again", within_s=4),
        root=True,
    ),
    Fault(
        "disk_read_only",
        "the disk of a run is read-only",
        "refuses to start",
        RunOnDisk(inject=lambda run: disks.make_read_only(run.root)),
        refused(3, "Read-only file system; check its owner and the disk"),
        root=True,
        long=True,
    ),
    Fault(
        "disk_small",
        "the disk is too small for a run",
        "refuses to start",
        RunOnDisk(size="16m"),
        refused(3, r"has 16 MiB free, this run needs \d+ MiB; free some space or choose another --root"),
        root=True,
        long=True,
    ),
]


def _cut_journal(run: Run) -> None:
    path = run.run_dir / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-30])


def _cut_log(run: Run) -> None:
    path = run.run_dir / "performance" / "mlperf_log_detail.txt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _better_summary(run: Run) -> None:
    path = run.run_dir / "performance" / "mlperf_log_summary.txt"
    text = path.read_text()
    assert "Result is : VALID" in text
    path.write_text(text.replace("Result is : VALID", "Result is : INVALID"))


def _shorter_accuracy_log(run: Run) -> None:
    path = run.run_dir / "accuracy" / "mlperf_log_accuracy.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:-1]))


def _another_answer(run: Run) -> None:
    """One token of an answer is another one, and the line's checksum is right."""
    path = run.run_dir / "journal.jsonl"
    first, *rest = journal.read(path).lines
    ids = [first["token_ids"][0] + 1, *first["token_ids"][1:]]
    path.write_bytes(b"".join(map(journal.seal, [{**first, "token_ids": ids}, *rest])))


def _changed_after_collection(run: Run) -> None:
    path = run.run_dir / "harness.log"
    checksums.add(run.run_dir, {path.name: sha256_file(path)})
    path.write_text("nothing to see here")


FILES = [
    Fault(
        "journal_cut",
        "the last line of a finished run's journal is cut",
        "leaves the line out; the verdict says that a sample is missing",
        OneRun(inject=_cut_journal, after=None),
        finished("PERFORMANCE_COVERAGE", "performance used 119 different samples of 120", lost="that line"),
    ),
    Fault(
        "log_cut",
        "LoadGen's log of a finished run is cut",
        "the verdict names the file",
        OneRun(inject=_cut_log, after=None),
        finished("FILES_WHOLE", "mlperf_log_detail.txt", lost="LoadGen's result"),
        long=True,
    ),
    Fault(
        "summary_changed",
        "a node delivers another LoadGen summary than its log says",
        "the verdict names both",
        OneRun(inject=_better_summary, after=None),
        finished("FILES_WHOLE", "says Result is INVALID but mlperf_log_detail.txt says VALID"),
        long=True,
    ),
]
FILES += [
    Fault(
        "accuracy_changed",
        "a node delivers another accuracy log than was scored",
        "the verdict says that the score is not this log's, and names the missing sample",
        OneRun(inject=_shorter_accuracy_log, after=None, spec={"mode": "accuracy"}, scored=True),
        finished("ACCURACY_LOG", "does not answer 1 samples: [0-9]+", "score.json was not made from this accuracy log"),
        long=True,
    ),
    Fault(
        "answer_changed",
        "a node delivers a journal with another answer than LoadGen's accuracy log has",
        "the verdict names the sample",
        OneRun(inject=_another_answer, after=None, spec={"mode": "accuracy"}, scored=True),
        finished("ANSWERS_LOGGED", "holds other token ids than journal.jsonl for 1 samples: [0-9]+"),
        long=True,
    ),
    Fault(
        "collected_file_changed",
        "a file is changed after it was collected",
        "the verdict names the file",
        OneRun(inject=_changed_after_collection, after=None),
        finished("FILE_SUMS", "harness.log is not the file that was collected"),
        long=True,
    ),
]
FILE_FAULTS = [*DISKS, *FILES]
