"""The programs that run on hosts as root: Python 3.6, standard library only."""
