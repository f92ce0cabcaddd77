"""`python -m gpumend.deploy.process ARGUMENTS`: pyinfra's own command line, as `gpumend` starts it."""

from pyinfra_cli.main import main  # first: it puts gevent in the place of threads and sockets

from gpumend.deploy.guard import without_debug_log

if __name__ == "__main__":
    without_debug_log()
    main()
