"""The Celery workers: they run the pipeline, cut into blocks.

database (the truth) ──claim──► a worker: label or gather ──save──► database
     ▲                              ▲
     └── recovery: what was lost    └── a message that says only "there is work"
"""
