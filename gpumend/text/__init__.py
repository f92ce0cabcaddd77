"""Bytes and words: edits that keep what is not ours, versions, limits, masks."""
