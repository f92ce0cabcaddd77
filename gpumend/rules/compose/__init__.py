"""Compose files: how services ask for GPUs, and whether that works."""
