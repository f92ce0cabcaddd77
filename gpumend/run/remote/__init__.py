"""Over pyinfra: one exec each way."""
