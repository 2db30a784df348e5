"""Show results: image files, plots, text tables and report pages."""
