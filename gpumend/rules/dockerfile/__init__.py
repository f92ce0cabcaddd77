"""Rules over a Dockerfile and its build's context, where no host is asked: what its image lacks before it is built."""
