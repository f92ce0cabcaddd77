"""The command `gpumend`: one file a verb. Each runs the pyinfra CLI and reads its report; there is one code path."""
