"""What a user of a host, a container on it, or a host itself tries on gpumend: attacks on booted nodes."""
