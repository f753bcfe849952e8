"""What a submission's tree of round v6.1 must hold for Llama-3.1-8B in the datacenter, as constants."""

from harness.spec import FULL_SAMPLES, Scenario

BENCHMARK = "llama3.1-8b"
ROUND = "v6.1"
DIVISIONS = ("closed", "open", "network")
SCENARIOS = {"Offline": Scenario.OFFLINE, "Server": Scenario.SERVER, "Interactive": Scenario.INTERACTIVE}
FOLDERS = {scenario: name for name, scenario in SCENARIOS.items()}
STATUSES = ("available", "preview", "rdi")
SYSTEM_TYPE = "datacenter"
MEASUREMENT_KEYS = (
    "input_data_types",
    "retraining",
    "starting_weights_filename",
    "weight_data_types",
    "weight_transformations",
)
FILLED_SYSTEM_KEYS = (
    "division",
    "submitter",
    "status",
    "system_name",
    "system_type",
    "number_of_nodes",
    "host_processor_model_name",
    "host_processors_per_node",
    "host_processor_core_count",
    "host_memory_capacity",
    "host_memory_configuration",
    "host_storage_capacity",
    "host_storage_type",
    "host_networking",
    "host_networking_topology",
    "host_network_card_count",
    "accelerators_per_node",
    "accelerator_model_name",
    "accelerator_memory_capacity",
    "accelerator_memory_configuration",
    "accelerator_host_interconnect",
    "accelerator_interconnect",
    "cooling",
    "framework",
    "operating_system",
    "other_software_stack",
)
"""Keys of systems/<system>.json that must not be empty."""
OPTIONAL_SYSTEM_KEYS = (
    "system_type_detail",
    "host_processor_frequency",
    "host_processor_caches",
    "host_processor_interconnect",
    "accelerator_frequency",
    "accelerator_interconnect_topology",
    "accelerator_on-chip_memories",
    "hw_notes",
    "sw_notes",
)
"""Keys that must be there, and may be empty."""
SYSTEM_KEYS = (*FILLED_SYSTEM_KEYS, *OPTIONAL_SYSTEM_KEYS)
MOST_LOG_BYTES = 10 * 1024
"""Size of a truncated accuracy log."""
VIEWABLE_BYTES = 4096
"""How much of its beginning and of its end is kept."""
MOST_FILE_BYTES = 50 << 20
MIN_DURATION_MS = 600_000
LATENCY_LIMIT_NS = 20_000_000_000
"""The most that a Server run's target latency may be set to."""
LEAST_SAMPLES = FULL_SAMPLES
