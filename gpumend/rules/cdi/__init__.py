"""GM3xx: CDI specs."""
