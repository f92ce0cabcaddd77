"""The agent: a host judges itself, without pyinfra or SSH, by a timer. One file, the host's own Python, nothing in between."""
