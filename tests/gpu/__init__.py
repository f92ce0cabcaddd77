"""The whole claim on a real GPU: `make gpu` (docs/real-gpu.md is what it last saw)."""
