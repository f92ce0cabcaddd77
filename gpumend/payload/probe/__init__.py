"""The program that reads a host: stdlib only, Python 3.6 or newer, sent over stdin in one exec.

It is a reader of things, not a judge of them: it executes a *request* (which files, globs, commands, units,
processes and Docker endpoints to read; `gpumend/state/request.py` builds it from what each subsystem in `facts/`
asks for) and prints one line of ASCII JSON. What was read is tagged, so that nothing unread can pass for fine:

    ok | absent | denied | timeout | failed

It believes no process for its name, and executes nothing that a user could have put there (`impostor`, `executable`).

It writes nothing on the host, and starts nothing that does: it never connects to Docker's socket while no
dockerd runs (socket activation would start it), and runs `nvidia-smi` only where the request's `needs` hold
(without its device nodes nvidia-smi calls the setuid nvidia-modprobe, which creates them and loads modules).

Secrets: environment values and Docker's answers pass an allow-list *here*, on the host.
Python 3.6 is RHEL 8's and Ubuntu 18.04's (docs.python.org/3.6), hence no f-string `=`, no walrus, no dataclass.
"""
