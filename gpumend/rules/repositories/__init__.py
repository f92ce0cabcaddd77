"""Rules about where packages come from, and about the engines that come from there."""
