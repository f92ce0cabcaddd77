"""From findings to transactions: typed changes and steps. Pure."""
