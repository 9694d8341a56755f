"""Stage folders, progress and errors: everything a run needs that knows no method and no model."""
