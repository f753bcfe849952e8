"""python -m tests.hosts up | down | fresh | cut | join | on | off | ssh: the three hosts by hand."""

import os
import sys
from pathlib import Path

if (venv := Path(__file__).resolve().parents[2]) and str(venv) not in sys.path:
    sys.path.insert(0, str(venv))

from tests.hosts import hosts, inventory, repository
from tests.hosts.layout import ADDRESSES, HOSTS, INVENTORY, USER, CannotBoot

USAGE = """usage: python -m tests.hosts COMMAND [jw1 jw2 jw3]
  up             boot all three, bare, and leave them running
  down           power all off and remove what was made for them
  fresh [HOST…]  bare again (all, or those named)
  on, off HOST…  power on, cut the power
  cut, join      close and open the hosts' way out (apt proxy, stand-in repository)
  save LABEL     keep how all hosts are; load LABEL brings that back
  ssh HOST [COMMAND]"""


def _do(command: str, *words: str) -> None:
    if command not in ("up", "ssh", "packages") and "for process" in (process := hosts.holder()):
        sys.exit(f"tests are running on the hosts ({process}): wait for them, or end them")
    if command == "up":
        hosts.up()
        print(f"up: ansible-playbook -i inventory/jw -i {INVENTORY} …")
    elif command == "down":
        hosts.down()
    elif command == "ssh":
        os.execvp("ssh", ["ssh", *hosts.SSH_OPTIONS, f"{USER}@{ADDRESSES[words[0]]}", *words[1:]])
    elif command == "fresh":
        hosts.fresh(*words)
    elif command == "save":
        hosts.save(*words)
    elif command == "load":
        hosts.fresh(label=words[0])
    elif command == "packages":
        repository.build()
        inventory.write()
    elif command in ("cut", "join"):
        hosts.ask(command)
    elif command in ("on", "off") and set(words) <= set(HOSTS):
        hosts.ask(command, *words)
    else:
        sys.exit(USAGE)


if __name__ == "__main__":
    try:
        _do(*sys.argv[1:])
    except (CannotBoot, RuntimeError, OSError) as error:
        sys.exit(f"{error}")
    except (TypeError, IndexError, KeyError):
        sys.exit(USAGE)
