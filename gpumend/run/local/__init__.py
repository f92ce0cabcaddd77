"""On this very host: no pyinfra, no paramiko."""
