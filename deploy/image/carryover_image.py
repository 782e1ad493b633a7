"""Where numba finds the loops that were compiled when the image was built: a folder that is only read."""

from numba.core.caching import UserProvidedCacheLocator


class ShippedCache(UserProvidedCacheLocator):
    """The folder `NUMBA_CACHE_DIR`, only read: numba itself passes over a folder that it cannot write to."""

    def ensure_cache_path(self) -> None:
        """Do not try to write."""
