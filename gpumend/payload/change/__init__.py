"""What changes a host: one transaction, in one exec."""
