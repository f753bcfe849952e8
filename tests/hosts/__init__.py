"""Three hosts jw1, jw2, jw3 on this machine, booted with systemd-nspawn, and what is tested on them over SSH."""
