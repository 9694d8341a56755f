"""Stage folders, locks, storage, progress: what every run needs, whatever its method or model."""
