"""API keys, tenants, quotas, and allowed origins and hosts."""
