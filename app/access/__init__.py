"""Who may call, and how much: API keys, tenants, quotas, allowed origins."""
