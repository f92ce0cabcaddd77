"""What a host is, parsed from the answer of the probe: one pure module a subsystem."""
