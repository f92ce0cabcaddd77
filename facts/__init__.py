"""What a host is like now: reads, never writes."""
