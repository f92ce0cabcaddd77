"""GM2xx: the NVIDIA container toolkit."""
