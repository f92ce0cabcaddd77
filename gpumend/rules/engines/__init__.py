"""GM4xx and GM5xx: Docker, containerd, k3s, CRI-O, podman, GRIT and CRIU."""
