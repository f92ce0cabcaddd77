"""gpumend: why containers cannot use the GPU on a host, and how it is put right. See docs/architecture.md."""
