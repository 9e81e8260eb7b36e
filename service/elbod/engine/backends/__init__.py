"""Where programs run and tables live: one small protocol, one module a backend."""
