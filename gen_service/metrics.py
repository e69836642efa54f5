"""Every Prometheus name, in one list."""
