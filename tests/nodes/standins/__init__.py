"""STAND-INS for NVIDIA's programs and libraries, for tests only: nothing here is NVIDIA's or talks to a GPU.

They behave as the captures of the real tools (NVIDIA Container Toolkit 1.20, driver 580 on an H100) show. The
Python modules run on a node as a package of their own (`standins`), so they import nothing but each other,
the standard library of Python 3.11 and PyYAML. What a node's stand-ins pretend to be is in
/etc/gpumend-standin.json: {"toolkit": "1.17.8", "faults": ["nvidia-ctk fails"]}.
"""
