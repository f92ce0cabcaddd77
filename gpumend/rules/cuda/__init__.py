"""GM6xx: CUDA on the host and in images."""
