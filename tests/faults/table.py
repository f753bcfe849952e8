"""All faults."""

from tests.faults.engine_faults import ENGINE_FAULTS
from tests.faults.file_faults import FILE_FAULTS
from tests.faults.loss_faults import LOSS_FAULTS
from tests.faults.machine_faults import MACHINE_FAULTS
from tests.faults.playbook_faults import PLAYBOOK_FAULTS
from tests.faults.resume_faults import RESUME_FAULTS
from tests.faults.run_faults import RUN_FAULTS
from tests.faults.shared_faults import SHARED_FAULTS
from tests.faults.state_faults import STATE_FAULTS

FAULTS = (
    *RUN_FAULTS,
    *FILE_FAULTS,
    *LOSS_FAULTS,
    *RESUME_FAULTS,
    *SHARED_FAULTS,
    *STATE_FAULTS,
    *MACHINE_FAULTS,
    *ENGINE_FAULTS,
    *PLAYBOOK_FAULTS,
)
