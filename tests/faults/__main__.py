"""python -m tests.faults: write the table of faults to docs/reliability.md."""

from tests.faults.page import PAGE, page

if __name__ == "__main__":
    PAGE.write_text(page())
