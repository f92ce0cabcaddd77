"""Measurements, run by `make bench` and never by CI: timings on a busy machine are no test."""
