"""Label sets exported: files for machines, and pages for people."""
