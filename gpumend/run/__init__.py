"""Asking hosts and carrying out changes, and the record of a run."""
