"""One benchmark over all nodes, as the controller knows it: what was asked, its engines, its plan, and its playbook."""
