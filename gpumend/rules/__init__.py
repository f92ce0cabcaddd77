"""What is wrong and what would be right: pure functions of (HostState, Wanted). No I/O, no pyinfra calls."""
