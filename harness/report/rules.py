"""Every reason a verdict may have: one code, its level, one sentence."""

from enum import Enum

from harness.report.record import Level, Reason, Verdict

_BROKEN, _APART = Level.INVALID, Level.UNOFFICIAL


class Rule(Enum):
    """Name = the reason's code; value = (level, what the rule checks, sentence of a reason)."""

    RUN_FINISHED = (_BROKEN, "Every run finished", "{node}: the run failed in phase {phase}: {reason} (log: {log})")
    NODES_PRESENT = (_BROKEN, "Every node delivered", "{node} was planned but delivered no results")
    FILES_WHOLE = (_BROKEN, "Files are whole", "{what}")
    NO_FAILED_SAMPLES = (
        _BROKEN,
        "No sample failed",
        "{node}: {count} samples failed in {mode}, first sample {first}: {why}",
    )
    NO_LOST_SAMPLES = (
        _BROKEN,
        "No sample was lost",
        "{node}: LoadGen issued {issued} samples in {mode}, {done} were answered",
    )
    ONE_TOKEN = (
        _BROKEN,
        "No answer is one token long",
        "{node}: {count} answers in {mode} are one token long, which LoadGen counts as errors: samples {which}",
    )
    LOADGEN_ERRORS = (_BROKEN, "LoadGen logged no errors", "{node}: LoadGen logged {count} errors in {mode}: {errors}")
    LOADGEN_RULES = (_BROKEN, "LoadGen ran by the rules", "{node}: LoadGen's {what} is {value}, the rule is {rule}")
    LATENCY_LIMITS = (_BROKEN, "Latency limits hold", "{node}: a latency limit was broken: {why}")
    ATTEMPT_ENDED_EARLY = (
        _BROKEN,
        "The judged attempt ran to its end",
        "{node}: attempt {number} at {rate} samples/s was ended early after {samples:,} of {planned:,} queries: {why}",
    )
    NO_ATTEMPT_HELD = (
        _BROKEN,
        "The last attempt held the latency limits",
        "{node}: the latency limits did not hold after {count}: {tried}. What would help most: {advice}",
    )
    EARLY_STOPPING = (
        _BROKEN,
        "Latency limits hold with confidence",
        "{node}: {count} queries do not confirm the latency limits; LoadGen asks for at least {short} more",
    )
    MIN_DURATION = (
        _BROKEN,
        "Run is long enough",
        "{node}: the performance run ended before the {asked:.0f} s it was asked to last",
    )
    QUERY_COUNT = (_BROKEN, "Enough queries", "{node}: LoadGen generated {count} samples, {rule} are due")
    LOADGEN_RESULT = (_BROKEN, "LoadGen says VALID", "{node}: LoadGen says INVALID: {why}")
    PERFORMANCE_COVERAGE = (
        _BROKEN,
        "Performance used every sample",
        "{node}: performance used {count} different samples of {rule}",
    )
    ACCURACY_COVERAGE = (
        _BROKEN,
        "Accuracy covers every sample",
        "{count} of {rule} samples are missing in the accuracy log: {which}",
    )
    ACCURACY_ONCE = (
        _BROKEN,
        "Accuracy has every sample once",
        "{count} samples are in the accuracy log twice: {which}",
    )
    ACCURACY_FOREIGN = (
        _BROKEN,
        "Accuracy has no other samples",
        "{count} samples in the accuracy log are not of the share: {which}",
    )
    ACCURACY_LOG = (
        _BROKEN,
        "Scores belong to the log",
        "{node}: score.json was not made from this accuracy log (sha256 differs)",
    )
    ACCURACY_SCORED = (_BROKEN, "Accuracy was scored", "{node}: the accuracy run has no score")
    ROUGE = (_BROKEN, "ROUGE gate", "{metric} is {value:.4f}, below the gate of {rule:.4f} (99 % of {reference})")
    GEN_LEN = (
        _BROKEN,
        "Answer length gate",
        "answers hold {value:,} characters; the gate is {low:,.0f} to {high:,.0f} (90 to 110 %)",
    )
    REFERENCE_IDS = (
        _BROKEN,
        "Token ids as the reference's",
        "{percent:.2f} % of answers have the reference's token ids, below 99 %; differing samples: {which}",
    )
    REFERENCE_FAULT = (
        _BROKEN,
        "No answer differs by a fault",
        "{count} answers {what}, which rounding cannot explain: samples {which}",
    )
    END_TOKEN = (_BROKEN, "Nothing after an end token", "{count} answers go on after an end token: {which}")
    PREFIX_CACHING = (_BROKEN, "Prefix caching off", "{engine}: prefix caching was on")
    SPECULATIVE = (_BROKEN, "Speculative decoding off", "{engine}: speculative decoding was on")
    CONTEXT_LENGTH = (
        _BROKEN,
        "Context length",
        "{engine}: the context is {value} tokens, the longest sequence has {rule}",
    )
    ENGINE_ALIVE = (_BROKEN, "Engines stayed alive", "{engine}: the engine failed: {reason}")
    NODES_ALIKE = (_BROKEN, "Nodes ran the same", "nodes ran different {what}: {values}")

    TINY_MODEL = (
        _APART,
        "Model is Llama-3.1-8B",
        "the model is {model}, not Llama-3.1-8B: these figures say nothing about Llama-3.1-8B",
    )
    SUBSET = (_APART, "Whole data set", "{count} of {rule} samples: a part of the data set is a smoke test")
    SHORT = (
        _APART,
        "Run was asked to be long enough",
        "the performance run was only asked to last {asked:.0f} s; the rule is {rule:.0f} s",
    )
    EARLY_STOPPING_SUBSET = (
        _APART,
        "Enough queries for confidence",
        "{node}: {count} queries are too few to confirm the latency limits; LoadGen asks for at least {short} more",
    )
    BOTH_MODES = (_APART, "Performance and accuracy", "the run has no {missing} part, a result needs both")
    SUMMED_LOADGENS = (
        _APART,
        "One LoadGen",
        "{count} LoadGens were summed: an official figure comes from one LoadGen for the system",
    )
    NO_REFERENCE = (
        _APART,
        "Accuracy was gated",
        "accuracy was measured but not judged: there is no reference for {what}",
    )
    PUNKT = (_APART, "Punkt's data was there", "{node}: Punkt's data was absent, so ROUGE-Lsum is not the reference's")
    SAMPLING_SEED = (_APART, "Sampling seed", "the sampling seed is {value}, the rule is {rule}")
    UNVERIFIED = (_APART, "Engine settings verified", "{engine}: the running server does not show {what}")
    NODES_UNVERIFIED = (_APART, "Nodes' equality verified", "it is not known whether all nodes ran the same {what}")

    @property
    def level(self) -> Level:
        """The level a reason of this rule gives."""
        return self.value[0]

    @property
    def checks(self) -> str:
        """What holds when the rule gives no reason."""
        return self.value[1]

    def broken(self, verdict: Verdict) -> bool:
        """Whether the verdict has a reason of this rule."""
        return any(reason.code == self.name for reason in verdict.reasons)

    def reason(self, **facts: object) -> Reason:
        """The rule's reason with its facts in words; a fact that is None reads as "–"."""
        shown = {name: "–" if value is None else value for name, value in facts.items()}
        return Reason(code=self.name, level=self.level, sentence=self.value[2].format(**shown))
