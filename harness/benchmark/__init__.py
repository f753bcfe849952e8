"""One benchmark over all nodes, as the controller knows it: its request, its engines, its plan, and its playbook."""
