"""Make it so: thin pyinfra operations over one transaction a component."""
