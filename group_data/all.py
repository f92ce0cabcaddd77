"""What is wanted of every host. A group's file beside this one, or a host's own data, overrides single keys.

All keys and their meaning: gpumend/schemas/wanted.schema.json. Checked before anything connects.
"""

gpumend = {
    "runtime": {"mode": "cdi", "ldconfig": "auto"},
    "restarts": "idle",
}
