"""The rules of the verdict: each with a code, a level and the sentence of its reason."""

from enum import Enum

from harness.report.record import Level, Reason, Verdict

_INVALID, _UNOFFICIAL = Level.INVALID, Level.UNOFFICIAL


class Rule(Enum):
    """Name = the reason's code; value = (level, what the rule checks, sentence of a reason)."""

    RUN_FINISHED = (_INVALID, "Every run finished", "{node}: the run failed in phase {phase}: {reason} (log: {log})")
    NODES_PRESENT = (_INVALID, "Every node delivered", "{node} was planned but delivered no results")
    FILES_WHOLE = (_INVALID, "Files are complete", "{what}")
    FILE_SUMS = (_INVALID, "Files are those that were collected", "{file} {what}")
    SAME_RUN = (_INVALID, "Every file is of this run", "{file}: {what} is {value}, this run's is {rule}")
    LOG_OF_RUN = (_INVALID, "LoadGen's logs are of this run", "{file}: {what} is {value}, this run's is {rule}")
    LOG_NUMBERS = (_INVALID, "LoadGen's numbers bear out its flags", "{file}: {what}")
    ATTEMPTS_MARKED = (_INVALID, "Every attempt is marked, and the last one counts", "{file} {what}")
    JOURNAL_TIMES = (_INVALID, "Every journal line is plausible", "{file} ({mode}): {what}")
    JOURNAL_OUTCOME = (
        _INVALID,
        "Journal and outcome agree",
        "{file} ({mode}): {what}: {value} in the journal, {rule} in outcome.json",
    )
    JOURNAL_LOG = (
        _INVALID,
        "Journal and LoadGen's log agree",
        "{file} ({mode}): {what}: {value} in the journal, {rule} in LoadGen's log",
    )
    ANSWERS_LOGGED = (_INVALID, "The accuracy log holds every answer once", "{file} {what}")
    SCORES_FOLLOW = (_INVALID, "Scores follow from the answers", "{file} {what}")
    MODEL_IDENTITY = (
        _INVALID,
        "Every engine served the benchmark's model",
        "{engine}: {what}: {value}, the benchmark's is {rule}",
    )
    ENGINE_FILES = (
        _INVALID,
        "The records of each engine agree",
        "{engine}: {what} is {value}, but {place} says {rule}",
    )
    SAME_ANSWERS = (_INVALID, "Performance and accuracy gave the same answers", "{file}: {what}")
    NO_FAILED_SAMPLES = (
        _INVALID,
        "No sample failed",
        "{node}: {count} samples failed in {mode}, first sample {first}: {why}",
    )
    NO_LOST_SAMPLES = (
        _INVALID,
        "No sample was lost",
        "{node}: LoadGen issued {issued} samples in {mode}, {done} were answered",
    )
    ONE_TOKEN = (
        _INVALID,
        "No answer is one token long",
        "{node}: {count} answers in {mode} are one token long, which LoadGen counts as errors: samples {which}",
    )
    LOADGEN_ERRORS = (_INVALID, "LoadGen logged no errors", "{node}: LoadGen logged {count} errors in {mode}: {errors}")
    LOADGEN_RULES = (_INVALID, "LoadGen followed the rules", "{node}: LoadGen's {what} is {value}, the rule is {rule}")
    LATENCY_LIMITS = (_INVALID, "Latency limits hold", "{node}: a latency limit was broken: {why}")
    ATTEMPT_ENDED_EARLY = (
        _INVALID,
        "The judged attempt ran to its end",
        "{node}: attempt {number} at {rate} samples/s was ended early after {samples:,} of {planned:,} queries: {why}",
    )
    NO_ATTEMPT_HELD = (
        _INVALID,
        "The last attempt held the latency limits",
        "{node}: the latency limits did not hold after {count}: {tried}. What would help most: {advice}",
    )
    EARLY_STOPPING = (
        _INVALID,
        "Latency limits hold with confidence",
        "{node}: {count} queries do not confirm the latency limits; LoadGen needs at least {short} more",
    )
    MIN_DURATION = (
        _INVALID,
        "Run is long enough",
        "{node}: the performance run ended before its minimum duration of {minimum:.0f} s",
    )
    QUERY_COUNT = (_INVALID, "Enough queries", "{node}: LoadGen generated {count} samples, {rule} are required")
    LOADGEN_RESULT = (_INVALID, "LoadGen says VALID", "{node}: LoadGen says {validity}: {why}")
    PERFORMANCE_COVERAGE = (
        _INVALID,
        "Performance used every sample",
        "{node}: performance used {count} different samples of {rule}",
    )
    ACCURACY_COVERAGE = (
        _INVALID,
        "Accuracy covers every sample",
        "{count} of {rule} samples are missing in the accuracy log: {which}",
    )
    ACCURACY_ONCE = (
        _INVALID,
        "Accuracy has every sample once",
        "{count} samples are in the accuracy log twice: {which}",
    )
    ACCURACY_FOREIGN = (
        _INVALID,
        "Accuracy has no other samples",
        "{count} samples in the accuracy log do not belong to the share: {which}",
    )
    ACCURACY_LOG = (
        _INVALID,
        "Scores are those of the log",
        "{node}: score.json was not made from this accuracy log (sha256 differs)",
    )
    ACCURACY_SCORED = (_INVALID, "Accuracy was scored", "{node}: the accuracy run has no score")
    ROUGE = (_INVALID, "ROUGE gate", "{metric} is {value:.4f}, below the gate of {rule:.4f} (99 % of {reference})")
    GEN_LEN = (
        _INVALID,
        "Answer length gate",
        "answers hold {value:,} characters; the gate is {low:,.0f} to {high:,.0f} (90 to 110 %)",
    )
    REFERENCE_IDS = (
        _INVALID,
        "Token ids match the reference",
        "{percent:.2f} % of answers have the reference's token ids, below 99 %; differing samples: {which}",
    )
    REFERENCE_FAULT = (
        _INVALID,
        "Answers differ by rounding only",
        "{count} answers {what}, which rounding cannot explain: samples {which}",
    )
    END_TOKEN = (_INVALID, "Nothing after an end token", "{count} answers continue after an end token: {which}")
    COMPLIANCE = (_INVALID, "Compliance test TEST06 passed", "{node}: TEST06: {what}")
    PREFIX_CACHING = (_INVALID, "Prefix caching off", "{engine}: prefix caching was on")
    SPECULATIVE = (_INVALID, "Speculative decoding off", "{engine}: speculative decoding was on")
    CONTEXT_LENGTH = (
        _INVALID,
        "Context length",
        "{engine}: the context is {value} tokens, the longest sequence has {rule}",
    )
    ENGINE_ALIVE = (_INVALID, "Engines stayed alive", "{engine}: {what}")
    NODES_ALIKE = (_INVALID, "Nodes ran the same", "nodes ran different {what}: {values}")

    TINY_MODEL = (
        _UNOFFICIAL,
        "Model is Llama-3.1-8B",
        "the model is {model}, not Llama-3.1-8B: these figures say nothing about Llama-3.1-8B",
    )
    SUBSET = (_UNOFFICIAL, "Whole data set", "{count} of {rule} samples: a part of the data set is a smoke test")
    SHORT = (
        _UNOFFICIAL,
        "Minimum duration is the rule's",
        "the performance run's minimum duration was {minimum:.0f} s; the rule is {rule:.0f} s",
    )
    EARLY_STOPPING_SUBSET = (
        _UNOFFICIAL,
        "Enough queries for confidence",
        "{node}: {count} queries are too few to confirm the latency limits; LoadGen needs at least {short} more",
    )
    BOTH_MODES = (_UNOFFICIAL, "Performance and accuracy", "the benchmark has no {missing} run; a result needs both")
    SUMMED_LOADGENS = (
        _UNOFFICIAL,
        "One LoadGen",
        "{count} LoadGens were summed: an official figure comes from one LoadGen for the system",
    )
    SHARE_TAKEN_OVER = (
        _UNOFFICIAL,
        "Every node measured its own share",
        "{node} was lost ({why}); the {count} samples of its accuracy share were answered by {others}",
    )
    RESUMED = (
        _UNOFFICIAL,
        "Accuracy comes from one LoadGen run",
        "{node}: the accuracy run was interrupted and resumed {times}: {kept:,} of its {samples:,} answers are from "
        "before, and each part has a LoadGen log of its own",
    )
    NO_REFERENCE = (
        _UNOFFICIAL,
        "Accuracy was judged",
        "accuracy was measured but not judged: there is no reference for {what}",
    )
    PUNKT = (
        _UNOFFICIAL,
        "Punkt's data was present",
        "{node}: Punkt's data was absent, so ROUGE-Lsum is not the reference's",
    )
    SAMPLING_SEED = (_UNOFFICIAL, "Sampling seed", "the sampling seed is {value}, the rule is {rule}")
    UNVERIFIED = (_UNOFFICIAL, "Engine settings verified", "{engine}: the running server does not show {what}")
    NODES_UNVERIFIED = (
        _UNOFFICIAL,
        "Nodes' equality verified",
        "it is not known whether all nodes ran the same {what}",
    )

    @property
    def level(self) -> Level:
        """The level a reason of this rule gives."""
        return self.value[0]

    @property
    def checks(self) -> str:
        """What is true where the rule gives no reason."""
        return self.value[1]

    def broken(self, verdict: Verdict) -> bool:
        """Whether the verdict has a reason of this rule."""
        return any(reason.code == self.name for reason in verdict.reasons)

    def reason(self, *, level: Level | None = None, **facts: object) -> Reason:
        """The rule's reason with its facts filled in; a fact that is None reads as "–". `level`: where it is not the
        rule's own."""
        shown = {name: "–" if value is None else value for name, value in facts.items()}
        return Reason(code=self.name, level=level or self.level, sentence=self.value[2].format(**shown))
