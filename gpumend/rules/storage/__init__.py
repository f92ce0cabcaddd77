"""GM7xx: Docker's storage, and that of Dockers inside of containers."""
